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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kernel_log import complaints
from nginx_server import PORT_NAMES
from programs import BIN

from megabench import paths
from megabench.errors import CommandError, HarnessError
from megabench.host import Host, Process
from megabench.testbed import Testbed

CLIENT = Path(__file__).with_name("nginx_client.py")
SERVER = Path(__file__).with_name("nginx_server.py")
BACKENDS = Path(__file__).with_name("nginx_backends.py")
STOCK, MEGAPIPE, ASAN = BIN / "nginx-stock", BIN / "nginx-megapipe", BIN / "nginx-asan"
DEFAULT = BIN / "nginx-default"  # patched, and configured as the untouched one
GUEST = "/run/megabench/nginx"
PORTS = {"stock": 21400, "megapipe": 21440}
DEADLINE_S = 60.0
BOOT_S = 180.0  # until a server in the guest, which is emulated, has begun or ended
FEW = 100  # connections, for a server that is to have too few
HELD = 64  # connections, which are looked at
# Of upstream's own files there are findings in what has always been so.
FINDING = re.compile(r"ERROR: AddressSanitizer|megapipe\w*\.[ch]:\d+:\d+: runtime error")

# The scenario shrinking_file deserves its alert.
ALARM = re.compile(r"\[(alert|emerg)\](?!.* was truncated )")

pytestmark = pytest.mark.skipif(not MEGAPIPE.exists(), reason="not built: make nginx")
thorough = pytest.mark.skipif("TEST_APPS" not in os.environ, reason="make test-apps")
without_megapipe = pytest.mark.skipif(
    Path("/dev/megapipe").exists(), reason="this kernel has MegaPipe"
)


def found(pattern: re.Pattern[str], log: str) -> list[str]:
    return [line for line in log.splitlines() if pattern.search(line)]


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


def places(tree: Path, folder: str, word: str, own: str) -> tuple[int, int]:
    """How many files name it, and how many lines of them: its own files left out."""
    files = [file for file in (tree / folder).rglob("*") if file.is_file()]
    counts = [
        sum(word in line.lower() for line in file.read_text(errors="replace").splitlines())
        for file in files
        if own not in str(file.relative_to(tree))
    ]
    return sum(map(bool, counts)), sum(counts)


def test_places__fewer_than_epolls() -> None:
    """Upstream's files name MegaPipe in fewer places than epoll; README.md has the numbers."""
    stock, ported = BIN.parent / "nginx-stock", BIN.parent / "nginx-megapipe"
    text = (paths.HARNESS.parent / "apps/nginx/README.md").read_text().replace("\n", " ")
    for folder, said in (("src", "{0} files and {1} lines"), ("auto", "{1} lines of {0} files")):
        epoll = places(stock, folder, "epoll", "ngx_epoll_module.c")
        megapipe = places(ported, folder, "megapipe", "megapipe")
        assert megapipe < epoll
        assert megapipe[1] < epoll[1]
        for found in (epoll, megapipe):
            assert said.format(*found) in text, (folder, found)


@pytest.mark.skipif(os.geteuid() != 0, reason="the configuration's workers run as root")
@pytest.mark.parametrize(
    "program", [MEGAPIPE, DEFAULT, ASAN], ids=["ordinary", "default build", "sanitized"]
)
def test_answers__the_same_on_epoll(tmp_path: Path, program: Path) -> None:
    if not program.exists():
        pytest.skip("not built: make -C apps/nginx asan check")
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
    assert not found(FINDING, log)


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
            with suppress(CommandError):  # it has ended
                server.signal("TERM")
        for server in servers:
            server.wait(BOOT_S)


def demand(testbed: Testbed, *options: str, systems: Iterable[str] = PORTS) -> None:
    """Run the demanding client against the servers in the guest."""
    argv = [sys.executable, str(CLIENT), *options]
    argv += [f"{testbed.server_address}:{PORTS[system]}" for system in systems]
    done = testbed.clients[0].run(argv, timeout=2400, check=False)
    assert done.exit_status == 0, done.stdout + done.stderr


def client(testbed: Testbed, *options: str) -> Process:
    """The demanding client in another role, under way, against the server on MegaPipe."""
    argv = [sys.executable, str(CLIENT), *options]
    argv += [f"{testbed.server_address}:{PORTS['megapipe']}"]
    process = testbed.clients[0].start(argv, log=Path(os.devnull))
    assert process.readline(DEADLINE_S) == "waiting"
    return process


def end(process: Process) -> None:
    """Let it come to its end, which must be a good one."""
    process.say("end")
    assert process.wait(2 * DEADLINE_S) == 0, said(process)


