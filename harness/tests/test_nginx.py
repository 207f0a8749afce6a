# SPDX-License-Identifier: MIT
"""nginx untouched and on libmegapipe: they answer the same.

nginx_client.py --+--> nginx-stock       both on this machine, without MegaPipe,
                  +--> nginx-megapipe    or both in the guest, with it

nginx_server.py configures them. Needs build/bin/nginx-*: make nginx.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_log import complaints
from programs import BIN

from megabench.host import Host
from megabench.testbed import Testbed

CLIENT = Path(__file__).with_name("nginx_client.py")
SERVER = Path(__file__).with_name("nginx_server.py")
BACKENDS = Path(__file__).with_name("nginx_backends.py")
STOCK, MEGAPIPE, ASAN = BIN / "nginx-stock", BIN / "nginx-megapipe", BIN / "nginx-asan"
GUEST = "/run/megabench/nginx"
PORTS = {"stock": 21400, "megapipe": 21440}
DEADLINE_S = 60.0
BOOT_S = 180.0  # until a server in the guest, which is emulated, has begun or ended
FEW = 100  # connections, for a server that is to have too few
# Of upstream's own files there are findings in what has always been so.
FINDING = re.compile(r"ERROR: AddressSanitizer|megapipe\w*\.[ch]:\d+:\d+: runtime error")

# The scenario shrinking_file deserves its alert.
ALARM = re.compile(r"\[(alert|emerg)\](?!.* was truncated )")

pytestmark = pytest.mark.skipif(not MEGAPIPE.exists(), reason="not built: make nginx")
thorough = pytest.mark.skipif("TEST_APPS" not in os.environ, reason="make test-apps")
without_megapipe = pytest.mark.skipif(
    Path("/dev/megapipe").exists(), reason="this kernel has MegaPipe"
)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextmanager
def serving(program: Path, folder: Path, port: int, events: str = "") -> Iterator[None]:
    argv = [sys.executable, str(SERVER), "--events", events, str(program), str(folder), str(port)]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # pools are not freed at exit
    server = subprocess.Popen(argv, env=environment)
    try:
        wait_for(port)
        yield
    finally:
        server.terminate()
        server.wait(DEADLINE_S)


def check(program: Path, folder: Path, events: str) -> subprocess.CompletedProcess[str]:
    """What nginx -t says of a small configuration."""
    (folder / "conf").write_text(
        f"error_log error.log info; pid pid; events {{ {events} }}\n"
        "http { access_log off; server { listen 127.0.0.1:21499; } }\n"
    )
    (folder / "logs").mkdir(exist_ok=True)
    argv = [str(program), "-t", "-p", str(folder), "-c", "conf", "-e", "error.log"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_build__says_so() -> None:
    said = {
        program: subprocess.run(
            [str(program), "-V"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
        ).stderr
        for program in (STOCK, MEGAPIPE)
    }
    assert "--with-megapipe" in said[MEGAPIPE]
    assert "megapipe" not in said[STOCK]


@pytest.mark.skipif(os.geteuid() != 0, reason="the configuration's workers run as root")
@pytest.mark.parametrize("program", [MEGAPIPE, ASAN], ids=["ordinary", "sanitized"])
def test_answers__the_same_on_epoll(tmp_path: Path, program: Path) -> None:
    if not program.exists():
        pytest.skip("not built: make -C apps/nginx asan")
    with (
        serving(STOCK, tmp_path / "stock", PORTS["stock"]),
        serving(program, tmp_path / "megapipe", PORTS["megapipe"], "use epoll;"),
    ):
        argv = [sys.executable, str(CLIENT), *(f"127.0.0.1:{port}" for port in PORTS.values())]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "megapipe" / "error.log").read_text(errors="replace")
    assert 'using the "epoll" event method' in log
    assert "exited on signal" not in log
    assert not FINDING.search(log)


@without_megapipe
def test_method__falls_back_and_says_why(tmp_path: Path) -> None:
    assert check(MEGAPIPE, tmp_path, "").returncode == 0
    log = (tmp_path / "error.log").read_text()
    assert re.search("not using megapipe: .* no MegaPipe", log), log


@pytest.mark.parametrize(
    ("events", "said"),
    [
        pytest.param("use megapipe;", '"use megapipe" is not possible', marks=without_megapipe),
        ("megapipe_batch 0;", 'must be "off" or a number from 1 to 1024'),
        ("megapipe_batch 2000;", 'must be "off" or a number from 1 to 1024'),
        ("megapipe_lwsocket maybe;", 'it must be "on" or "off"'),
    ],
)
def test_method__refusals(tmp_path: Path, events: str, said: str) -> None:
    done = check(MEGAPIPE, tmp_path, events)
    assert done.returncode != 0
    assert said in done.stderr


# ---- In the guest --------------------------------------------------------------


@pytest.fixture(scope="module")
def guest(testbed: Testbed) -> Host:
    testbed.server.run(["mkdir", "-p", GUEST], timeout=30)
    for file in (STOCK, MEGAPIPE, ASAN, SERVER, BACKENDS):
        if file.exists():
            testbed.server.put(file, f"{GUEST}/{file.name}")
    return testbed.server


def listening(guest: Host, port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in guest.read_text("/proc/net/tcp")


@contextmanager
def serving_in_guest(
    guest: Host, systems: dict[str, str], *more: str, program: str = "nginx-megapipe"
) -> Iterator[None]:
    """`systems`: the text of the events block by system; `more`: the servers' other arguments."""
    servers = []
    try:
        for system, events in systems.items():
            path = f"{GUEST}/{program if system == 'megapipe' else 'nginx-stock'}"
            argv = ["env", "ASAN_OPTIONS=detect_leaks=0", "python3", f"{GUEST}/{SERVER.name}"]
            argv += [*more, "--events", events, path, f"{GUEST}/{system}", str(PORTS[system])]
            servers.append(guest.start(argv, log=Path(os.devnull)))
        deadline = time.monotonic() + BOOT_S
        while not all(listening(guest, PORTS[system]) for system in systems):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield
    finally:
        for server in servers:
            server.signal("TERM")
        for server in servers:
            server.wait(BOOT_S)


