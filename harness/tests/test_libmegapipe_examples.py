# SPDX-License-Identifier: MIT
"""The examples of libmegapipe, and the two servers of docs/porting.md, as their users run them.

client: this machine (python, megabench-load) --- TCP ---> guest: the example
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_log import complaints
from programs import BIN, ROOT, build
from test_libmegapipe_vm import wait_for_listener

from megabench.host import Host
from megabench.testbed import Testbed

EXAMPLES = ROOT / "libmegapipe" / "examples"
BINARIES = BIN / "libmegapipe"
GUEST = "/run/megabench/libmegapipe-examples"
WWW = f"{GUEST}/www"
TIMEOUT_S = 120.0
LINES = 200_000  # of the big file: more than any socket buffer

# Says its third argument to a server, reads to the end of file, and prints what it got.
ASK = """
import hashlib, json, socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as s:
    s.sendall(sys.argv[3].encode("latin-1"))
    got = b"".join(iter(lambda: s.recv(65536), b""))
head, _, body = got.partition(b"\\r\\n\\r\\n")
print(json.dumps([head.decode("latin-1"), len(body), hashlib.sha256(body).hexdigest()]))
"""

# Writes to an echo server until nothing goes any more, then reads it all back.
OVERFILL = """
import json, select, socket, sys
piece = bytes(range(251)) * 100
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as s:
    s.setblocking(False)
    sent = 0
    while select.select([], [s], [], 3)[1]:
        part = piece[sent % len(piece):]
        try:
            sent += s.send(part)
        except BlockingIOError:
            pass
    s.setblocking(True)
    s.settimeout(60)
    s.shutdown(socket.SHUT_WR)
    got = b"".join(iter(lambda: s.recv(65536), b""))
