# SPDX-License-Identifier: MIT
"""The http workload of megabench-load, against a web server that can lie.

megabench-load --- loopback --- a Python server of a trace's documents
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import Load, build, listening

from megabench import trace

# What a server does to a reply before it goes: its number on this connection, and the reply.
Lie = Callable[[int, bytes], bytes]


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    build("harness/load")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small trace with a long connection in it, and its documents."""
    folder = tmp_path_factory.mktemp("site")
    made = trace.Trace(
        "toy", "sizes from 1 byte to more than a socket's buffer", (1, 700, 5000, 300_000),
        ((0,), (1, 2, 3), (0, 1, 2, 3, 0, 1, 2, 3), *[(1, 2)] * 20),
    )  # fmt: skip
    return trace.write(made, folder / "traces", folder / "documents"), folder / "documents"


class Seen:
    """What a server was asked, by connection."""

    def __init__(self) -> None:
        self.connections: list[list[str]] = []
        self.closing: list[list[bool]] = []
        self.lock = threading.Lock()


@contextmanager
def web(documents: Path, lie: Lie = lambda number, reply: reply) -> Iterator[tuple[str, Seen]]:
    seen = Seen()

    def reply(path: str) -> bytes:
        file = documents / path[1:]
        if not file.is_file():
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        body = file.read_bytes()
        head = f"HTTP/1.1 200 OK\r\nServer: x{'y' * 300}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def serve(connection: socket.socket) -> None:
        asked: list[str] = []
        closing: list[bool] = []
        with seen.lock:
            seen.connections.append(asked)
            seen.closing.append(closing)
        with connection, connection.makefile("rb") as stream:
            try:
                while line := stream.readline():
                    headers = list(iter(stream.readline, b"\r\n"))
                    closing.append(b"Connection: close\r\n" in headers)
                    asked.append(line.decode().split()[1])
                    answer = lie(len(asked), reply(asked[-1]))
                    connection.sendall(answer)
                    if b"Connection: close" in answer:
                        return
            except OSError:
                return

    with listening(serve) as address:
        yield address, seen


def wanted(file: Path) -> list[list[str]]:
    """The paths of every connection of a trace file."""
    rows = [line.split() for line in file.read_text().splitlines()]
    paths = [row[1] for row in rows if row[0] == "object"]
    return [[paths[int(index)] for index in row[1:]] for row in rows if row[0] == "connection"]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_replay__just_the_connections_of_the_trace(site: tuple[Path, Path], threads: str) -> None:
    file, documents = site
    with web(documents) as (target, seen):
        words = ["--workload", "http", "--trace", str(file), "--passes", "2"]
        load = Load("--target", target, *words, "--connections", "4", "--threads", threads)
    assert load.status == 0
    assert load.errors == {}
    assert load.result["transactions"] == 2 * 52
    assert load.result["connections"] == 2 * 23
    assert sorted(seen.connections) == sorted(2 * wanted(file))
    assert load.result["received_bytes"] > 2 * 3 * 300_000


def test_replay__warm_up_does_not_eat_the_trace(site: tuple[Path, Path]) -> None:
    file, documents = site
    with web(documents) as (target, seen):
        words = ["--workload", "http", "--trace", str(file), "--passes", "1", "--warmup", "0.3"]
        load = Load("--target", target, *words, "--connections", "4")
    assert load.errors == {}
    assert load.result["transactions"] == 52
    assert load.result["connections"] == 23
    # What was begun in the warm-up was closed; the last to open are just the trace's.
    assert sorted(seen.connections[-23:]) == sorted(wanted(file))


def test_http__any_object_for_a_time(site: tuple[Path, Path]) -> None:
    file, documents = site
    with web(documents) as (target, seen):
        words = ["--workload", "http", "--trace", str(file), "--count", "300"]
        load = Load("--target", target, *words, "--connections", "4", "--transactions", "5")
    assert load.errors == {}
    assert sum(map(len, seen.connections)) == 300
    assert {len(asked) for asked in seen.connections} <= {1, 2, 3, 4, 5}
    assert {path for asked in seen.connections for path in asked} == {
        path for asked in wanted(file) for path in asked
    }