def said(process: Process) -> list[str]:
    """The lines that nobody has read, of a program that has ended."""
    lines = []
    with suppress(HarnessError):
        while True:
            lines.append(process.readline(DEADLINE_S))
    return lines


def eventually(is_so: Callable[[], bool], within_s: float = 2 * DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def shell(guest: Host, script: str) -> str:
    """What it says; $pid is the server's, and it runs in the server's folder."""
    script = f"cd {GUEST}/megapipe; pid=$(cat nginx.pid 2>/dev/null); {script}"
    return guest.run(["sh", "-c", script], timeout=DEADLINE_S).stdout


def is_alive(guest: Host, pid: str) -> bool:
    # The guest's first process buries nobody.
    return shell(guest, f"grep -c zombie /proc/{pid}/status || true") == "0\n"


def workers(guest: Host) -> list[str]:
    """Their process numbers, but for those that are shutting down."""
    found = shell(guest, "pgrep -P $pid -af 'worker process' || echo $pid").splitlines()
    return [line.split()[0] for line in found if "shutting down" not in line]


def channels(guest: Host) -> list[dict[str, int]]:
    """What the kernel tells of the workers' channels."""
    look = "cd /proc/$0/fdinfo; cat $(grep -l '^channel:' *)"
    told = [guest.run(["sh", "-c", look, pid], timeout=60).stdout for pid in workers(guest)]
    return [{k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+)$", text, re.M)} for text in told]


def total(guest: Host, counter: str) -> int:
    return sum(channel[counter] for channel in channels(guest))


def holdings(guest: Host) -> dict[str, int]:
    """What the workers have, but for files that they keep open (open_file_cache), since which of
    them was asked for which is chance; and what the kernel has of TCP."""
    of_all = "find /proc/%s/fd -type l ! -lname '*/www/*' | wc -l"
    descriptors = [shell(guest, of_all % pid) for pid in workers(guest)]
    return {
        "descriptors": sum(map(int, descriptors)),
        "handles": total(guest, "handles"),
        "lwsockets": total(guest, "lwsockets"),
        **{name: n for name, n in sockets(guest).items() if name != "used"},
    }


def back_to(first: dict[str, int], guest: Host) -> None:
    """Wait until the workers hold no more of anything."""
    deadline = time.monotonic() + 2 * DEADLINE_S
    while more := {
        name: (n, first[name]) for name, n in holdings(guest).items() if n > first[name]
    }:
        assert time.monotonic() < deadline, more
        time.sleep(0.5)


def sockets(guest: Host) -> dict[str, int]:
    """The kernel's own count: all, and TCP's but for those in TIME_WAIT."""
    text = guest.read_text("/proc/net/sockstat")
    found = {"used": int(re.findall(r"sockets: used (\d+)", text)[0])}
    for name in ("inuse", "orphan", "alloc"):
        found[name] = int(re.findall(rf"TCP:.* {name} (\d+)", text)[0])
    return found


def slab_kib(guest: Host) -> int:
    """Memory of the kernel's objects, less what it would give back if it were needed."""
    guest.run(["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"], timeout=DEADLINE_S)
    return int(re.findall(r"Slab:\s+(\d+) kB", guest.read_text("/proc/meminfo"))[0])


def resident_kib(guest: Host) -> int:
    text = "".join(guest.read_text(f"/proc/{pid}/status") for pid in workers(guest))
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+) kB", text))


def fast_opened(guest: Host) -> int:
    """Connections that have come with data in their SYN."""
    lines = [line.split() for line in guest.read_text("/proc/net/netstat").splitlines()]
    values = {k: v for names, row in zip(lines[::2], lines[1::2], strict=True)
              for k, v in zip(names, row, strict=True)}  # fmt: skip
    return int(values["TCPFastOpenPassive"])


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
    guest.run(["sysctl", "-qw", "net.ipv4.tcp_fastopen=3"], timeout=DEADLINE_S)
    systems = {"stock": "", "megapipe": events}
    with serving_in_guest(guest, systems, "--main", main, program=program):
        before = fast_opened(guest)
        demand(testbed, "--idle", "1000" if "TEST_APPS" in os.environ else "200")
        assert fast_opened(guest) >= before + 4, "data that comes with the SYN"
        for port, lwsockets in (("port", "lwsocket off" not in events), ("tls", False)):
            eventually(lambda: total(guest, "lwsockets") == 0)
            holder = client(testbed, "--hold", str(HELD), "--hold-port", port)
            held = channels(guest)
            end(holder)
            assert sum(channel["handles"] for channel in held) > HELD, held
            assert sum(channel["lwsockets"] for channel in held) == HELD * lwsockets, held
        assert all(channel["accepts"] for channel in held), held
        log = guest.read_text(f"{GUEST}/megapipe/error.log")
    assert 'using the "megapipe" event method' in log
    assert "exited on signal" not in log
    assert not found(ALARM, log)
    assert not found(FINDING, log)
    assert not complaints(guest)


@pytest.mark.vm
def test_connections__wake_the_worker_that_accepts_them(guest: Host, testbed: Testbed) -> None:
    """As many workers as CPUs, and each hears of its own connections only."""
    count = int(guest.run(["nproc"], timeout=DEADLINE_S).stdout)
    edit = f"s/^worker_processes .*/worker_processes {count};/"
    made = 200
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}):
        shell(guest, f"sed -i '{edit}' conf; kill -HUP $pid")
        eventually(lambda: len(workers(guest)) == count)
        eventually(lambda: all(channel["listeners"] for channel in channels(guest)))
        before = channels(guest)
        holder = client(testbed, "--hold", str(made))
        after = channels(guest)
        end(holder)
    grown = [
        {name: new[name] - old[name] for name in ("accepts", "accepts_foreign", "sleeps")}
        for old, new in zip(before, after, strict=True)
    ]
    assert sum(one["accepts"] for one in grown) == made, grown
    assert not any(one["accepts_foreign"] for one in grown), grown
    # For the connection, for its request, for what was written. A herd would wake for all there
    # are, so that whoever has accepted fewest has woken in vain.
    assert all(one["sleeps"] <= 5 * one["accepts"] + 20 for one in grown), grown
    assert not complaints(guest)


