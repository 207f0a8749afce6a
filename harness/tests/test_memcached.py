# SPDX-License-Identifier: MIT
"""memcached untouched and on libmegapipe: they answer the same.

memcached_client.py --+--> memcached-stock       both on this machine, without MegaPipe,
                      +--> memcached-megapipe    or both in the guest, with it

Needs build/bin/memcached-*: make memcached.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_log import complaints
from programs import BIN

from megabench.host import Host
from megabench.testbed import Testbed

CLIENT = Path(__file__).with_name("memcached_client.py")
STOCK, MEGAPIPE = BIN / "memcached-stock", BIN / "memcached-megapipe"
GUEST = "/run/megabench/memcached"
PORTS = {"stock": 21300, "megapipe": 21301}
OPTIONS = "-u root -U 0 -t 4 -c 4096 -v"
DEADLINE_S = 30.0

pytestmark = pytest.mark.skipif(not MEGAPIPE.exists(), reason="not built: make memcached")
without_megapipe = pytest.mark.skipif(
    Path("/dev/megapipe").exists(), reason="this kernel has MegaPipe"
)


class Server:
    def __init__(self, program: Path, port: int, *options: str) -> None:
        argv = [str(program), "-l", "127.0.0.1", "-p", str(port), *OPTIONS.split(), *options]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the server)
        self.process = subprocess.Popen(argv, stderr=self.log)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()


@contextmanager
def serving(program: Path, port: int, *options: str) -> Iterator[Server]:
    server = Server(program, port, *options)
    try:
        wait_for("127.0.0.1", port)
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.log.close()


def wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection((host, port), timeout=DEADLINE_S).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def stats(port: int, what: str) -> dict[str, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock:
        sock.sendall(f"stats {what}\r\n".encode())
        text = b""
        while not text.endswith(b"END\r\n"):
            text += sock.recv(65536)
    lines = (line.split(" ", 2) for line in text.decode().splitlines())
    return {words[1]: words[2] for words in lines if words[0] == "STAT"}


def test_answers__the_same_on_libevent() -> None:
    options = ("-o", "io_engine=libevent")
    with serving(STOCK, PORTS["stock"]), serving(MEGAPIPE, PORTS["megapipe"], *options):
        done = subprocess.run(
            [sys.executable, str(CLIENT), *(f"127.0.0.1:{port}" for port in PORTS.values())],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def test_shutdown__graceful() -> None:
    with serving(MEGAPIPE, PORTS["megapipe"]) as server:
        server.process.send_signal(signal.SIGUSR1)
        assert server.process.wait(DEADLINE_S) == 0


@without_megapipe
def test_engine__auto_falls_back_and_says_why() -> None:
    with serving(MEGAPIPE, PORTS["megapipe"]) as server:
        assert stats(PORTS["megapipe"], "settings")["io_engine"] == "libevent"
        assert stats(PORTS["megapipe"], "io_engine") == {"io_engine": "libevent"}
        assert re.search("io_engine: libevent, because: .* no MegaPipe", server.said())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        pytest.param("io_engine=megapipe", "has no MegaPipe", marks=without_megapipe),
        ("io_engine=epoll", "io_engine must be megapipe, libevent or auto"),
        ("megapipe_batch=0", "megapipe_batch must be from 1 to "),
        ("megapipe_batch=1000000", "megapipe_batch must be from 1 to "),
    ],
)
def test_engine__refusals(option: str, said: str) -> None:
    argv = [str(MEGAPIPE), "-p", "0", *OPTIONS.split(), "-o", option]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode != 0
    assert said in done.stderr


# ---- In the guest --------------------------------------------------------------


@pytest.fixture(scope="module")
def guest(testbed: Testbed) -> Host:
    testbed.server.run(["mkdir", "-p", GUEST], timeout=30)
    for program in (STOCK, MEGAPIPE):
        testbed.server.put(program, f"{GUEST}/{program.name}")
    return testbed.server


def listening(guest: Host, port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in guest.read_text("/proc/net/tcp")


@pytest.mark.vm
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-o", "megapipe_batch=1"],
        ["-o", "no_megapipe_lwsocket"],
        ["-o", "no_megapipe_partition"],
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_answers__the_same_on_megapipe(guest: Host, testbed: Testbed, options: list[str]) -> None:
    address = testbed.server_address
    complaints(guest)
    servers = []
    for system, port in PORTS.items():
        extra = ["-o", "io_engine=megapipe", *options] if system == "megapipe" else []
        argv = [f"{GUEST}/memcached-{system}", "-l", "0.0.0.0", "-p", str(port)]
        servers.append(guest.start([*argv, *OPTIONS.split(), *extra], log=Path(os.devnull)))
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not all(listening(guest, port) for port in PORTS.values()):
            assert time.monotonic() < deadline
        # The client's machine has this Python, whose packages it needs.
        argv = [sys.executable, str(CLIENT), "--idle", "1000"]
        argv += [f"{address}:{port}" for port in PORTS.values()]
        done = testbed.clients[0].run(argv, timeout=1200, check=False)
        assert done.exit_status == 0, done.stdout + done.stderr
        assert not complaints(guest)
    finally:
        for server in servers:
            server.kill()
