# SPDX-License-Identifier: MIT
"""A demanding client: does the same to two memcached servers and compares the answers.

    python memcached_client.py [--idle N] SERVER SERVER

A server is HOST:PORT or the path of a UNIX socket. The first is the reference, the untouched build.
Both must be freshly started. A program of its own, for it has to run where the servers can be
reached; prints a line a scenario and exits 1 if an answer differs.
"""

import argparse
import hashlib
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

Address = tuple[str, int] | str
TIMEOUT_S = 120.0
KB = 1024

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset


def connect(address: Address) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout=TIMEOUT_S)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_S)
    sock.connect(address)
    return sock


def parse(server: str) -> Address:
    if "/" in server:
        return server
    host, port = server.rsplit(":", 1)
    return host, int(port)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = sock.recv(min(size - len(data), 1 << 20))
        if not more:
            raise ConnectionError(f"closed after {len(data)} of {size} bytes")
        data += more
    return bytes(data)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """What comes up to `end`, or up to the end of the connection."""
    data = bytearray()
    while not data.endswith(end):
        more = sock.recv(1 << 20)
        if not more:
            break
        data += more
    return bytes(data)


def ask(address: Address, request: bytes, end: bytes = b"MN\r\n") -> bytes:
    """The answers to a pipeline; a meta no-op behind it marks their end."""
    with connect(address) as sock:
        sock.sendall(request + b"mn\r\n")
        return read_until(sock, end)