@pytest.mark.vm
def test_backlog__is_each_workers(guest: Host, testbed: Testbed) -> None:
    """While nobody accepts, a queue takes one connection more than its backlog, which is 8; and one
    that comes while the last one's handshake still ends."""
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}):
        pids = " ".join(workers(guest))
        shell(guest, f"kill -STOP {pids}")
        filler = client(testbed, "--fill")
        count = int(filler.readline(DEADLINE_S))
        shell(guest, f"kill -CONT {pids}")
        end(filler)
    assert 8 + 1 <= count / len(pids.split()) <= 8 + 2
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_load__leaves_nothing_behind(guest: Host, testbed: Testbed) -> None:
    """1 GiB, 10,000 idle connections, all there is besides. Caches are full after the first time,
    and a heap after the second."""
    address, port = testbed.server_address, PORTS["megapipe"]
    complaints(guest)
    at_start, slab_at_start = sockets(guest), slab_kib(guest)
    with serving_in_guest(guest, {"stock": "", "megapipe": ""}):
        demand(testbed, "--only", "huge_download")
        first: dict[str, int] = {}
        memory = []
        for _ in range(3):
            demand(testbed, "--idle", "10000")
            # What is left of a connection that lingers has gone when this has answered.
            argv = [sys.executable, str(CLIENT), "--only", "settled"]
            testbed.clients[0].run([*argv, *[f"{address}:{port}"] * 2], timeout=300)
            eventually(lambda: total(guest, "lwsockets") == 0)
            # Kept upstreams and cached files, of the first round too, go some time later.
            if not first:
                first.update(holdings(guest))
            back_to(first, guest)
            memory.append((resident_kib(guest), slab_kib(guest)))
    eventually(lambda: sockets(guest) == at_start)
    print(f"resident and slab after each round: {memory}; slab {slab_at_start} {slab_kib(guest)}")
    for second, third in zip(*memory[1:], strict=True):
        assert third < 1.03 * second + 1024, memory
    # A fresh guest's own caches (TCP's, files', radix trees) grow by some MiB in the first round.
    assert slab_kib(guest) < memory[0][1], (slab_at_start, memory)
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_slow_readers__get_all(guest: Host, testbed: Testbed) -> None:
    """What nginx has said to be sent, of TCP and of a UNIX socket, if they go on reading."""
    complaints(guest)
    with serving_in_guest(guest, {"stock": "", "megapipe": ""}):
        demand(testbed, "--only", "patient_readers")
        eventually(lambda: total(guest, "lwsockets") == 0)
        log = guest.read_text(f"{GUEST}/megapipe/error.log")
    assert not found(ALARM, log)
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
        waiting = client(testbed, "--queued", "60")
        time.sleep(2)
        guest.run(["kill", "-KILL", victim], timeout=60)
        assert waiting.wait(120) == 0
        assert total(guest, "migrated_in") > 0
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_reload__under_connections_that_go_on_sending(guest: Host, testbed: Testbed) -> None:
    """Completions of other connections are under way when a worker stops to listen."""
    program = "nginx-asan" if ASAN.exists() else "nginx-megapipe"
    folder = f"{GUEST}/megapipe"
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}, program=program):
        # All must be answered within client_header_timeout, by a sanitized server in an emulator.
        senders = client(testbed, "--restless", "160")
        for _ in range(6):
            time.sleep(5)
            shell(guest, "kill -HUP $pid")
        time.sleep(5)
        log = guest.read_text(f"{folder}/error.log")
        assert not found(FINDING, log)
        end(senders)
    assert log.count("gracefully shutting down") >= 6
    assert "exited on signal" not in log
    assert not found(ALARM, log)
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_descriptors__run_out_and_others_accept(guest: Host, testbed: Testbed) -> None:
    """What waits for a worker that cannot accept is the other one's, as long as that is so."""
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": "megapipe_lwsocket off;"}):
        victim = workers(guest)[0]
        before = total(guest, "accepts")
        for limit in ("8:20000", "20000:20000"):
            guest.run(["prlimit", "--pid", victim, f"--nofile={limit}"], timeout=DEADLINE_S)
            waiting = client(testbed, "--queued", "40")
            assert waiting.wait(DEADLINE_S) == 0, said(waiting)
        log = guest.read_text(f"{GUEST}/megapipe/error.log")
        eventually(lambda: all(channel["partitions"] for channel in channels(guest)))
        assert total(guest, "accepts") >= before + 80
    failing = r"\[crit\] (\d+)#.* accepting failed .24: Too many open files"
    assert set(re.findall(failing, log)) == {victim}
    assert not found(ALARM, log)
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_descriptors__run_out_and_the_worker_is_to_end(guest: Host, testbed: Testbed) -> None:
    """It still has requests that last, but its partition is gone, and what waited there as well."""
    events = "megapipe_lwsocket off; accept_mutex_delay 10s;"
    folder = f"{GUEST}/megapipe"
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": events}):
        lasting = client(testbed, "--outlive")
        # All files are open that these requests need.
        look = "for p in $(pgrep -P $pid); do ls -l /proc/$p/fd; done"
        eventually(lambda: "(deleted)" in shell(guest, look))
        held = [channel["handles"] for channel in channels(guest)]
        victim = workers(guest)[held.index(max(held))]
        guest.run(["prlimit", "--pid", victim, "--nofile=8:20000"], timeout=DEADLINE_S)
        waiting = client(testbed, "--queued", "40")
        eventually(lambda: "24: Too many open files" in guest.read_text(f"{folder}/error.log"))
        # The master tells it by a descriptor to be received.
        guest.run(["prlimit", "--pid", victim, "--nofile=20000:20000"], timeout=DEADLINE_S)
        shell(guest, "kill -HUP $pid")
        assert waiting.wait(DEADLINE_S) == 0, said(waiting)
        demand_load(testbed, 10)  # by then the worker would listen again
        assert is_alive(guest, victim), "has given up the requests that it had"
        end(lasting)
        eventually(lambda: not is_alive(guest, victim))
        log = guest.read_text(f"{folder}/error.log")
    assert "exited on signal" not in log
    assert not found(ALARM, log)
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_reload_and_upgrade__no_request_fails(guest: Host, testbed: Testbed) -> None:
    folder = f"{GUEST}/megapipe"
    end_old = f"i=0; until [ -s {folder}/nginx.pid.oldbin ] && [ -s {folder}/nginx.pid ]; do "
    end_old += "sleep 0.2; i=$((i+1)); [ $i -lt 150 ] || exit 1; done; "
    end_old += f"kill -QUIT $(cat {folder}/nginx.pid.oldbin)"
    reload = f"kill -HUP $(cat {folder}/nginx.pid)"
    pid = f"cat {folder}/nginx.pid"
    to_epoll = f"sed -i 's/^events {{/events {{ use epoll;/' {folder}/conf"
    back = f"sed -i 's/ use epoll;//' {folder}/conf"
    steps = [reload, f"{to_epoll}; {reload}", f"{back}; {reload}"]
    steps += [f"kill -USR2 $(cat {folder}/nginx.pid)", end_old]
    steps += [f"kill -USR1 $(cat {folder}/nginx.pid)"]
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}):
        argv = [sys.executable, str(CLIENT), "--load", "30"]
        argv += [f"{testbed.server_address}:{PORTS['megapipe']}"]
        loader = testbed.clients[0].start(argv, log=Path(os.devnull))
        old = shell(guest, pid)
        for step in steps:
            time.sleep(3)
            guest.run(["sh", "-c", step], timeout=60)
        assert shell(guest, pid) != old
        eventually(lambda: not is_alive(guest, old.strip()))
        assert loader.wait(120) == 0
        log = guest.read_text(f"{folder}/error.log")
    assert log.count('using the "megapipe" event method') >= 3
    assert log.count('using the "epoll" event method') == 1
    assert not found(ALARM, log)
    assert not complaints(guest)


