# SPDX-License-Identifier: MIT
"""A demanding client: does the same to two memcached servers and compares the answers.

    python memcached_client.py [--idle N] SERVER SERVER

A server is HOST:PORT or the path of a UNIX socket. The first is the reference, the untouched build.
Both must be freshly started. A program of its own, for it has to run where the servers can be
reached; prints a line a scenario and exits 1 if an answer differs.
"""

import argparse
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from memcached_commands import (
    administration,
    binary_protocol,
    classic_commands,
    counted,
    crawled,
    flushes,
    meta_commands,
    meta_flags,
    shut_down,
    shut_down_gracefully,
    unasked,
    watched,
)
from memcached_login import sasl, text_login
from memcached_wire import (
    KB,
    RESET,
    TIMEOUT_S,
    Address,
    answers_until,
    ask,
    connect,
    connections_reaching,
    curr_connections,
    digest,
    dump,
    packet,
    parse,
    read_exactly,
    read_until,
    set_command,
    stats,
    value,
)
from pymemcache.exceptions import MemcacheError


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


def idled_out(address: Address) -> Iterator[Any]:
    """Who has been silent for as long as the server bears is shown out; who asks now and then, or
    is in the middle of a value, stays."""
    data = value(100)
    with connect(address) as idle, connect(address) as half, connect(address) as busy:
        idle.sendall(b"get none\r\n")
        half.sendall(set_command("half", data)[:50])
        yield read_until(idle, b"END\r\n")
        deadline = time.monotonic() + TIMEOUT_S
        while not select.select([idle, half], [], [], 0.2)[0]:
            busy.sendall(b"mn\r\n")
            assert read_until(busy, b"MN\r\n") == b"MN\r\n"
            assert time.monotonic() < deadline, "it bears all"
        yield read_until(idle, b"never")
        half.sendall(set_command("half", data)[50:])
        yield read_until(half, b"\r\n")
        yield stats(address)["idle_kicks"]


ON_DISK = 2000


def from_disk(address: Address) -> Iterator[Any]:
    """What the server has put on a disk another thread brings back: in the order in which it was
    asked for, with others between, changed, thrown away, or when nobody wants it any more."""
    keys = [f"disk{i}" for i in range(ON_DISK)]
    sets = [set_command(key, value(1000 + 3 * i), " noreply") for i, key in enumerate(keys)]
    yield ask(address, b"".join(sets))
    deadline = time.monotonic() + TIMEOUT_S
    while int(stats(address)["extstore_objects_written"]) < ON_DISK / 2:
        assert time.monotonic() < deadline, "nothing goes to the disk"
        time.sleep(0.2)
    some = [" ".join(keys[i : i + 40]) for i in range(0, ON_DISK, 40)]
    yield digest(ask(address, "".join(f"get {one}\r\nversion\r\n" for one in some).encode()))
    yield digest(ask(address, "".join(f"mg {key} k s v\r\n" for key in keys).encode()))
    for linger in (None, RESET):
        for one in some[:20]:
            with connect(address) as sock:
                sock.sendall(f"get {one}\r\n".encode() * 3)
                if linger:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    with connect(address) as sock:
        sock.sendall(b"".join(packet(0x0C, key.encode()) for key in keys[:200]) + packet(0x0A))
        # Without the number of the item.
        yield [one[:16] + one[24:] for one in answers_until(sock, 0x0A)]
    yield ask(address, b"append disk7 0 0 1\r\n+\r\ntouch disk8 100\r\ndelete disk9\r\n")
    yield digest(ask(address, b"get disk7 disk8 disk9 disk10\r\ngat 100 disk11\r\n"))
    yield digest(ask(address, f"get {' '.join(keys)}\r\n".encode()))
    assert int(stats(address)["get_extstore"]) > ON_DISK / 2


def hold(address: Address, connections: int) -> None:
    """Idle connections, each used once, for as long as this program lives."""
    socks = [connect(address) for _ in range(connections)]
    for sock in socks:
        sock.sendall(b"get none\r\n")
        read_until(sock, b"END\r\n")
    print("holding", flush=True)
    signal.pause()


SCENARIOS: list[Callable[[Address], Iterator[Any]]] = [
    classic_commands,
    administration,
    counted,
    crawled,
    watched,
    flushes,
    meta_commands,
    meta_flags,
    unasked,
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
# They want a server with options, or leave none.
OTHERS = [
    crowd,
    crowd_refused,
    idled_out,
    from_disk,
    sasl,
    text_login,
    shut_down,
    shut_down_gracefully,
]


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
    parser.add_argument("--engine", help="that the second server must have")
    parser.add_argument("server", nargs="+")
    args = parser.parse_args()
    servers = [parse(server) for server in args.server]
    if args.hold:
        hold(servers[0], args.hold)
    scenarios = SCENARIOS
    if args.only:
        scenarios = [s for s in SCENARIOS + OTHERS if s.__name__ == args.only]
    named = [(one.__name__, one) for one in scenarios]
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
