# SPDX-License-Identifier: MIT
"""The memcached workload of megabench-load, against a memcached of our own that can lie, and stock.

megabench-load --- loopback --- a Python memcached, or build/bin/memcached-stock
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import FakeBed
from programs import BIN, Load, build, listening

from megabench import apps
from megabench.errors import HarnessError
from megabench.host import LocalHost

Store = dict[bytes, bytes]
# What a server does to an answer before it goes: key, answer, all that is stored.
Lie = Callable[[bytes, bytes, Store], bytes]

WORDS = ("--workload", "memcached", "--connections", "4", "--keys", "40", "--size", "100")


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    build("harness/load")


def honest(key: bytes, answer: bytes, store: Store) -> bytes:
    del key, store
    return answer


class Seen:
    """What a server was asked."""

    def __init__(self) -> None:
        self.gets = self.sets = self.connections = 0
        self.keys: set[bytes] = set()


@contextmanager
def memcached(lie: Lie = honest, keep: bool = True) -> Iterator[tuple[str, Seen]]:
    """gets and sets; with keep=False a second set of a key is answered and forgotten."""
    store: Store = {}
    seen = Seen()

    def answer(line: bytes, stream: "socket.SocketIO") -> bytes:
        words = line.split()
        if words[0] == b"set":
            value = stream.read(int(words[4]) + 2)[:-2]
            seen.sets += 1
            seen.keys.add(words[1])
            if keep or words[1] not in store:
                store[words[1]] = value
            return b"STORED\r\n"
        seen.gets += 1
        value = store.get(words[1], b"")
        head = b"VALUE %s 0 %d\r\n" % (words[1], len(value))
        return lie(words[1], head + value + b"\r\nEND\r\n", store)

    def serve(connection: socket.socket) -> None:
        seen.connections += 1
        with connection, connection.makefile("rwb") as stream:
            try:
                while line := stream.readline():
                    stream.write(answer(line, stream))
                    stream.flush()
            except OSError:
                return

    with listening(serve) as address:
        yield address, seen


def test_memcached__nine_gets_to_a_set() -> None:
    with memcached() as (target, seen):
        load = Load("--target", target, *WORDS, "--transactions", "8", "--count", "2000")
    assert load.status == 0
    assert load.errors == {}
    assert load.result["prepared"] == 40
    assert seen.sets + seen.gets == 2000 + 40
    assert 140 <= seen.sets - 40 <= 260
    assert len(seen.keys) == 40
    assert all(len(key) == 64 for key in seen.keys)
    # Of the flows' connections, and the one that filled the keys in.
    assert 2000 / 8 + 1 <= seen.connections <= 2000 / 8 + 4 + 1


@pytest.mark.parametrize(("percent", "sets"), [("0", 0), ("100", 300)])
def test_memcached__only_gets_or_only_sets(percent: str, sets: int) -> None:
    with memcached() as (target, seen):
        load = Load("--target", target, *WORDS, "--count", "300", "--set-percent", percent)
    assert load.errors == {}
    assert seen.sets - 40 == sets


@pytest.mark.parametrize("size", ["1", "7", "65536", "300000"])
def test_memcached__sizes(size: str) -> None:
    with memcached() as (target, _):
        words = [*WORDS[:-1], size, "--key-size", "250"]
        load = Load("--target", target, *words, "--count", "100", "--set-percent", "50")
    assert load.status == 0
    assert load.errors == {}


def miss(key: bytes, answer: bytes, store: Store) -> bytes:
    del key, answer, store
    return b"END\r\n"


def complain(key: bytes, answer: bytes, store: Store) -> bytes:
    del key, answer, store
    return b"SERVER_ERROR out of memory\r\n"


def corrupt(key: bytes, answer: bytes, store: Store) -> bytes:
    del key, store
    return answer[:100] + bytes([answer[100] ^ 1]) + answer[101:]


def another(key: bytes, answer: bytes, store: Store) -> bytes:
    other = next(one for one in store if one != key)
    return answer.replace(store[key], store[other])


def too_much(key: bytes, answer: bytes, store: Store) -> bytes:
    del key, store
    return answer + b"x"


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (miss, "refused"),
        (complain, "refused"),
        (corrupt, "content"),
        (another, "content"),
        (too_much, "content"),
    ],
)
def test_memcached__a_lie_is_counted(lie: Lie, kind: str) -> None:
    with memcached(lie) as (target, _):
        load = Load("--target", target, *WORDS, "--count", "10", "--set-percent", "50")
    assert load.status == 0
    assert set(load.errors) == {kind}


def test_memcached__an_old_value_is_content() -> None:
    with memcached(keep=False) as (target, _):
        load = Load("--target", target, *WORDS, "--count", "50", "--set-percent", "50")
    assert set(load.errors) == {"content"}


def test_memcached__open_loop_keeps_its_rate() -> None:
    with memcached() as (target, _):
        load = Load("--target", target, *WORDS, "--duration", "1.5", "--rate", "200")
    assert load.errors == {}
    assert 220 <= load.result["transactions"] <= 380
    assert load.result["behind_s"] < 0.2


def test_memcached__open_loop_counts_from_the_intended_start() -> None:
    """A server that stands still once for 0.3 s: all that was due meanwhile waited, not one."""
    asked = iter(range(1 << 30))

    def pause(key: bytes, answer: bytes, store: Store) -> bytes:
        del key, store
        if next(asked) == 100:
            threading.Event().wait(0.3)
        return answer

    with memcached(pause) as (target, _):
        words = ["--target", target, *WORDS, "--connections", "1", "--set-percent", "0"]
        load = Load(*words, "--duration", "1.5", "--rate", "200")
    slow = sum(count for lower, count in load.result["histogram"] if lower >= 50_000)
    assert 25 <= slow <= 120


def test_memcached__open_loop_says_that_it_is_behind() -> None:
    def slow(key: bytes, answer: bytes, store: Store) -> bytes:
        del key, store
        threading.Event().wait(0.02)
        return answer

    with memcached(slow) as (target, _):
        words = ["--target", target, *WORDS, "--set-percent", "0"]
        load = Load(*words, "--duration", "1", "--rate", "1000")
    assert load.result["transactions"] < 400
    assert load.result["behind_s"] > 0.3


def test_memcached__open_loop_of_an_exact_count() -> None:
    with memcached() as (target, seen):
        words = ["--target", target, *WORDS, "--count", "150", "--rate", "500", "--threads", "2"]
        load = Load(*words, "--warmup-count", "50")
    assert load.result["transactions"] == 150
    assert seen.gets + seen.sets - 40 == 200


def test_memcached__open_loop_begins_connected() -> None:
    """A warm-up leaves no backlog of connects: all are open before the first request is due."""
    with memcached() as (target, seen):
        words = ["--target", target, *WORDS, "--connections", "40", "--warmup", "0.4"]
        load = Load(*words, "--duration", "0.6", "--rate", "50")
    assert load.errors == {}
    assert load.result["connections"] == 0
    assert seen.connections == 40 + 1
    assert 40 + 5 <= load.result["transactions_outside"] <= 40 + 45


def test_memcached__no_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        load = Load("--target", target, *WORDS, "--count", "10")
    assert load.status == 1
    assert "cannot be prepared" in load.stderr
    assert "Connection refused" in load.stderr


def test_memcached__key_size() -> None:
    load = Load("--target", "127.0.0.1:1", *WORDS, "--count", "1", "--key-size", "8")
    assert load.status == 2
    assert "--key-size must be 16 to 250" in load.stderr


# ---- memcached itself, as the harness deploys it ---------------------------------------------

STOCK = BIN / "memcached-stock"
CELL = {
    "system": "stock",
    "cores": 2,
    "connections": 16,
    "transactions_per_connection": 4,
    "size": 1024,
    "key_size": 64,
    "keys": 160,
    "set_percent": 10,
}


class NativeBed(FakeBed):
    """This machine as server."""

    server_address = "127.0.0.1"

    def __init__(self) -> None:
        super().__init__()
        self.server = LocalHost("server")  # type: ignore[assignment]


def free_trial() -> int:
    """The number of a trial whose port nobody has."""
    for number in range(apps.PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", apps.port_of(number)))
            except OSError:
                continue
            return number
    raise AssertionError("all ports are taken")


@pytest.mark.skipif(not STOCK.exists(), reason="make memcached")
@pytest.mark.parametrize("system", ["stock", "stock-tuned"])
def test_stock__checked_loaded_and_counted(system: str, tmp_path: Path) -> None:
    bed, number = NativeBed(), free_trial()
    cell = {**CELL, "system": system}
    argv = apps.server_argv("memcached", cell, "127.0.0.1", apps.port_of(number))
    with apps.start("memcached", CELL, bed, argv, number, tmp_path / "log") as server:
        server.ready()
        target = apps.target("127.0.0.1", apps.port_of(number))
        words = ["--workload", "memcached", "--connections", "16", "--keys", "160"]
        load = Load("--target", target, *words, "--transactions", "4", "--count", "1000")
        counters = server.stop()["counters"]
    assert load.errors == {}
    assert counters["get_misses"] < 10  # those of the check alone
    assert counters["cmd_get"] + counters["cmd_set"] >= 1000 + 160
    assert counters["reqs_per_event"] == {"stock": 20, "stock-tuned": 200}[system]


def test_service__another_server_is_found_out(tmp_path: Path) -> None:
    script = (
        "import socket\n"
        "l = socket.create_server(('127.0.0.1', {port}))\n"
        "while True:\n"
        "    c = l.accept()[0]\n"
        "    c.recv(100)\n"
        "    c.sendall(b'VALUE none 0 1\\r\\nx\\r\\nEND\\r\\n')\n"
        "    c.close()\n"
    )
    bed, number = NativeBed(), free_trial()
    argv = ["python3", "-S", "-c", script.format(port=apps.port_of(number))]
    with (
        apps.start("memcached", CELL, bed, argv, number, tmp_path / "log") as server,
        pytest.raises(HarnessError, match="get of nothing"),
    ):
        server.ready()


def test_service__that_does_not_start(tmp_path: Path) -> None:
    bed = NativeBed()
    with (
        apps.start("memcached", CELL, bed, ["false"], free_trial(), tmp_path / "log") as server,
        pytest.raises(HarnessError, match="status 1"),
    ):
        server.ready()
