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
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kernel_log import complaints, forget_leaks, has_kmemleak, leaks
from memcached_login import USERS
from memcached_servers import (
    ASAN,
    DEADLINE_S,
    FULL,
    MEGAPIPE,
    OPTIONS,
    PORTS,
    SOURCE,
    STOCK,
    STOCK_FULL,
    serving,
)

from megabench.host import Host, LocalHost, Process
from megabench.memcached import ENGINE, Memcached
from megabench.testbed import Testbed

CLIENT = Path(__file__).with_name("memcached_client.py")
CERTIFICATES = SOURCE / "t"
GUEST = "/run/megabench/memcached"
DISK = "ext_page_size=8,ext_wbuf_size=2,ext_threads=1,ext_item_age=2,ext_path={}/disk.{}:64m"
# A scenario's options; {} are a folder and a system.
WITH = {
    "crowd": "-c 200 -o no_maxconns_fast",
    "crowd_refused": "-c 200 -o maxconns_fast",
    "idled_out": "-o idle_timeout=2",
    "from_disk": f"-o {DISK},slab_automove=0",
}
ALL = "TEST_APPS" in os.environ  # make test-apps: hours; otherwise minutes

pytestmark = pytest.mark.skipif(not MEGAPIPE.exists(), reason="not built: make memcached")
full = pytest.mark.skipif(not FULL.exists(), reason="not built: make -C apps/memcached check")
thorough = pytest.mark.skipif(not ALL, reason="make test-apps")
without_megapipe = pytest.mark.skipif(
    Path("/dev/megapipe").exists(), reason="this kernel has MegaPipe"
)