def demand(testbed: Testbed, *options: str, systems: Iterable[str] = PORTS) -> None:
    """Run the demanding client against the servers in the guest."""
    argv = [sys.executable, str(CLIENT), *options]
    argv += [f"{testbed.server_address}:{PORTS[system]}" for system in systems]
    done = testbed.clients[0].run(argv, timeout=2400, check=False)
    assert done.exit_status == 0, done.stdout + done.stderr


def workers(guest: Host) -> list[str]:
    """Their process numbers."""
    find = f"pgrep -P $(cat {GUEST}/megapipe/nginx.pid) -f 'worker process'"
    return guest.run(["sh", "-c", find], timeout=60).stdout.split()


def holdings(guest: Host) -> list[str]:
    """What the workers have: descriptors, and what is in their channels."""
    look = "ls /proc/$0/fd | wc -l; cd /proc/$0/fdinfo; "
    look += "grep -hE '^(handles|lwsockets):' $(grep -l '^channel:' *)"
    return [guest.run(["sh", "-c", look, pid], timeout=60).stdout for pid in workers(guest)]


def resident_kib(guest: Host) -> int:
    text = "".join(guest.read_text(f"/proc/{pid}/status") for pid in workers(guest))
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+) kB", text))


SINGLE = "master_process off;"
RESOLUTION = "timer_resolution 50ms;"


