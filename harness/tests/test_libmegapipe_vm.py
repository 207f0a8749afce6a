# SPDX-License-Identifier: MIT
"""libmegapipe on the real kernel: its test programs in the guest, dmesg read after each.

this machine --- SSH ---> guest: vm_*.c, both ends of their connections over the guest's loopback
"""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from kernel_log import complaints
from programs import BIN, ROOT, build

from megabench.host import Host, Process
from megabench.testbed import Testbed

PROGRAMS = sorted(path.stem for path in (ROOT / "libmegapipe" / "test").glob("vm_*.c"))
GUEST = "/run/megabench/libmegapipe"
TIMEOUT_S = 300.0

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def guest(testbed: Testbed) -> Host:
    """The server of the testbed, with a place for the programs."""
    build("harness/load")
    subprocess.run(
        ["make", "-s", "-C", str(ROOT / "libmegapipe"), "all", "vm-tests"], check=True, timeout=300
    )
    testbed.server.run(["mkdir", "-p", GUEST], timeout=30)
    return testbed.server


@pytest.mark.parametrize("build_of", ["test", "test-asan"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_in_guest(guest: Host, name: str, build_of: str) -> None:
    """Each program as a program's author builds it, and under ASan and UBSan."""
    guest.put(BIN / "libmegapipe" / build_of / name, f"{GUEST}/{name}")
    complaints(guest)
    done = guest.run([f"{GUEST}/{name}"], timeout=TIMEOUT_S, check=False)
    assert not complaints(guest)
    if done.exit_status == 77:
        pytest.skip(done.stdout.strip().removeprefix("# skipped: "))
    assert done.exit_status == 0, done.stdout + done.stderr


def test_example_serves(guest: Host, testbed: Testbed) -> None:
    """The ping-pong example under the load generator's checks, from the testbed's client."""
    port = 9000
    guest.put(BIN / "libmegapipe" / "pingpong", f"{GUEST}/pingpong")
    server = guest.start([f"{GUEST}/pingpong", str(port), "2"], log=Path(os.devnull))
    try:
        wait_for_listener(guest, port)
        load = "--connections 16 --transactions 4 --size 512 --count 2000 --warmup 0"
        argv = [str(BIN / "megabench-load"), "--workload", "pingpong", *load.split()]
        argv += ["--target", f"{testbed.server_address}:{port}"]
        done = testbed.clients[0].run(argv, timeout=TIMEOUT_S)
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["transactions"] == 2000
        assert not any(result["errors"].values()), result["errors"]
        assert not complaints(guest)
    finally:
        server.kill()


def test_info__shows_live_channels(guest: Host) -> None:
    """megapipe-info finds the example's two channels, and what the kernel tells of them."""
    port = 9001
    guest.put(ROOT / "build/bin/megapipe-info", f"{GUEST}/megapipe-info")
    guest.put(BIN / "libmegapipe" / "pingpong", f"{GUEST}/pingpong")
    server = guest.start([f"{GUEST}/pingpong", str(port), "2"], log=Path(os.devnull))
    try:
        wait_for_listener(guest, port)
        deadline = time.monotonic() + 30
        while True:
            done = guest.run([f"{GUEST}/megapipe-info", "--json"], timeout=60)
            answer = json.loads(done.stdout)
            assert answer["available"]
            found = [channel for channel in answer["channels"] if channel["command"] == "pingpong"]
            if len(found) == 2:
                break
            assert time.monotonic() < deadline, answer
        assert len({channel["fd"] for channel in found}) == 2
        assert answer["abi_version"] == answer["library"]["abi_version"] == 2
        assert answer["commands"] >= answer["library"]["commands"]
        assert answer["max_handles"] > 0
        assert all(channel["fields"].get("handles") for channel in found), found
        plain = guest.run([f"{GUEST}/megapipe-info"], timeout=60).stdout
        assert plain.count("pingpong[") == 2
    finally:
        server.kill()


def test_tools__first_thread_has_ended(guest: Host) -> None:
    """megapipe-info and megapipe-top see the channels of a process whose main() has left."""
    port = 9002
    for tool in ("megapipe-info", "megapipe-top"):
        guest.put(ROOT / "build/bin" / tool, f"{GUEST}/{tool}")
    guest.put(BIN / "libmegapipe" / "porting" / "megapipe", f"{GUEST}/leaves-main")
    argv = [f"{GUEST}/leaves-main", str(port), "2", "PBL"]
    server = guest.start(argv, log=Path(os.devnull))
    try:
        wait_for_listener(guest, port)
        deadline = time.monotonic() + 30
        for look in (["megapipe-info"], ["megapipe-top", "--once", "--delay", "0.1"]):
            while True:
                done = guest.run([f"{GUEST}/{look[0]}", *look[1:], "--json"], timeout=60)
                channels = json.loads(done.stdout)["channels"]
                found = [one for one in channels if one["command"] == "leaves-main"]
                if len(found) == 2:
                    break
                assert time.monotonic() < deadline, done.stdout
            assert len({one["fd"] for one in found}) == 2
    finally:
        server.kill()


def test_top__follows_the_counters(guest: Host, testbed: Testbed) -> None:
    """megapipe-top counts accepts, completions and migrations while they happen.

    load ---> thread 1, slow: leaves its partition when 2 connections wait there
         ---> thread 2: gets those
    """
    port, connections = 9003, 600
    guest.put(ROOT / "build/bin/megapipe-top", f"{GUEST}/megapipe-top")
    guest.put(BIN / "pingpong-server", f"{GUEST}/counted")
    argv = [f"{GUEST}/counted", "--api", "megapipe", "--threads", "2", "--port", str(port)]
    argv += ["--address", testbed.server_address, "--slow-work", "3000000", "--shed", "2"]
    complaints(guest)
    server = guest.start(argv, log=Path(os.devnull))
    top = None
    try:
        assert json.loads(server.readline(60))["event"] == "ready"
        top = guest.start(
            [f"{GUEST}/megapipe-top", "--delay", "0.5", "--json"], log=Path(os.devnull)
        )
        before = channels(top, "counted")
        load = f"--connections 32 --transactions 1 --count {connections} --warmup 0"
        argv = [str(BIN / "megabench-load"), "--workload", "pingpong", *load.split()]
        argv += ["--target", f"{testbed.server_address}:{port}"]
        seen: list[list[dict[str, float]]] = [before]
        accepted = total(before, "accepts")
        # Whether two wait while the slow one looks is chance.
        for _ in range(5):
            done = testbed.clients[0].run(argv, timeout=TIMEOUT_S)
            last = json.loads(done.stdout.splitlines()[-1])
            assert not any(last["errors"].values()), done.stdout
            accepted += connections
            deadline = time.monotonic() + 60
            while total(seen[-1], "accepts") < accepted:
                assert time.monotonic() < deadline, seen[-1]
                seen.append(channels(top, "counted"))
            if total(seen[-1], "migrated_in") > total(before, "migrated_in"):
                break
        for key in ("accepts", "completions", "migrated_in"):
            assert total(seen[-1], key) > total(before, key), (key, seen[-1])
            assert any(total(one, f"{key}_s") > 0 for one in seen[1:]), key
        # Each connection was accepted, and its message read; its end may be yet to come.
        new = {key: total(seen[-1], key) - total(before, key) for key in ("accepts", "completions")}
        assert new["completions"] >= 2 * new["accepts"]
        assert not complaints(guest)
    finally:
        if top:
            top.kill()
        server.kill()


def channels(top: Process, command: str) -> list[dict[str, float]]:
    """The two channels of that command in the next line of megapipe-top that has them."""
    for _ in range(60):
        answer = json.loads(top.readline(60))
        found = [channel for channel in answer["channels"] if channel["command"] == command]
        if len(found) == 2:
            return found
    raise AssertionError(answer)


def total(channels: list[dict[str, float]], key: str) -> float:
    return sum(channel[key] for channel in channels)


def wait_for_listener(guest: Host, port: int) -> None:
    deadline = time.monotonic() + 30
    listening = re.compile(rf"^ *\d+: \w+:{port:04X} \w+:0000 0A", re.M)
    while not listening.search(guest.read_text("/proc/net/tcp6")):
        assert time.monotonic() < deadline