def stats(port: int, what: str) -> dict[str, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock:
        sock.sendall(f"stats {what}\r\n".encode())
        text = b""
        while not text.endswith(b"END\r\n"):
            text += sock.recv(65536)
    lines = (line.split(" ", 2) for line in text.decode().splitlines())
    return {words[1]: words[2] for words in lines if words[0] == "STAT"}


def compare(*options: str) -> None:
    """The two that serve on this machine."""
    argv = [sys.executable, str(CLIENT), *options]
    argv += [f"127.0.0.1:{port}" for port in PORTS.values()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


LIBEVENT = ("-o", "io_engine=libevent")


def test_answers__the_same_on_libevent() -> None:
    with serving(STOCK, PORTS["stock"]), serving(MEGAPIPE, PORTS["megapipe"], *LIBEVENT):
        compare()


class Told(Memcached):
    """Asked directly, not through its machine."""

    def __init__(self, port: int) -> None:
        super().__init__(LocalHost(), [], Path(os.devnull), "127.0.0.1", port)

    def tunnel(self) -> socket.socket:
        return socket.create_connection((self.address, self.port), timeout=DEADLINE_S)


@pytest.mark.parametrize("program", [STOCK, MEGAPIPE])
def test_counters__of_each_engine(program: Path) -> None:
    with serving(program, PORTS["megapipe"]):
        told = Told(PORTS["megapipe"]).counters()
    assert told["num_threads"] == 4
    assert ("io_engine" in told) == (program is MEGAPIPE)
    assert set(ENGINE) <= set(told) or told.get("io_engine") != "megapipe"


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


TLS = f"ssl_chain_cert={CERTIFICATES}/server_crt.pem,ssl_key={CERTIFICATES}/server_key.pem"
REFUSED = [
    pytest.param(
        FULL, ["-Z", "-o", TLS], "TLS (-Z) is served by libevent only", id="TLS", marks=full
    ),
    pytest.param(
        FULL,
        ["-o", "proxy_config=none.lua"],
        "the proxy is served by libevent only",
        id="proxy",
        marks=full,
    ),
    pytest.param(MEGAPIPE, ["-N", "4"], "-N (--napi_ids) chooses the thread", id="-N"),
    pytest.param(
        MEGAPIPE,
        ["-o", "drop_privileges"],
        "drop_privileges does not know MegaPipe's system calls",
        id="drop_privileges",
    ),
]


@pytest.mark.parametrize(("program", "options", "said"), REFUSED)
def test_engine__megapipe_does_not_start_with_what_it_cannot(
    program: Path, options: list[str], said: str
) -> None:
    where = ["-l", "127.0.0.1", "-p", str(PORTS["megapipe"])]
    argv = [str(program), *where, *OPTIONS.split(), *options, "-o", "io_engine=megapipe"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 64  # EX_USAGE
    assert f"io_engine=megapipe: {said}" in done.stderr


@full
def test_engine__auto_serves_tls_by_libevent() -> None:
    context = ssl.create_default_context(cafile=CERTIFICATES / "cacert.pem")
    context.check_hostname = False  # it is of test.com
    port = PORTS["megapipe"]
    with serving(FULL, port, "-Z", "-o", TLS) as server:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
            context.wrap_socket(plain) as sock,
        ):
            sock.sendall(b"set a 0 0 1\r\n1\r\nget a\r\nmn\r\n")
            found = b""
            while not found.endswith(b"MN\r\n"):
                found += sock.recv(1000)
        assert found == b"STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\nMN\r\n"
        assert "io_engine: libevent, because: TLS (-Z) is served by libevent only" in server.said()


@pytest.mark.parametrize("scenario", WITH)
def test_options__the_same_on_libevent(tmp_path: Path, scenario: str) -> None:
    options = [WITH[scenario].format(tmp_path, system).split() for system in PORTS]
    with (
        serving(STOCK, PORTS["stock"], *options[0]),
        serving(MEGAPIPE, PORTS["megapipe"], *options[1], *LIBEVENT),
    ):
        compare("--only", scenario)


@dataclass(frozen=True)
class Login:
    """How two servers learn who may ask; {} is the folder of the files."""

    programs: tuple[Path, Path]
    options: str
    env: str = ""

    def built(self) -> tuple[Path, Path]:
        if not all(program.exists() for program in self.programs):
            pytest.skip("not built: make -C apps/memcached check")
        return self.programs

    def at(self, folder: str) -> tuple[list[str], list[str]]:
        return self.options.format(folder).split(), self.env.replace("{}", folder).split()


# A scenario's.
LOGINS = {
    "text_login": Login((STOCK, MEGAPIPE), "-Y {}/users"),
    "sasl": Login((STOCK_FULL, FULL), "-S", "SASL_CONF_PATH={} MEMCACHED_SASL_PWDB={}/users"),
}


def write_users(folder: Path) -> None:
    (folder / "users").write_text("".join(f"{name}:{word}\n" for name, word in USERS.items()))
    (folder / "memcached.conf").write_text("mech_list: plain\n")


@pytest.mark.parametrize("scenario", LOGINS)
def test_login__the_same_on_libevent(tmp_path: Path, scenario: str) -> None:
    login = LOGINS[scenario]
    stock, own = login.built()
    write_users(tmp_path)
    options, env = login.at(str(tmp_path))
    with (
        serving(stock, PORTS["stock"], *options, env=env),
        serving(own, PORTS["megapipe"], *options, *LIBEVENT, env=env),
    ):
        compare("--only", scenario)


# ---- In the guest --------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(testbed: Testbed) -> Host:
    testbed.server.run(["mkdir", "-p", GUEST], timeout=30)
    for program in (STOCK, MEGAPIPE, ASAN, STOCK_FULL, FULL):
        if program.exists():
            testbed.server.put(program, f"{GUEST}/{program.name}")
    return testbed.server


@pytest.fixture
def guest(machine: Host) -> Iterator[Host]:
    """The server's machine, whose kernel must not complain of the test, nor lose memory by it."""
    complaints(machine)
    if can_leak := has_kmemleak(machine):
        forget_leaks(machine)
    yield machine
    assert not complaints(machine)
    assert not can_leak or not leaks(machine)


def listening(guest: Host, where: str) -> bool:
    if not where.isdigit():
        return where in guest.read_text("/proc/net/unix")
    tcp = re.compile(rf":{int(where):04X} 0+:0000 0A ")
    return all(tcp.search(guest.read_text(f"/proc/net/{name}")) for name in ("tcp", "tcp6"))


@contextmanager
def serving_in(
    guest: Host,
    folder: Path,
    *options: str,
    engine: str = "",
    programs: tuple[Path, Path] = (STOCK, MEGAPIPE),
    path: str = "",
    env: Sequence[str] = (),
) -> Iterator[list[Process]]:
    """Stock and the port, with the same options, {} being a folder and the system; the port has
    more of its own."""
    servers = []
    for (system, port), file in zip(PORTS.items(), programs, strict=True):
        own = ["-o", f"io_engine=megapipe{engine}"] if system != "stock" else []
        where = ["-s", f"{path}.{system}"] if path else ["-p", str(port)]
        argv = ["env", "ASAN_OPTIONS=detect_leaks=0", *env, f"{GUEST}/{file.name}", *where]
        argv += [*OPTIONS.split(), *(one.format(GUEST, system) for one in options), *own]
        servers.append(guest.start(argv, log=folder / f"{system}.log"))
    try:
        deadline = time.monotonic() + DEADLINE_S
        wheres = [f"{path}.{s}" if path else str(port) for s, port in PORTS.items()]
        while not all(listening(guest, where) for where in wheres):
            assert time.monotonic() < deadline, (folder / "megapipe.log").read_text()
        yield servers
    finally:
        for server in servers:
            server.kill()
    said = (folder / "megapipe.log").read_text()
    assert "io_engine: megapipe" in said
    assert "Can't read from libevent pipe" not in said, said
    assert not re.search(r"AddressSanitizer|io_\w+\.[ch]:\d+:\d+: runtime error", said), said


def demand(testbed: Testbed, *options: str, address: str = "", engine: str = "megapipe") -> None:
    """The client's machine has this Python, whose packages it needs. No engine: not to be asked."""
    argv = [sys.executable, str(CLIENT), *options]
    argv += ["--engine", engine] if engine else []
    argv += [f"{address or testbed.server_address}:{port}" for port in PORTS.values()]
    done = testbed.clients[0].run(argv, timeout=1200, check=False)
    print(done.stdout)
    assert done.exit_status == 0, done.stdout + done.stderr


@contextmanager
def holding(testbed: Testbed, connections: int, port: int, folder: Path) -> Iterator[None]:
    """So many clients of that server who have asked once."""
    argv = [sys.executable, str(CLIENT), "--hold", str(connections)]
    argv.append(f"{testbed.server_address}:{port}")
    client = testbed.clients[0].start(argv, log=folder / f"hold.{port}")
    try:
        assert client.readline(300) == "holding"
        yield
    finally:
        client.kill()


@pytest.mark.vm
@pytest.mark.parametrize(
    "engine",
    [
        "",
        ",no_megapipe_lwsocket,megapipe_batch=1",
        pytest.param(",megapipe_batch=1", marks=thorough),
        pytest.param(",no_megapipe_lwsocket", marks=thorough),
        pytest.param(",no_megapipe_partition", marks=thorough),
    ],
)
def test_answers__the_same_on_megapipe(
    guest: Host, testbed: Testbed, tmp_path: Path, engine: str
) -> None:
    with serving_in(guest, tmp_path, engine=engine):
        demand(testbed, "--idle", "10000" if ALL else "1000")


@pytest.mark.vm
@pytest.mark.skipif(not ASAN.exists(), reason="not built: make -C apps/memcached asan")
@pytest.mark.parametrize("engine", ["", ",no_megapipe_lwsocket"])
def test_answers__sanitized(guest: Host, testbed: Testbed, tmp_path: Path, engine: str) -> None:
    with serving_in(guest, tmp_path, engine=engine, programs=(STOCK, ASAN)):
        demand(testbed)


@thorough
@pytest.mark.vm
def test_answers__more_workers_than_cpus(guest: Host, testbed: Testbed, tmp_path: Path) -> None:
    with serving_in(guest, tmp_path, "-t", "12"):
        demand(testbed)


@thorough
@pytest.mark.vm
def test_answers__ipv6(guest: Host, testbed: Testbed, tmp_path: Path) -> None:
    with serving_in(guest, tmp_path):
        demand(testbed, address=testbed.server_address6)


@pytest.mark.vm
def test_answers__unix_sockets(guest: Host, tmp_path: Path) -> None:
    """They cannot be reached from elsewhere: the client runs in the guest, if Python does."""
    python = [sys.executable, str(CLIENT)]
    if guest.run([*python, "--help"], timeout=60, check=False).exit_status:
        pytest.skip("the server's machine has not this Python")
    path = f"{GUEST}/socket"
    with serving_in(guest, tmp_path, path=path):
        servers = [f"{path}.{system}" for system in PORTS]
        argv = [*python, "--engine", "megapipe", *servers]
        done = guest.run(argv, timeout=1200, check=False)
        assert done.exit_status == 0, done.stdout + done.stderr


@pytest.mark.vm
@pytest.mark.parametrize("scenario", WITH)
def test_options__the_same_on_megapipe(
    guest: Host, testbed: Testbed, tmp_path: Path, scenario: str
) -> None:
    with serving_in(guest, tmp_path, *WITH[scenario].split()):
        demand(testbed, "--only", scenario)


@pytest.mark.vm
@pytest.mark.parametrize("engine", ["", ",no_megapipe_lwsocket"])
@pytest.mark.parametrize("scenario", LOGINS)
def test_login__the_same_on_megapipe(
    guest: Host, testbed: Testbed, tmp_path: Path, scenario: str, engine: str
) -> None:
    login = LOGINS[scenario]
    programs = login.built()
    write_users(tmp_path)
    for path in tmp_path.iterdir():
        guest.put(path, f"{GUEST}/{path.name}")
    options, env = login.at(GUEST)
    with serving_in(guest, tmp_path, *options, engine=engine, programs=programs, env=env):
        demand(testbed, "--only", scenario, engine="")


@pytest.mark.vm
@pytest.mark.parametrize("how", ["USR1", "TERM", "shut_down", "shut_down_gracefully"])
def test_shutdown__graceful_on_megapipe(
    guest: Host, testbed: Testbed, tmp_path: Path, how: str
) -> None:
    with (
        serving_in(guest, tmp_path) as servers,
        holding(testbed, 50, PORTS["megapipe"], tmp_path),
    ):
        if how.isupper():
            for server in servers:
                server.signal(how)
        else:
            demand(testbed, "--only", how, engine="")
        assert [server.wait(DEADLINE_S) for server in servers] == [0, 0]


@contextmanager
def tuned(testbed: Testbed) -> Iterator[None]:
    """As for a measurement."""
    applied = testbed.tune()
    try:
        yield
    finally:
        for one in reversed(applied):
            one.restore()


def pid_of(guest: Host, program: str) -> str:
    script = (
        f'for exe in /proc/[0-9]*/exe; do test "$(readlink $exe)" = {program} && echo $exe; done'
    )
    found = re.findall(
        r"/proc/(\d+)/exe", guest.run(["sh", "-c", script], timeout=60, check=False).stdout
    )
    assert len(found) == 1, found
    return found[0]


def field_of_all(guest: Host, files: str, name: str) -> list[str]:
    """A field of all /proc files of a pattern, where they have it."""
    said = guest.run(["sh", "-c", f"cat {files}"], timeout=60, check=False).stdout
    return re.findall(rf"^{name}:\t(.*)$", said, re.MULTILINE)


@pytest.mark.vm
@pytest.mark.parametrize("threads", [4, 8])
def test_workers__pinned_and_with_partitions(
    guest: Host, testbed: Testbed, tmp_path: Path, threads: int
) -> None:
    """The testbed spreads packets over all CPUs, as RSS would; with a worker on each, every worker
    accepts, and only what its own CPU received. With fewer, they share what the others receive.
    What they accept needs no descriptors."""
    cpus = int(guest.run(["nproc"], timeout=30).stdout)
    with tuned(testbed), serving_in(guest, tmp_path, "-t", str(threads)):
        for address in (testbed.server_address, testbed.server_address6):
            demand(testbed, "--only", "reconnects", address=address)
        proc = f"/proc/{pid_of(guest, f'{GUEST}/{MEGAPIPE.name}')}"
        masks = field_of_all(guest, f"{proc}/task/*/status", "Cpus_allowed_list")
        accepts = [int(n) for n in field_of_all(guest, f"{proc}/fdinfo/*", "accepts")]
        foreign = [int(n) for n in field_of_all(guest, f"{proc}/fdinfo/*", "accepts_foreign")]
        with holding(testbed, 200, PORTS["megapipe"], tmp_path):
            descriptors = guest.run(["ls", f"{proc}/fd"], timeout=30).stdout.split()
        told = Memcached(
            guest, [], Path(os.devnull), testbed.server_address, PORTS["megapipe"]
        ).counters()
    assert int(told["megapipe_accepts"]) > sum(accepts)
    assert len(descriptors) < 100, descriptors
    own = [mask for mask in masks if mask.isdigit()]
    assert sorted(own, key=int) == [str(cpu) for cpu in range(threads)]
    assert len(accepts) == threads
    assert min(accepts) > 0, accepts
    assert sum(accepts) >= 600
    assert threads != cpus or not any(foreign), foreign


def in_use(guest: Host) -> tuple[int, int]:
    """Bytes of the kernel's objects, and of all programs."""
    caches = [line.split() for line in guest.read_text("/proc/slabinfo").splitlines()[2:]]
    kernel = sum(int(words[1]) * int(words[3]) for words in caches)
    lines = dict(line.split(":", 1) for line in guest.read_text("/proc/meminfo").splitlines())
    return kernel, int(lines["AnonPages"].split()[0]) * 1024


@thorough
@pytest.mark.vm
def test_memory__of_idle_connections(guest: Host, testbed: Testbed, tmp_path: Path) -> None:
    """In the kernel less than stock's. In the program each has a buffer to wait with."""
    connections = 10000
    used = {}
    with serving_in(guest, tmp_path, "-c", "20000"):
        for system, port in PORTS.items():
            before = in_use(guest)
            with holding(testbed, connections, port, tmp_path):
                pairs = zip(in_use(guest), before, strict=True)
                used[system] = [round((now - then) / connections) for now, then in pairs]
    print("bytes per idle connection, in the kernel and in the program:", used)
    assert used["megapipe"][0] < used["stock"][0]
    assert used["megapipe"][1] < used["stock"][1] + 3000