@pytest.mark.vm
@pytest.mark.parametrize(
    ("main", "events", "program"),
    [
        pytest.param("", "", "nginx-megapipe", id="default"),
        pytest.param("", "megapipe_batch off;", "nginx-megapipe", marks=thorough, id="batch off"),
        pytest.param(
            "", "megapipe_lwsocket off;", "nginx-megapipe", marks=thorough, id="lwsocket off"
        ),
        pytest.param(SINGLE, "", "nginx-megapipe", marks=thorough, id="single process"),
        pytest.param(RESOLUTION, "", "nginx-megapipe", marks=thorough, id="timer resolution"),
        pytest.param("", "", "nginx-asan", marks=thorough, id="sanitized"),
    ],
)
def test_answers__the_same_on_megapipe(
    guest: Host, testbed: Testbed, main: str, events: str, program: str
) -> None:
    if not (BIN / program).exists():
        pytest.skip(f"no {program}")
    complaints(guest)
    systems = {"stock": "", "megapipe": events}
    with serving_in_guest(guest, systems, "--main", main, program=program):
        demand(testbed, "--idle", "1000" if "TEST_APPS" in os.environ else "200")
        log = guest.read_text(f"{GUEST}/megapipe/error.log")
    assert 'using the "megapipe" event method' in log
    assert "exited on signal" not in log
    assert not ALARM.search(log)
    assert not FINDING.search(log)
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_load__leaves_nothing_behind(guest: Host, testbed: Testbed) -> None:
    """10,000 idle connections, all there is besides, 1 GiB: twice, so that caches are full."""
    address, port = testbed.server_address, PORTS["megapipe"]
    complaints(guest)
    with serving_in_guest(guest, {"stock": "", "megapipe": ""}):
        found = []
        for _ in range(2):
            demand(testbed, "--idle", "10000", "--long")
            # What is left of a connection that lingers has gone when this has answered.
            argv = [sys.executable, str(CLIENT), "--only", "settled"]
            testbed.clients[0].run([*argv, *[f"{address}:{port}"] * 2], timeout=300)
            found.append((holdings(guest), resident_kib(guest)))
    assert found[0][0] == found[1][0]
    assert found[1][1] < 1.1 * found[0][1] + 2048
    assert not complaints(guest)


@pytest.mark.vm
def test_connections__exhausted(guest: Host, testbed: Testbed) -> None:
    complaints(guest)
    with serving_in_guest(guest, {"stock": "", "megapipe": ""}, "--connections", str(FEW)):
        demand(testbed, "--exhausted", str(FEW))
        log = guest.read_text(f"{GUEST}/megapipe/error.log")
    assert "worker_connections are not enough" in log
    assert not complaints(guest)


@pytest.mark.vm
def test_killed_worker__queued_connections_are_taken_over(guest: Host, testbed: Testbed) -> None:
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}):
        victim = workers(guest)[0]
        guest.run(["kill", "-STOP", victim], timeout=60)
        argv = [sys.executable, str(CLIENT), "--queued", "60"]
        argv += [f"{testbed.server_address}:{PORTS['megapipe']}"]
        client = testbed.clients[0].start(argv, log=Path(os.devnull))
        assert client.readline(60) == "waiting"
        time.sleep(2)
        guest.run(["kill", "-KILL", victim], timeout=60)
        assert client.wait(120) == 0
        stats = [guest.run(["sh", "-c", "cd /proc/$0/fdinfo; grep -h '^migrated_in' *", pid],
                           timeout=60).stdout for pid in workers(guest)]  # fmt: skip
    assert sum(int(text.split()[1]) for text in stats) > 0, stats
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_reload_and_upgrade__no_request_fails(guest: Host, testbed: Testbed) -> None:
    folder = f"{GUEST}/megapipe"
    end_old = f"i=0; until [ -s {folder}/nginx.pid.oldbin ] && [ -s {folder}/nginx.pid ]; do "
    end_old += "sleep 0.2; i=$((i+1)); [ $i -lt 150 ] || exit 1; done; "
    end_old += f"kill -QUIT $(cat {folder}/nginx.pid.oldbin)"
    reload = f"kill -HUP $(cat {folder}/nginx.pid)"
    to_epoll = f"sed -i 's/^events {{/events {{ use epoll;/' {folder}/conf"
    back = f"sed -i 's/ use epoll;//' {folder}/conf"
    steps = [reload, f"{to_epoll}; {reload}", f"{back}; {reload}"]
    steps += [f"kill -USR2 $(cat {folder}/nginx.pid)", end_old]
    steps += [f"kill -USR1 $(cat {folder}/nginx.pid)"]
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}):
        argv = [sys.executable, str(CLIENT), "--load", "30"]
        argv += [f"{testbed.server_address}:{PORTS['megapipe']}"]
        client = testbed.clients[0].start(argv, log=Path(os.devnull))
        for step in steps:
            time.sleep(3)
            guest.run(["sh", "-c", step], timeout=60)
        assert client.wait(120) == 0
        log = guest.read_text(f"{folder}/error.log")
    assert log.count('using the "megapipe" event method') >= 3
    assert log.count('using the "epoll" event method') == 1
    assert not ALARM.search(log)
    assert not complaints(guest)