def test_replay__the_last_request_asks_to_close(site: tuple[Path, Path]) -> None:
    file, documents = site
    with web(documents) as (target, seen):
        words = ["--workload", "http", "--trace", str(file), "--passes", "1", "--ask-close", "1"]
        load = Load("--target", target, *words, "--connections", "4")
    assert load.errors == {}
    assert [len(asked) for asked in seen.closing] == [len(asked) for asked in seen.connections]
    assert all(closing == [False] * (len(closing) - 1) + [True] for closing in seen.closing)


def corrupt(number: int, reply: bytes) -> bytes:
    return reply[:-1] + bytes([reply[-1] ^ 1])


def wrong_length(number: int, reply: bytes) -> bytes:
    return reply.replace(b"length: ", b"length: 1")


def no_length(number: int, reply: bytes) -> bytes:
    return reply.replace(b"content-length", b"x")


def too_much(number: int, reply: bytes) -> bytes:
    return reply + b"x"


def missing(number: int, reply: bytes) -> bytes:
    return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def overload(number: int, reply: bytes) -> bytes:
    return b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


def garbage(number: int, reply: bytes) -> bytes:
    return b"\0\n\n" * 10


def cut(number: int, reply: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 700\r\n\r\n"


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (corrupt, "content"),
        (wrong_length, "content"),
        (no_length, "content"),
        (too_much, "content"),
        (missing, "refused"),
        (overload, "refused"),
        (garbage, "content"),
    ],
)
def test_http__a_lie_is_counted(site: tuple[Path, Path], lie: Lie, kind: str) -> None:
    file, documents = site

    def third(number: int, reply: bytes) -> bytes:
        return lie(number, reply) if number == 3 else reply

    with web(documents, third) as (target, _):
        words = ["--workload", "http", "--trace", str(file), "--count", "20"]
        load = Load("--target", target, *words)
    assert load.status == 0
    assert load.result["transactions"] == 20
    assert set(load.errors) == {kind}


def test_replay__goes_on_after_a_failure(site: tuple[Path, Path]) -> None:
    """The rest of a connection that was cut is asked for on another one: nothing is left out."""
    file, documents = site

    def third(number: int, reply: bytes) -> bytes:
        return cut(number, reply) if number == 3 else reply

    with web(documents, third) as (target, _):
        words = ["--workload", "http", "--trace", str(file), "--passes", "1"]
        load = Load("--target", target, *words, "--connections", "4")
    assert load.status == 0
    assert load.result["transactions"] == 52
    assert set(load.errors) <= {"short", "content"}
    assert load.errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("object x 3 0\n", "line 1 is no object"),
        ("object /x 3\n", "line 1 is no object"),
        ("object /x 3 0\nconnection 1\n", "line 2 is no object"),
        ("object /x 3 0\nconnection \n", "line 2 is no object"),
        ("object /x 3 0\nfoo\n", "line 2 is no object"),
        ("# nothing\n", "line 1 is no object"),
        ("object /x 3 0\n", "no connections to replay"),
    ],
)
def test_trace__a_bad_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.trace"
    file.write_text(text)
    words = ["--workload", "http", "--trace", str(file), "--passes", "1"]
    load = Load("--target", "127.0.0.1:1", *words)
    assert load.status == 1
    assert said in load.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--workload http --count 1", "--trace is missing"),
        ("--passes 1", "has no traces"),
        ("--workload http --trace x --passes 1 --rate 5", "a trace has no times"),
        ("--workload http --trace x --passes 1 --count 5", "one of them above 0"),
    ],
)
def test_usage__traces(options: str, said: str) -> None:
    load = Load("--target", "127.0.0.1:1", *options.split())
    assert load.status == 2
    assert said in load.stderr