@pytest.mark.vm
@thorough
def test_requests__outlive_reload_upgrade_and_quit(guest: Host, testbed: Testbed) -> None:
    """And what reloading changes has changed: a listener, how many workers there are."""
    first, dropped, added = (
        PORTS["megapipe"] + PORT_NAMES.index(name) for name in ("port", "returned", "added")
    )
    count = int(guest.run(["nproc"], timeout=DEADLINE_S).stdout) + 2
    edit = (
        f"s/^worker_processes .*/worker_processes {count};/; s/listen {dropped};/listen {added};/"
    )
    complaints(guest)
    with serving_in_guest(guest, {"megapipe": ""}):
        old = shell(guest, "echo $pid").strip()
        lasting = client(testbed, "--outlive")
        shell(guest, f"sed -i '{edit}' conf; kill -HUP $pid")
        eventually(lambda: listening(guest, added) and not listening(guest, dropped))
        eventually(lambda: len(workers(guest)) == count)
        demand_load(testbed, 10)
        assert all(channel["accepts"] for channel in channels(guest)), channels(guest)
        shell(guest, "kill -USR2 $pid")
        eventually(lambda: shell(guest, "echo $pid").strip() not in ("", old))
        new = shell(guest, "echo $pid").strip()
        eventually(lambda: len(workers(guest)) == count)
        shell(guest, f"kill -QUIT {old}")
        demand_load(testbed, 5)
        assert is_alive(guest, old), "has given up the requests that it had"
        end(lasting)
        eventually(lambda: not is_alive(guest, old))

        lasting = client(testbed, "--outlive")
        shell(guest, "kill -QUIT $pid")
        eventually(lambda: not listening(guest, first))
        time.sleep(2)
        assert is_alive(guest, new), "has given up the requests that it had"
        end(lasting)
        eventually(lambda: not is_alive(guest, new))
        log = guest.read_text(f"{GUEST}/megapipe/error.log")
    assert "exited on signal" not in log
    assert not found(ALARM, log)
    assert not complaints(guest)


