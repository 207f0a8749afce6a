# SPDX-License-Identifier: MIT
"""Scenarios of the demanding client: every command that memcached knows.

Each yields what the server answered. What depends on time or chance is left out, or waited for.
"""

import base64
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

from memcached_wire import (
    KB,
    RESET,
    TIMEOUT_S,
    Address,
    answers,
    answers_until,
    ask,
    connect,
    dump,
    packet,
    read_exactly,
    read_until,
    set_command,
    stats,
    value,
)
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError


def classic_commands(address: Address) -> Iterator[Any]:
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
    yield client.raw_command(b"bget a none", b"END\r\n")
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
        ("slabs automove 1 noreply", "MN"),
        ("slabs automove 3", "ERROR"),
        ("slabs automove ratio 0.8", "OK"),
        ("slabs automove ratio", "ERROR"),
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
        ("cache_memlimit 4", "MEMLIMIT_TOO_SMALL"),
        ("cache_memlimit 1000000001", "MEMLIMIT_ADJUST_FAILED"),
        ("cache_memlimit 64 noreply", "MN"),
        ("extstore", "ERROR"),
        ("extstore free_memchunks 1 1", "OK"),
        ("extstore item_size 512", "OK"),
        ("extstore item_age 100", "OK"),
        ("extstore low_ttl 0", "OK"),
        ("extstore recache_rate 2000", "OK"),
        ("extstore compact_under 3", "OK"),
        ("extstore drop_under 1", "OK"),
        ("extstore max_sleep 1000000", "OK"),
        ("extstore max_frag 0.8", "OK"),
        ("extstore drop_unread 0", "OK"),
        ("extstore item_size much", "ERROR"),
        ("lru_crawler", "ERROR"),
        ("lru_crawler bogus", "ERROR"),
        ("lru_crawler enable", "ERROR"),
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
        ("stats extstore", "END"),
        ("stats cachedump", "CLIENT_ERROR"),
        ("stats cachedump 1 none", "CLIENT_ERROR"),
        ("stats cachedump 99 1", "CLIENT_ERROR"),
        ("shutdown never", "CLIENT_ERROR"),
        ("refresh_certs", "ERROR"),
        ("bogus", "ERROR"),
    ):
        yield obeyed(address, command, due)
    # The thread of the crawler ends when it comes to it.
    yield obeyed(address, "lru_crawler disable")
    deadline = time.monotonic() + TIMEOUT_S
    while stats(address, "settings")["lru_crawler"] == "yes":
        assert time.monotonic() < deadline, "the crawler goes on"
        time.sleep(0.01)
    yield obeyed(address, "lru_crawler crawl all", "CLIENT_ERROR")
    yield obeyed(address, "lru_crawler metadump all", "CLIENT_ERROR")
    yield obeyed(address, "lru_crawler enable")


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
    # Flat, new items are at once in the list that is dumped.
    yield obeyed(address, "lru mode flat")
    yield ask(address, set_command("dumped", value(200 * KB)))
    every = b"".join(b"stats cachedump %d 0\r\n" % number for number in range(1, 64))
    yield (found := re.findall(rb"ITEM dumped .*", ask(address, every)))
    assert len(found) == 1, found
    yield obeyed(address, "lru mode segmented")
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


WATCHED = "fetchers mutations connevents rawcmds"
# Of evictions and of the server itself it is told when memory or time says so.
OTHER_EVENTS = "evictions sysevents proxyreqs proxyevents proxyuser"
WATCHERS = 20


