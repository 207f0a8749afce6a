# SPDX-License-Identifier: MIT
"""memcached's protocols as the demanding client speaks them: connections, requests, answers."""

import hashlib
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

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


def dump(sock: socket.socket) -> bytes:
    """What `lru_crawler metadump` says, once the crawler has time for it."""
    while True:
        sock.sendall(b"lru_crawler metadump hash\r\n")
        said = read_until(sock, b"\r\n")
        if not said.startswith(b"BUSY"):
            return said if said.endswith(b"END\r\n") else said + read_until(sock, b"END\r\n")
        time.sleep(0.01)