def demand_load(testbed: Testbed, seconds: int) -> None:
    argv = [sys.executable, str(CLIENT), "--load", str(seconds)]
    argv += [f"{testbed.server_address}:{PORTS['megapipe']}"]
    done = testbed.clients[0].run(argv, timeout=2 * DEADLINE_S + seconds, check=False)
    assert done.exit_status == 0, done.stdout


LOGGED = ("static_files", "ranges", "pipelining", "uploads", "compression", "bad_requests")


@pytest.mark.vm
@thorough
def test_reopen__logs_go_on_in_new_files(guest: Host, testbed: Testbed) -> None:
    """The same requests before and after: the same lines in both files, and of both builds."""
    only = [word for name in LOGGED for word in ("--only", name)]

    def lines(system: str, name: str) -> list[str]:
        text = guest.read_text(f"{GUEST}/{system}/{name}")
        return sorted(re.sub(r"\[.*?\]", "[]", line) for line in text.splitlines())

    complaints(guest)
    with serving_in_guest(guest, {"stock": "", "megapipe": ""}):
        demand(testbed, *only)
        eventually(lambda: lines("stock", "access.log") == lines("megapipe", "access.log"))
        for system in PORTS:
            move = "mv access.log access.old; mv error.log error.old; kill -USR1 $(cat nginx.pid)"
            guest.run(["sh", "-c", f"cd {GUEST}/{system}; {move}"], timeout=DEADLINE_S)
            files = [f"{GUEST}/{system}/{name}.log" for name in ("access", "error")]
            exist = " && ".join(f"test -e {file}" for file in files)
            guest.run(["sh", "-c", f"until {exist}; do sleep 0.1; done"], timeout=DEADLINE_S)
        time.sleep(1)  # the workers open theirs after the master
        old = lines("stock", "access.old")
        demand(testbed, *only)
        for system in PORTS:
            eventually(lambda system=system: lines(system, "access.log") == old)
            assert lines(system, "access.old") == old
            assert "client sent" in guest.read_text(f"{GUEST}/{system}/error.log")
    assert len(old) > 100
    assert not complaints(guest)