def watched(address: Address) -> Iterator[Any]:
    """What a watcher is told of who comes, asks and leaves, one after the other, and when."""
    yield ask(address, b"watch bogus\r\n"), ask(address, b"version\r\nwatch\r\n")
    with connect(address) as watcher:
        watcher.sendall(set_command("last", value(KB)) + b"get last\r\nwatch\r\nnot heard\r\n")
        yield read_until(watcher, b"OK\r\n")
    sets = b"".join(set_command(f"w{i}", b"%d" % i) for i in range(20))
    stored = set_command("w0", b"+").partition(b" ")[2]
    text = sets + b"get w1 w2 none\r\ngets w3\r\ngat 100 w4\r\ntouch w5 100\r\n"
    text += b"".join(b"%s %s" % (word, stored) for word in (b"add", b"replace", b"append"))
    text += b"prepend " + stored + b"cas w0 0 0 1 1\r\n1\r\n" + b"incr w1 1\r\ndelete w2\r\n"
    text += set_command("w6", value(1024 * KB + 1))
    meta = b"mg w7 v\r\nmg none v\r\nms w7 1\r\n1\r\nms w7 1 ME\r\n1\r\nma w7 v\r\nmd w7\r\nmn\r\n"
    store = struct.pack(">II", 9, 0)
    binary = packet(0x01, b"w8", store, b"1") + packet(0x00, b"w8") + packet(0x0C, b"none")
    binary += packet(0x0E, b"w8", b"", b"2") + packet(0x05, b"w9", struct.pack(">QQI", 1, 5, 0))
    with connect(address) as watcher:
        watcher.sendall(f"watch {WATCHED} {OTHER_EVENTS}\r\n".encode())
        yield read_exactly(watcher, 4)
        lines = watcher.makefile("rb")
        for request, end, half, reset in (
            (text + b"mn\r\n", b"MN\r\n", b"", False),
            (text + b"quit\r\n", b"never", b"", False),
            (meta, b"MN\r\n", b"", False),
            (binary + packet(0x07), b"never", b"", False),
            (b"get w1\r\n", b"END\r\n", b"", True),
            (b"get w1\r\n", b"END\r\n", b"get w2", False),
            (b"get w1\r\n", b"END\r\n", b"set half 0 0 100\r\n12", True),
        ):
            with connect(address) as visitor:
                visitor.sendall(request)
                yield read_until(visitor, end)
                if half:
                    visitor.sendall(half)
                port = None if isinstance(address, str) else visitor.getsockname()[1]
                if reset:
                    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            yield told_of_one(lines, port)
        others = [connect(address) for _ in range(WATCHERS)]
        for sock in others:
            sock.sendall(b"watch evictions\r\n")
            yield read_until(sock, b"\r\n")
        # The last is one too many, and goes on as before.
        others[-1].sendall(b"get w1\r\nmn\r\n")
        yield read_until(others[-1], b"MN\r\n")
        for sock in others:
            sock.close()


def told_of_one(lines: Iterable[bytes], port: int | None) -> list[str]:
    """The lines about the next connection, from that port, in the order of what they tell."""
    told: dict[int, str] = {}
    own, first = "", 0
    for raw in lines:
        line = raw.decode(errors="replace")
        number = re.search(r"gid=(\d+)", line)
        if not number:
            continue
        if not own and re.search(rf"type=conn_new .*rport={port or '.*'} ", line):
            own, first = line[line.index("cfd=") :].split()[0], int(number[1])
        # Another thread's news come late: the end of who had that descriptor before.
        if not own or own not in line.split() or int(number[1]) < first:
            continue
        line = re.sub(r"\b(ts|gid|rport|cfd)=\S+ ?", "", line)
        # Over UNIX sockets upstream shows bytes that are no address.
        told[int(number[1])] = line if port else re.sub(r"\brip=\S*", "", line)
        if "type=conn_close" in line:
            return [told[number] for number in sorted(told)]
    raise ConnectionError(f"told no more: {told}")


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


def shut_down(address: Address, command: bytes = b"shutdown") -> Iterator[Any]:
    """The end, for somebody with half a request too."""
    with connect(address) as half, connect(address) as sock:
        half.sendall(b"set half 0 0 100\r\n12")
        yield ask(address, b"get none\r\n")
        sock.sendall(command + b"\r\n")
        yield read_until(sock, b"never"), read_until(half, b"never")
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            connect(address).close()
        except (ConnectionError, FileNotFoundError):
            return
        assert time.monotonic() < deadline, "it still listens"
        time.sleep(0.1)


def shut_down_gracefully(address: Address) -> Iterator[Any]:
    return shut_down(address, b"shutdown graceful")