print(json.dumps([sent, len(got), got == (piece * (len(got) // len(piece) + 1))[:len(got)]]))
"""


def sources(pattern: str) -> list[Path]:
    return sorted(EXAMPLES.glob(pattern))


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build("libmegapipe", "harness/load")


@pytest.mark.parametrize("source", sources("*.c"), ids=lambda path: path.stem)
def test_one_screen_and_built(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= 110
    assert (BINARIES / source.stem).exists()


@pytest.mark.parametrize("source", sources("*.c"), ids=lambda path: path.stem)
def test_says_how_it_is_built(source: Path) -> None:
    """The gcc line in the comment of each is the one that works, but for where the library is."""
    line = f"gcc -O2 {source.name} -o {source.stem} $(pkg-config --cflags --libs libmegapipe)"
    assert f" *\t{line}\n" in source.read_text()


@pytest.mark.parametrize("source", sources("porting/*.c"), ids=lambda path: path.stem)
def test_guide_shows_the_program(source: Path) -> None:
    """What docs/porting.md prints is what is built and run here."""
    guide = (ROOT / "docs" / "porting.md").read_text()
    assert f"```c\n{source.read_text()}```\n" in guide
    assert (BINARIES / "porting" / source.stem).exists()


@pytest.mark.skipif(os.path.exists("/dev/megapipe"), reason="this machine has MegaPipe")
def test_without_megapipe() -> None:
    """Where there is none, an example says so, and how to get it."""
    done = subprocess.run(
        [str(BINARIES / "timers"), "10"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "has no MegaPipe" in done.stderr


@pytest.fixture(scope="module")
def guest(testbed: Testbed) -> Host:
    """The server of the testbed, with the examples, and a folder to be served."""
    guest = testbed.server
    guest.run(["mkdir", "-p", f"{WWW}/sub", f"{GUEST}/porting"], timeout=30)
    for binary in [*sources("*.c"), *sources("porting/*.c")]:
        name = binary.relative_to(EXAMPLES).with_suffix("")
        guest.put(BINARIES / name, f"{GUEST}/{name}")
    files = f"""cd {WWW} && echo index >index.html && : >empty && seq {LINES} >big &&
        echo inner >sub/inner && ln -sf /etc/passwd link && rm -f fifo && mkfifo fifo &&
        chmod 755 . && echo secret >{GUEST}/secret"""
    guest.run(["sh", "-c", files], timeout=60)
    return guest


@contextmanager
def serving(guest: Host, port: int, *argv: str) -> Iterator[None]:
    """A server of the guest, for a while; the kernel has nothing to say about it."""
    complaints(guest)
    server = guest.start([f"{GUEST}/{argv[0]}", *argv[1:]], log=Path(os.devnull))
    try:
        wait_for_listener(guest, port)
        yield
    finally:
        server.kill()
    assert not complaints(guest)


def python(testbed: Testbed, script: str, *arguments: str) -> list[object]:
    """What a script of the client's prints."""
    argv = [sys.executable, "-c", script, testbed.server_address, *arguments]
    answer: list[object] = json.loads(testbed.clients[0].run(argv, timeout=TIMEOUT_S).stdout)
    return answer


def load(testbed: Testbed, port: int, **options: int) -> int:
    """Transactions that megabench-load has verified; it must have met no error."""
    argv = [str(BIN / "megabench-load"), "--workload", "pingpong", "--warmup", "0"]
    argv += ["--target", f"{testbed.server_address}:{port}"]
    for name, value in options.items():
        argv += [f"--{name}", str(value)]
    done = testbed.clients[0].run(argv, timeout=TIMEOUT_S)
    result = json.loads(done.stdout.splitlines()[-1])
    assert not any(result["errors"].values()), result["errors"]
    transactions: int = result["transactions"]
    return transactions


@pytest.fixture(scope="module")
def fileserver(guest: Host) -> Iterator[int]:
    with serving(guest, 8000, "fileserver", "8000", WWW):
        yield 8000


BIG = "".join(f"{number}\n" for number in range(1, LINES + 1)).encode()


@pytest.mark.vm
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", b"index\n"),
        ("/index.html", b"index\n"),
        ("/sub/inner", b"inner\n"),
        ("/sub/../index.html", b"index\n"),
        ("/empty", b""),
        ("/big", BIG),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_is_served(fileserver: int, testbed: Testbed, path: str, body: bytes) -> None:
    answer = python(testbed, ASK, str(fileserver), f"GET {path} HTTP/1.0\r\n\r\n")
    head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}"
    assert answer == [head, len(body), hashlib.sha256(body).hexdigest()]


@pytest.mark.vm
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /nothing HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /sub HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /fifo HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /link HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /../secret HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET //etc/passwd HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /sub/../../secret HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("POST / HTTP/1.0\r\n\r\n", "400 Bad Request"),
        ("GET\r\n\r\n", "400 Bad Request"),
        ("\r\n\r\n", "400 Bad Request"),
        ("x" * 5000, "400 Bad Request"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_file_is_refused(fileserver: int, testbed: Testbed, request_: str, status: str) -> None:
    """Nothing outside the folder, nothing that is not a file, and nonsense is answered."""
    answer = python(testbed, ASK, str(fileserver), request_)
    assert answer[:2] == [f"HTTP/1.0 {status}\r\nContent-Length: 0", 0]


@pytest.mark.vm
def test_client(guest: Host) -> None:
    """Many connections at once, to the other example; and to nobody."""
    with serving(guest, 9000, "pingpong", "9000", "2"):
        done = guest.run([f"{GUEST}/client", "::1", "9000", "100"], timeout=TIMEOUT_S)
        assert done.stdout == "100 echoed, 0 failed, 0 never ended\n"
    done = guest.run([f"{GUEST}/client", "::1", "9", "3"], timeout=TIMEOUT_S, check=False)
    assert (done.exit_status, done.stdout) == (1, "0 echoed, 3 failed, 0 never ended\n")


@pytest.mark.vm
def test_timers(guest: Host) -> None:
    """Ticks come until a signal does, which is reported in the same loop."""
    clock = guest.start([f"{GUEST}/timers", "20"], log=Path(os.devnull))
    assert clock.readline(30).startswith("tick ")
    assert clock.readline(30).startswith("tick ")
    clock.signal("TERM")
    while (line := clock.readline(30)).startswith("tick "):
        pass
    assert line.startswith("signal 15 after ")
    assert clock.wait(30) == 0


@pytest.mark.vm
@pytest.mark.parametrize("server", ["epoll", "megapipe P", "megapipe PB", "megapipe PBL"])
def test_porting_servers_serve_the_same(guest: Host, testbed: Testbed, server: str) -> None:
    """Short and long messages under the load generator's checks, and a peer that does not read:
    it is made to wait, and gets all of it in the end."""
    port = 9100
    name, *ideas = server.split()
    with serving(guest, port, f"porting/{name}", str(port), "2", *ideas):
        assert load(testbed, port, connections=16, transactions=4, size=512, count=800) == 800
        assert load(testbed, port, connections=4, transactions=2, size=65536, count=40) == 40
        sent, echoed, intact = python(testbed, OVERFILL, str(port))
        assert isinstance(sent, int)
        assert 4096 < sent < 64 << 20
        assert (echoed, intact) == (sent, True)