def value(size: int) -> bytes:
    """Bytes that tell when some are missing, repeated or swapped."""
    unit = b"".join(struct.pack(">I", i) for i in range(256))
    return (unit * (size // len(unit) + 1))[:size]


def digest(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def set_command(key: str, data: bytes, words: str = "") -> bytes:
    return f"set {key} 7 0 {len(data)}{words}\r\n".encode() + data + b"\r\n"


# ---- Scenarios: each returns what the server answered ------------------------


def every_command(address: Address) -> Iterator[Any]:
    client = Client(address, timeout=TIMEOUT_S, default_noreply=False)
    yield client.version()
    yield client.set("a", b"1"), client.get("a"), client.get("none")
    yield client.add("a", b"2"), client.add("b", b"2"), client.get_many(["a", "b", "c"])
    yield client.replace("a", b"33"), client.replace("none", b"3")
    yield client.append("a", b"44"), client.prepend("a", b"22"), client.get("a")
    found, cas = client.gets("a")
    yield found, client.cas("a", b"new", cas), client.cas("a", b"newer", cas)
    yield client.gets_many(["a", "b"])
    yield client.set("n", b"10"), client.incr("n", 5), client.decr("n", 20), client.incr("none", 1)
    yield client.touch("a", 100), client.touch("none", 100)
    yield client.raw_command(b"gat 200 a none", b"END\r\n")
    yield client.raw_command(b"gats 300 a", b"END\r\n")
    yield client.delete("a"), client.delete("a")
    yield client.set_many({f"m{i}": b"x" * i for i in range(100)})
    yield client.get_many([f"m{i}" for i in range(100)])
    yield client.set("f", b"1", flags=123), client.raw_command(b"get f", b"END\r\n")
    try:
        yield client.incr("f", "many")  # type: ignore[arg-type]
    except MemcacheError as error:
        yield str(error)
    yield client.cache_memlimit(64)
    yield client.flush_all(), client.get("b")
    client.quit()


def obeyed(address: Address, command: str, due: str = "OK") -> bytes:
    """The answer, which begins as is due."""
    said = ask(address, command.encode() + b"\r\n")
    assert said.startswith(due.encode()), f"{command}: {said!r:.100}"
    return said


def administration(address: Address) -> Iterator[Any]:
    for command, due in (
        ("verbosity", "ERROR"),
        ("verbosity 1", "OK"),
        ("verbosity 1 noreply", "MN"),
        ("verbosity many", "CLIENT_ERROR"),
        ("slabs automove 0", "OK"),
        ("slabs automove 1", "OK"),
        ("slabs reassign 1 1", "SAME"),
        ("slabs reassign 1 99", "BADCLASS"),
        ("slabs reassign 1 2", "NOSPARE"),
        ("slabs reassign one 2", "CLIENT_ERROR"),
        ("lru tune 20 30 0.1 2.0", "OK"),
        ("lru tune 60 50 0.1 2.0", "ERROR"),
        ("lru mode flat", "OK"),
        ("lru mode segmented", "OK"),
        ("lru temp_ttl 60", "OK"),
        ("lru temp_ttl -1", "OK"),
        ("lru", "ERROR"),
        ("lru_crawler sleep 100", "OK"),
        ("lru_crawler sleep 2000000", "CLIENT_ERROR"),
        ("lru_crawler tocrawl 0", "OK"),
        ("lru_crawler crawl 999", "BADCLASS"),
        ("lru_crawler metadump 999", "BADCLASS"),
        ("stats detail on", "OK"),
        ("stats detail off", "OK"),
        ("stats sizes", "STAT sizes_status disabled"),
        ("stats sizes_enable", "STAT sizes_status enabled"),
        ("stats sizes_disable", "STAT sizes_status disabled"),
        ("stats bogus", "ERROR"),
        ("shutdown never", "CLIENT_ERROR"),
        ("bogus", "ERROR"),
    ):
        yield obeyed(address, command, due)


def crawled(address: Address) -> Iterator[Any]:
    """The crawler goes by class or over all, and tells of every item."""
    yield ask(
        address, b"flush_all\r\n" + b"".join(set_command(f"c{i}", value(i)) for i in range(99))
    )
    crawl(address, "all")
    crawl(address, "1,2")
    with connect(address) as sock:
        # When it was used, and its number, depend on who was there before.
        said = dump(sock).decode().splitlines()
        told = [re.sub(r" (exp|la|cas)=\S+", "", line) for line in said]
        assert len(told) > 99, told[:1]
        yield sorted(told)
        sock.sendall(b"get c5\r\nmn\r\n")
        yield read_until(sock, b"MN\r\n")


def crawl(address: Address, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while (said := ask(address, b"lru_crawler crawl %s\r\n" % what.encode())).startswith(b"BUSY"):
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
    assert said.startswith(b"OK"), said


def counted(address: Address) -> Iterator[Any]:
    """All that `stats` tells: its names, and those of its numbers that do not depend on time."""
    yield ask(address, b"stats reset\r\n")
    socks = [connect(address) for _ in range(5)]
    for sock in socks:
        sock.sendall(set_command("counted", b"1") + b"get counted\r\nget none\r\nmn\r\n")
        yield read_until(sock, b"MN\r\n")
    found = stats(address)
    yield sorted(found)
    asked = ("cmd_get", "cmd_set", "get_hits", "get_misses", "total_items", "total_connections")
    asked += ("bytes_read", "bytes_written", "threads", "max_connections")
    yield [(name, found[name]) for name in asked]
    # Of the smallest class: what is left in others of what was flushed is a matter of time.
    items, slabs = stats(address, "items"), stats(address, "slabs")
    yield sorted(name for name in items if name.startswith("items:1:"))
    smallest = {name: found for name, found in slabs.items() if not re.match("[2-9]|1[0-9]", name)}
    yield sorted(smallest)
    yield [smallest[f"1:{name}"] for name in ("chunk_size", "cmd_set", "get_hits", "total_pages")]
    yield obeyed(address, "stats sizes_enable", "STAT")
    yield ask(address, set_command("sized", value(1000)) + b"stats sizes\r\n")
    yield obeyed(address, "stats sizes_disable", "STAT")
    yield obeyed(address, "stats detail on")
    yield ask(address, set_command("pre:a", b"1") + b"get pre:a\r\nget pre:b\r\ndelete pre:a\r\n")
    yield ask(address, b"stats detail dump\r\n")
    yield obeyed(address, "stats detail off")
    own = ("io_engine", "megapipe_")
    yield [name for name in sorted(stats(address, "settings")) if not name.startswith(own)]
    yield states(address, {"conn_parse_cmd": 1, "conn_read": len(socks)})
    for sock in socks:
        sock.close()
    yield states(address, {"conn_parse_cmd": 1, "conn_read": 0})


def states(address: Address, due: dict[str, int]) -> dict[str, set[str]]:
    """`stats conns` once so many connections are in these states: what is told of which kind.

    memcached names what is closed if it closes just then: that is a matter of chance.
    """
    due = {**due, "conn_closed": 0}
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        conns: dict[str, dict[str, str]] = {}
        for name, found in stats(address, "conns").items():
            number, _, word = name.partition(":")
            conns.setdefault(number, {})[word] = found
        found_states = [conn["state"] for conn in conns.values() if "state" in conn]
        if all(found_states.count(state) == count for state, count in due.items()):
            break
        assert time.monotonic() < deadline, found_states
        time.sleep(0.05)
    told: dict[str, set[str]] = {}
    for conn in conns.values():
        # The address without the number of the port, which differs; not the path either.
        kind = " ".join([conn.get("state", ""), conn.get("addr", "").partition(":")[0]])
        told.setdefault(kind, set()).update(conn)
    return told


def flushes(address: Address) -> Iterator[Any]:
    """Now, later, unasked; and what comes after them stays."""
    item = set_command("flushed", b"1")
    yield ask(address, item + b"flush_all noreply\r\nget flushed\r\n" + item + b"get flushed\r\n")
    yield ask(address, item + b"flush_all 100\r\nget flushed\r\n")
    yield ask(address, item + b"flush_all 0 noreply\r\nget flushed\r\n")
    yield ask(address, item + b"flush_all later\r\nget flushed\r\n")
    yield ask(address, item + b"flush_all 2 noreply\r\nget flushed\r\n")
    deadline = time.monotonic() + TIMEOUT_S
    while (said := ask(address, b"get flushed\r\n")) != b"END\r\nMN\r\n":
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    # Until that second is over, what is stored is gone, too.
    time.sleep(2)
    yield ask(address, item + b"get flushed\r\n")


def shut_down(address: Address) -> Iterator[Any]:
    """The end, for somebody with half a request too."""
    with connect(address) as half, connect(address) as sock:
        half.sendall(b"set half 0 0 100\r\n12")
        yield ask(address, b"get none\r\n")
        sock.sendall(b"shutdown\r\n")
        yield read_until(sock, b"never"), read_until(half, b"never")
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            connect(address).close()
        except (ConnectionError, FileNotFoundError):
            return
        assert time.monotonic() < deadline, "it still listens"
        time.sleep(0.1)


def meta_commands(address: Address) -> Iterator[Any]:
    yield ask(address, b"ms k S3\r\nabc\r\nms k 3 T90 F5\r\nxyz\r\n")
    yield ask(address, b"mg k v f s k\r\nmg k\r\nmg none v\r\nmg none v q\r\n")
    yield ask(address, b"ma n N0 J13 v\r\nma n v D2\r\nma n MD v\r\n")
    yield ask(address, b"me none\r\nmd k q\r\nmd k\r\nmg k v\r\n")
    yield ask(address, b"ms q 2 MA q\r\nhi\r\nmg q v\r\nmg q v b\r\nmx q\r\n")


def packet(opcode: int, key: bytes = b"", extra: bytes = b"", data: bytes = b"") -> bytes:
    body = len(key) + len(extra) + len(data)
    head = struct.pack(">BBHBBHIIQ", 0x80, opcode, len(key), len(extra), 0, 0, body, opcode, 0)
    return head + extra + key + data


def answers(sock: socket.socket, count: int) -> Iterator[bytes]:
    for _ in range(count):
        head = read_exactly(sock, 24)
        yield head + read_exactly(sock, struct.unpack(">I", head[8:12])[0])


def answers_until(sock: socket.socket, opcode: int) -> Iterator[bytes]:
    while True:
        yield from (found := list(answers(sock, 1)))
        if found[0][1] == opcode:
            return


def binary_protocol(address: Address) -> Iterator[Any]:
    store = struct.pack(">II", 9, 0)
    count = struct.pack(">QQI", 1, 5, 0)
    big = value(300 * KB)
    # The opcodes of the protocol, in the order of its description.
    requests = [
        packet(0x01, b"b", store, b"one"),
        packet(0x00, b"b"),
        packet(0x00, b"none"),
        packet(0x02, b"b", store, b"two"),
        packet(0x02, b"c", store, b"two"),
        packet(0x03, b"c", store, b"three"),
        packet(0x05, b"n", count),
        packet(0x05, b"n", count),
        packet(0x06, b"n", count),
        packet(0x0A),
        packet(0x0B),
        packet(0x0C, b"c"),
        packet(0x0E, b"c", b"", b"!"),
        packet(0x0F, b"c", b"", b"?"),
        packet(0x1C, b"c", struct.pack(">I", 50)),
        packet(0x1D, b"c", struct.pack(">I", 50)),
        packet(0x01, b"big", store, big),
        packet(0x00, b"big"),
        packet(0x1E, b"b", struct.pack(">I", 60)),
        packet(0x23, b"b", struct.pack(">I", 60)),
        packet(0x23, b"none", struct.pack(">I", 60)),
        packet(0x04, b"c"),
        packet(0x04, b"c"),
        packet(0x08, b"", struct.pack(">I", 100)),
        packet(0x08),
    ]
    with connect(address) as sock:
        for request in requests:
            sock.sendall(request)
            yield from answers(sock, 1)
    with connect(address) as sock:
        sock.sendall(b"".join(requests))
        yield list(answers(sock, len(requests)))
    keys = [f"q{i}".encode() for i in range(300)]
    once = struct.pack(">I", 70)
    quiet = [packet(0x11, key, store, b"v" + key) for key in keys]
    quiet += [packet(0x0D, f"q{i}".encode()) for i in range(0, 600, 3)]
    for opcode, extra, data in (
        (0x12, store, b"added"),
        (0x13, store, b"replaced"),
        (0x19, b"", b"appended"),
        (0x1A, b"", b"prepended"),
        (0x09, b"", b""),
        (0x1E, once, b""),
        (0x24, once, b""),
        (0x14, b"", b""),
        (0x15, count, b""),
        (0x16, count, b""),
    ):
        # One that is there and one that is not: errors are said, and what is asked for.
        quiet += [packet(opcode, key, extra, data) for key in (b"q7", b"none%d" % opcode, b"q8")]
    with connect(address) as sock:
        sock.sendall(b"".join(quiet) + packet(0x0A) + packet(0x07))
        yield read_until(sock, b"never")
    with connect(address) as sock:
        sock.sendall(packet(0x18) + packet(0x00, b"q9") + packet(0x18, b"", once) + packet(0x0A))
        yield list(answers(sock, 2))
        sock.sendall(packet(0x10, b"io") + packet(0x10, b"sizes") + packet(0x0A))
        yield list(answers_until(sock, 0x0A))
        sock.sendall(packet(0x10) + packet(0x0A))
        # The names: what follows the head, up to the value.
        found = list(answers_until(sock, 0x0A))
        assert len(found) > 50, found
        yield sorted(one[24 : 24 + struct.unpack(">H", one[2:4])[0]] for one in found)
        sock.sendall(packet(0x08) + packet(0x17))
        yield list(answers(sock, 1)), read_until(sock, b"never")
    word = b"\0user\0word"
    # What it does not know, or not without -S: it waits for more than was announced.
    for unknown in (
        packet(0x1B, b"", struct.pack(">I", 1)),
        packet(0x20),
        packet(0x21, b"PLAIN", b"", word),
        packet(0x22, b"PLAIN", b"", word),
        packet(0x55),
    ):
        with connect(address) as sock:
            sock.sendall(unknown)
            sock.shutdown(socket.SHUT_WR)
            yield read_until(sock, b"never")


def large_values(address: Address) -> Iterator[Any]:
    for size in (2047, 2048, 2049, 16 * KB, 100 * KB, 1000 * KB, 1024 * KB + 1):
        with connect(address) as sock:
            sock.sendall(set_command(f"big{size}", value(size)) + b"mn\r\n")
            yield read_until(sock, b"MN\r\n")
            sock.sendall(f"get big{size}\r\n".encode())
            yield digest(read_until(sock, b"END\r\n"))
    keys = b" ".join(b"big%d" % size for size in (1000 * KB, 100 * KB, 2048, 16 * KB))
    yield digest(ask(address, b"".join(b"get %s\r\n" % keys for _ in range(5))))


def wide_multigets(address: Address) -> Iterator[Any]:
    """One command longer than a read buffer, with more answers than a vector has elements."""
    sets = b"".join(set_command(f"wide{i}", value(i), " noreply") for i in range(2000))
    yield digest(ask(address, sets))
    line = b"get " + b" ".join(b"wide%d" % i for i in range(2000)) + b"\r\n"
    yield digest(ask(address, line * 3))


def pipelines(address: Address) -> Iterator[Any]:
    sets = b"".join(set_command(f"p{i}", b"%d" % i, " noreply") for i in range(1000))
    gets = b"".join(b"get p%d\r\n" % i for i in range(1100))
    yield digest(ask(address, sets + gets))
    yield ask(address, b"delete p1 noreply\r\nincr p2 1 noreply\r\nget p1\r\nget p2\r\n")


def drop_by_drop(address: Address) -> Iterator[Any]:
    request = set_command("drop", b"0123456789") + b"get drop\r\nmn\r\n"
    with connect(address) as sock:
        if not isinstance(address, str):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(request)):
            sock.sendall(request[i : i + 1])
            time.sleep(0.005)
        yield read_until(sock, b"MN\r\n")


def garbage(address: Address) -> Iterator[Any]:
    yield ask(address, b"\r\n\r\nbogus\r\nget\r\nset a b c d\r\n")
    yield ask(address, b"set k 0 0 3\r\ntoo long\r\nget k\r\n")
    yield ask(address, b"get " + b"k" * 251 + b"\r\n")
    yield ask(address, set_command("neg", b"").replace(b" 0\r\n", b" -5\r\n"))
    # It closes while we send: what we hear of that is a matter of luck.
    with connect(address) as sock, suppress(ConnectionError):
        sock.sendall(b"x" * 100_000)
        read_until(sock, b"never")
    yield ask(address, b"get k\r\n")


def cut_off(address: Address) -> Iterator[Any]:
    """Half a request, then the end or a reset; the next client sees nothing of it."""
    halves = [b"ge", set_command("cut", value(100 * KB))[: 50 * KB], packet(0x01, b"cut")[:10]]
    halves.append(b"get big%d\r\n" % (1000 * KB) * 20)
    for half in halves:
        for linger in (None, RESET):
            with connect(address) as sock:
                if linger:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.sendall(half)
            yield ask(address, b"get cut\r\n")


def many_clients(address: Address) -> Iterator[Any]:
    socks = [connect(address) for _ in range(200)]
    for round_ in range(3):
        for i, sock in enumerate(socks):
            sock.sendall(set_command(f"many{i}", b"%d" % (i * round_)) + b"get many%d\r\n" % i)
        yield [read_until(sock, b"END\r\n") for sock in socks]
    for sock in socks:
        sock.close()


def reconnects(address: Address) -> Iterator[Any]:
    for i in range(300):
        yield ask(address, b"get many%d\r\n" % (i % 200))


def stats(address: Address, what: str = "") -> dict[str, str]:
    with connect(address) as sock:
        sock.sendall(f"stats {what}".rstrip().encode() + b"\r\n")
        # Of a UNIX socket without a name upstream shows bytes that are no address.
        lines = read_until(sock, b"END\r\n").decode(errors="replace").splitlines()
    words = (line.split(" ", 2) for line in lines if line.startswith("STAT "))
    return {name: found for _, name, found in words}


def curr_connections(address: Address) -> int:
    return int(stats(address)["curr_connections"])


def connections_reaching(address: Address, count: int) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    found = -1
    while found != count and time.monotonic() < deadline:
        # A server that is still full refuses who asks.
        with suppress(ConnectionError, KeyError):
            found = curr_connections(address)
        time.sleep(0.1)
    return found


def keep_asking(address: Address) -> None:
    """Sets and gets of all sizes, until killed: half of the answers are never read."""
    request = set_command("killed", value(5000)) + b"get killed\r\n" * 10
    with connect(address) as sock:
        while True:
            sock.sendall(request)
            sock.recv(20_000)


def killed_clients(address: Address) -> Iterator[Any]:
    """kill -9 of clients mid-request: others are served, and none of the dead is counted."""
    before = curr_connections(address)
    for _ in range(5):
        children = []
        for _ in range(8):
            pid = os.fork()
            if not pid:
                with suppress(OSError):
                    keep_asking(address)
                os._exit(0)
            children.append(pid)
        yield ask(address, b"get many1\r\n")
        time.sleep(0.2)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        yield ask(address, b"get many2\r\n")
    assert connections_reaching(address, before) == before


def comers(address: Address) -> int:
    """Fewer where the client has to run in the emulated guest, and nothing becomes a descriptor."""
    return 20 if isinstance(address, str) else 200


BUSY_SIZES = (2 * KB, 5 * KB, 20 * KB, 100 * KB)


def keep_busy(address: Address, done: threading.Event, number: int) -> int:
    """Pipelines of sets and gets of such values, every byte looked at; how many, until the end."""
    due = bytearray()
    request = bytearray()
    for size in BUSY_SIZES:
        key = f"busy{number}_{size}"
        request += set_command(key, value(size)) + f"get {key}\r\n".encode() * 3
        found = f"VALUE {key} 7 {size}\r\n".encode() + value(size) + b"\r\nEND\r\n"
        due += b"STORED\r\n" + found * 3
    rounds = 0
    with connect(address) as sock:
        while not done.is_set():
            sock.sendall(request)
            assert read_exactly(sock, len(due)) == due, "another's bytes"
            rounds += 1
    return rounds


def busy_while_others_come(address: Address) -> Iterator[Any]:
    """Four connections keep the workers busy all the time while others, 200 by TCP, come and go."""
    done = threading.Event()
    with ThreadPoolExecutor() as pool:
        busy = [pool.submit(keep_busy, address, done, i) for i in range(4)]
        try:
            for i in range(comers(address)):
                yield ask(address, b"get many%d\r\n" % i)
        finally:
            done.set()
        rounds = [future.result() for future in busy]
    assert min(rounds) >= 3, f"no load: {rounds}"


def dump(sock: socket.socket) -> bytes:
    """What `lru_crawler metadump` says, once the crawler has time for it."""
    while True:
        sock.sendall(b"lru_crawler metadump hash\r\n")
        said = read_until(sock, b"\r\n")
        if not said.startswith(b"BUSY"):
            return said if said.endswith(b"END\r\n") else said + read_until(sock, b"END\r\n")
        time.sleep(0.01)


def lent_while_listed(address: Address) -> Iterator[Any]:
    """Connections, each with a descriptor that no connection had before, go to a side thread and
    come back, others watch, all leave: `stats conns` names them meanwhile."""
    before = curr_connections(address)
    done = threading.Event()

    def keep_listing(_: int) -> int:
        lists = 0
        while not done.is_set():
            lists += stats(address, "conns") != {}
        return lists

    with ThreadPoolExecutor() as pool:
        listing = [pool.submit(keep_listing, i) for i in range(4)]
        socks = []
        try:
            for _ in range(comers(address)):
                socks.append(connect(address))
                assert dump(socks[-1]).endswith(b"END\r\n")
            for sock in socks:
                sock.sendall(b"mn\r\n")
                yield read_until(sock, b"MN\r\n")
            for _ in range(10):
                socks.append(connect(address))
                socks[-1].sendall(b"watch mutations\r\n")
                yield read_exactly(socks[-1], 4)
        finally:
            for sock in socks:
                sock.close()
            done.set()
        lists = [future.result() for future in listing]
        assert min(lists) > 1, f"no lists: {lists}"
    assert connections_reaching(address, before) == before


def slow_reader(address: Address) -> Iterator[Any]:
    """It asks for 30 MB and does not read: others are served, and it gets all in the end."""
    with connect(address) as slow:
        slow.sendall(b"get big%d\r\n" % (1000 * KB) * 30 + b"mn\r\n")
        for i in range(20):
            yield ask(address, b"get many%d\r\n" % i)
        time.sleep(0.5)
        yield digest(read_until(slow, b"MN\r\n"))


def idle(address: Address, connections: int) -> Iterator[Any]:
    socks = [connect(address) for _ in range(connections)]
    yield ask(address, b"get many1\r\n")
    for sock in socks[:: max(1, connections // 50)]:
        sock.sendall(b"get many2\r\nmn\r\n")
        yield read_until(sock, b"MN\r\n")
    for sock in socks:
        sock.close()


REFUSED = b"ERROR Too many open connections\r\n"


def first_answers(socks: list[socket.socket], wait_s: float) -> dict[socket.socket, bytes]:
    """What came to which until nothing had come for so long."""
    found = {}
    waiting = list(socks)
    while waiting and (ready := select.select(waiting, [], [], wait_s)[0]):
        for sock in ready:
            found[sock] = sock.recv(1000)
            waiting.remove(sock)
    return found


def come(coming: list[socket.socket], waiting: list[socket.socket]) -> dict[socket.socket, bytes]:
    """The answers that came, and to whom, until for two seconds nobody connected or was answered.

    Who connects asks, and goes from `coming` to `waiting`; who is answered leaves that.
    """
    found = {}
    while any(ready := select.select(waiting, coming, [], 2)[:2]):
        for sock in ready[1]:
            sock.sendall(b"get none\r\n")
            coming.remove(sock)
            waiting.append(sock)
        for sock in ready[0]:
            found[sock] = sock.recv(1000)
            waiting.remove(sock)
    return found


def crowd(address: Address) -> Iterator[Any]:
    """300 clients where the server takes some 180: the others wait until there is room, stock's
    without a connection."""
    assert not isinstance(address, str)
    coming: list[socket.socket] = []
    for _ in range(300):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address)
        coming.append(sock)
    waiting: list[socket.socket] = []
    found = come(coming, waiting)
    assert 100 < len(found) < 200, len(found)
    served = 0
    answers = set()
    while found:
        answers |= set(found.values())
        served += len(found)
        for sock in found:
            sock.close()
        found = come(coming, waiting)
    yield served, answers
    counters = stats(address)
    assert int(counters["listen_disabled_num"]) > 0
    yield counters["accepting_conns"]


def crowd_refused(address: Address) -> Iterator[Any]:
    """The same with maxconns_fast: the others are told so."""
    before = curr_connections(address)
    socks = [connect(address) for _ in range(300)]
    found = list(first_answers(socks, 5).values())
    assert 100 < len(found) < 200, len(found)
    yield set(found)
    for sock in socks:
        sock.close()
    assert connections_reaching(address, before) == before
    assert int(stats(address)["rejected_connections"]) >= len(found)
    yield ask(address, b"get none\r\n")


def hold(address: Address, connections: int) -> None:
    """Idle connections, each used once, for as long as this program lives."""
    socks = [connect(address) for _ in range(connections)]
    for sock in socks:
        sock.sendall(b"get none\r\n")
        read_until(sock, b"END\r\n")
    print("holding", flush=True)
    signal.pause()


SCENARIOS: list[Callable[[Address], Iterator[Any]]] = [
    every_command,
    administration,
    counted,
    crawled,
    flushes,
    meta_commands,
    binary_protocol,
    large_values,
    wide_multigets,
    pipelines,
    drop_by_drop,
    garbage,
    cut_off,
    many_clients,
    reconnects,
    killed_clients,
    busy_while_others_come,
    lent_while_listed,
    slow_reader,
]
# They want a server with limits, or leave none.
OTHERS = [crowd, crowd_refused, shut_down]


class Broken(str):
    """An answer that no server should give."""


def outcome(scenario: Callable[[Address], Iterator[Any]], address: Address) -> list[Any]:
    """All answers. An error that ends the scenario is the last one, and good for nothing: two
    servers that fail in the same way have shown nothing."""
    found: list[Any] = []
    try:
        found.extend(scenario(address))
    except (OSError, MemcacheError, AssertionError) as error:
        found.append(Broken(f"{type(error).__name__}: {error}"))
    return found


def same(reference: list[Any], other: list[Any]) -> bool:
    """Whether these are equal, and answers."""
    broken = [one for one in reference + other if isinstance(one, Broken) or one is False]
    return reference == other and not broken and bool(reference)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--idle", type=int, default=0, metavar="CONNECTIONS")
    parser.add_argument("--hold", type=int, metavar="CONNECTIONS", help="no test: have them")
    parser.add_argument("--only", help="one scenario")
    parser.add_argument("--skip", action="append", default=[], help="a scenario")
    parser.add_argument("--engine", help="that the second server must have")
    parser.add_argument("server", nargs="+")
    args = parser.parse_args()
    servers = [parse(server) for server in args.server]
    if args.hold:
        hold(servers[0], args.hold)
    scenarios = SCENARIOS
    if args.only:
        scenarios = [s for s in SCENARIOS + OTHERS if s.__name__ == args.only]
    named = [(one.__name__, one) for one in scenarios if one.__name__ not in args.skip]
    if args.idle:
        named.append((f"idle {args.idle}", partial(idle, connections=args.idle)))
    status = 0
    for name, scenario in named:
        reference, other = (outcome(scenario, server) for server in servers)
        print("ok  " if same(reference, other) else "FAIL", name, len(reference), flush=True)
        if not same(reference, other):
            status = 1
            pairs = list(zip(reference, other, strict=False))
            at = next((i for i, (a, b) in enumerate(pairs) if not same([a], [b])), len(pairs))
            print(f"  answer {at}:\n  {reference[at:][:1]!r:.500}\n  {other[at:][:1]!r:.500}")
    if args.engine:
        found = stats(servers[1], "settings")["io_engine"]
        print("ok  " if found == args.engine else "FAIL", "engine", found)
        print("    ", " ".join("=".join(pair) for pair in stats(servers[1], "io_engine").items()))
        status |= found != args.engine
    return status


if __name__ == "__main__":
    sys.exit(main())