def meta_commands(address: Address) -> Iterator[Any]:
    yield ask(address, b"ms k S3\r\nabc\r\nms k 3 T90 F5\r\nxyz\r\n")
    yield ask(address, b"mg k v f s k\r\nmg k\r\nmg none v\r\nmg none v q\r\n")
    yield ask(address, b"ma n N0 J13 v\r\nma n v D2\r\nma n MD v\r\n")
    yield ask(address, b"me none\r\nmd k q\r\nmd k\r\nmg k v\r\n")
    yield ask(address, b"ms q 2 MA q\r\nhi\r\nmg q v\r\nmg q v b\r\nmx q\r\n")


def timeless(said: bytes) -> bytes:
    """Without what depends on the time, and on who was there before: when, how long, and the
    number of the item."""
    said = re.sub(rb"\b([tc])[0-9]+\b", rb"\1", said)
    return re.sub(rb"\b(l[0-9]|(exp|la|cas)=[0-9-]+)\b", b"", said)


def meta_flags(address: Address) -> Iterator[Any]:
    """Each flag of each meta command, known or not to it, and what they say to each other."""
    binary = base64.b64encode(b"two words")
    for line in (
        "ms all 3 F5 T90 I k O1 q c C0 MS",
        "ms all 3 F5 T90 k O1 c",
        "mg all b",
        "mg all c f h k l O2 q s t u v",
        "mg all T100 t v",
        "mg all s v P L",
        "mg all R1000 v",
        "mg all v v",
        "mg all x",
        "mg all Tlong",
        "mg all Olong" + "g" * 40,
        "mg",
        "mg " + "k" * 251 + " v",
        "me all",
        "me",
        "md all C1",
        "md all I T30 k O3",
        "mg all c v",
        "mg all c v",
        "ms all 3 MX",
        "ms all 3 MA T0",
        "ms all 3 MP k",
        "ms all 3 ME",
        "ms new 3 ME",
        "ms none 3 MR",
        "ms none 3 MA",
        "ms all 3 MR F1",
        "ms all three",
        "ms all 3 Cmany",
        "mg all f s v",
        "md none",
        "md none q",
        "md all q",
        "md",
        "mg won N30 v t",
        "mg won v t",
        "ms won 3 T0",
        "mg won v t",
        "ma count",
        "ma count N30 J10 v t c k O4",
        "ma count D5 v",
        "ma count MI v",
        "ma count M+ D2 v",
        "ma count MD D3 v",
        "ma count M- v q",
        "ma count C1 v",
        "ma count T60 t",
        "ma count MX",
        "ma count Dmany",
        "ma count Jmany N1",
        "ma all",
        "ma",
        f"ms {binary.decode()} 3 b k",
        f"mg {binary.decode()} b k v",
        f"me {binary.decode()} b",
        f"ma {binary.decode()} b",
        f"md {binary.decode()} b k",
        "mg *** b",
    ):
        data = b"abc\r\n" if line.startswith("ms ") and " 3" in line else b""
        yield line, timeless(ask(address, line.encode() + b"\r\n" + data))
    # The number of an item is asked for, and then given.
    said = ask(address, set_command("cas", b"1") + b"mg cas c\r\n")
    number = re.search(rb"HD c(\d+)", said)
    assert number, said
    for command in (b"ms cas 1 C%d\r\n2\r\n", b"ms cas 1 C%d\r\n3\r\n", b"md cas C%d\r\n"):
        yield ask(address, command % int(number[1]))


def unasked(address: Address) -> Iterator[Any]:
    """Every command that takes it with `noreply`: nothing is said, and it is done."""
    item = b" 7 0 1 noreply\r\n1\r\n"
    for command in (
        b"set u" + item,
        b"add u" + item,
        b"add v" + item,
        b"replace u" + item,
        b"append u" + item,
        b"prepend u" + item,
        b"cas u 7 0 1 1 noreply\r\n1\r\n",
        b"incr u 5 noreply\r\n",
        b"decr u 2 noreply\r\n",
        b"incr none 2 noreply\r\n",
        b"touch u 100 noreply\r\n",
        b"touch none 100 noreply\r\n",
        b"delete v noreply\r\n",
        b"delete v 0 noreply\r\n",
    ):
        yield command, ask(address, command + b"get u v\r\n")


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
