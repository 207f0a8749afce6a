# SPDX-License-Identifier: MIT
"""Scenarios of the demanding client: servers that want to know who asks, by SASL or in the text
protocol, and who is refused.
"""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from memcached_wire import (
    KB,
    Address,
    answers,
    answers_until,
    connect,
    packet,
    read_until,
    set_command,
    value,
)

# With a realm, or SASL would add the machine's name.
USER, ANOTHER = "user@here", "another@here"
USERS = {USER: "word", ANOTHER: "other word"}
GUESTS = 50


def plain(name: str, word: str) -> bytes:
    return f"\0{name}\0{word}".encode()


def heard(sock: socket.socket) -> bytes:
    """What comes up to the end. Who is shown out gets a reset if the server has not read all: stock
    reads 16 KB at once, MegaPipe 2 KB."""
    data = bytearray()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    with suppress(ConnectionResetError):
        while more := sock.recv(1 << 20):
            data += more
    return bytes(data)


def sasl(address: Address) -> Iterator[Any]:
    """A server with -S knows the binary protocol only, and nobody who has not said who they are."""
    store = struct.pack(">II", 9, 0)
    item = packet(0x01, b"sasl", store, value(5 * KB))
    good, bad = (packet(0x21, b"PLAIN", b"", plain(USER, w)) for w in ("word", "wrong"))
    with connect(address) as sock:
        sock.sendall(packet(0x20))
        yield (mechanisms := list(answers(sock, 1)))
        assert mechanisms[0].endswith(b"PLAIN"), mechanisms
    # Without it: refused, and the end.
    for request in (
        packet(0x00, b"sasl"),
        packet(0x0D, b"sasl") + packet(0x0A),
        item,
        packet(0x10),
        packet(0x0B) + packet(0x0A),
        b"get sasl\r\n",
        packet(0x22, b"PLAIN", b"", plain(USER, "word")) + packet(0x00, b"sasl"),
        packet(0x21, b"NONE", b"", plain(USER, "word")) + packet(0x00, b"sasl"),
        packet(0x21, b"PLAIN", b"", plain("nobody", "word")) + packet(0x00, b"sasl"),
        packet(0x21, b"M" * 33, b"", b"") + packet(0x00, b"sasl"),
        bad + packet(0x00, b"sasl"),
        bad + good + bad + packet(0x00, b"sasl"),
        good[:30],
    ):
        with connect(address) as sock:
            sock.sendall(request)
            yield heard(sock)
    # In a packet, in two, byte by byte, in steps; and all that others may do.
    rest = packet(0x00, b"sasl") + packet(0x04, b"sasl") + packet(0x0A)
    for parts in (
        [good + item + rest],
        [good, item, rest],
        [bytes([byte]) for byte in good] + [item[:100], item[100:] + rest],
        [packet(0x21, b"PLAIN"), packet(0x22, b"PLAIN", b"", plain(ANOTHER, "other word")), rest],
    ):
        with connect(address) as sock:
            for part in parts:
                sock.sendall(part)
                time.sleep(0.002)
            yield list(answers_until(sock, 0x0A))
    # Many at a time: who has said it is known by it, and nobody else.
    socks = [connect(address) for _ in range(GUESTS)]
    for i, sock in enumerate(socks):
        sock.sendall(packet(0x20) if i % 2 else good)
    yield [list(answers(sock, 1)) for sock in socks]
    for sock in socks:
        sock.sendall(packet(0x00, b"sasl") + packet(0x0A))
        sock.shutdown(socket.SHUT_WR)
    yield [read_until(sock, b"never") for sock in socks]
    with connect(address) as sock:
        sock.sendall(good + packet(0x10) + packet(0x0A))
        asked = [one for one in answers_until(sock, 0x0A) if one[24:].startswith(b"auth_")]
        yield [one[24:] for one in asked]
        assert len(asked) == 2, asked


def text_login(address: Address) -> Iterator[Any]:
    """A server with -Y wants to hear, as a value, who asks."""
    login = {name: set_command("any", f"{name} {word}".encode()) for name, word in USERS.items()}
    del login[ANOTHER]  # A word ends at a space.
    for request in (
        b"get none\r\n",
        b"version\r\nmn\r\n",
        set_command("any", f"{USER} wrong".encode()) + b"get any\r\n",
        set_command("any", USER.encode()) + b"get any\r\n",
        b"set any 0 0 3\r\ntoo long\r\n",
        b"set any 0 0 many\r\n",
        b"x" * 3000,
        packet(0x0A),
        login[USER][:-4],
    ):
        with connect(address) as sock:
            sock.sendall(request)
            yield heard(sock)
    item = set_command("text", value(5 * KB))
    for parts in (
        [login[USER] + item + b"get text\r\nmn\r\n"],
        [login[USER], item, b"get text\r\nmn\r\n"],
        [bytes([byte]) for byte in login[USER]] + [item[:100], item[100:], b"get text\r\nmn\r\n"],
    ):
        with connect(address) as sock:
            for part in parts:
                sock.sendall(part)
                time.sleep(0.002)
            yield read_until(sock, b"MN\r\n")
    # One after the other: of those that come together stock answers the last.
    with connect(address) as sock:
        for part in (set_command("any", f"{USER} wrong".encode()), login[USER], b"stats reset\r\n"):
            sock.sendall(part)
            yield read_until(sock, b"\r\n")
