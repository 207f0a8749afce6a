# SPDX-License-Identifier: MIT
"""A small HTTP client that leaves nothing to a library: raw sockets, answers as they came."""

import hashlib
import socket
import struct
from typing import Any

from nginx_backends import content
from nginx_server import PORT_NAMES

Address = tuple[str, int]
TIMEOUT_S = 120.0


class NoAnswerError(ConnectionError):
    """The connection has ended before the first byte of an answer."""


RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset


def at(address: Address, port: str) -> Address:
    """Another of the server's ports."""
    return address[0], address[1] + PORT_NAMES.index(port)


def connect(address: Address, port: str = "port") -> socket.socket:
    return socket.create_connection(at(address, port), timeout=TIMEOUT_S)


def read_all(sock: socket.socket) -> bytes:
    """Up to the end of the connection, orderly or not."""
    data = bytearray()
    try:
        while more := sock.recv(1 << 20):
            data += more
    except ConnectionResetError:
        data += b"<reset>"
    return bytes(data)


def read_exactly(file: Any, size: int) -> bytes:
    data: bytes = file.read(size)
    if len(data) < size:
        raise ConnectionAbortedError(f"{len(data)} of {size} bytes")
    return data


def read_line(file: Any) -> str:
    line: bytes = file.readline()
    if not line.endswith(b"\n"):
        raise ConnectionAbortedError(f"a line ends after {line!r}")
    return line.decode().strip()


def read_response_head(file: Any) -> tuple[str, dict[str, str]]:
    try:
        answered = bool(file.peek(1))
    except ConnectionResetError:
        answered = False
    if not answered:
        raise NoAnswerError("no answer")
    status = read_line(file)
    headers = {}
    while line := read_line(file):
        name, value = line.split(": ", 1)
        headers[name.lower()] = value
    return status, headers


def read_response(file: Any, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    status, headers = read_response_head(file)
    body = b""
    if method == "HEAD" or " 304 " in status or " 100 " in status:
        pass
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(read_line(file), 16):
            body += read_exactly(file, size)
            assert read_line(file) == ""
        assert read_line(file) == ""
    elif "content-length" in headers:
        body = read_exactly(file, int(headers["content-length"]))
    else:
        body = file.read()
    return status, headers, body


VOLATILE = ("date", "etag", "last-modified")


def comparable(response: tuple[str, dict[str, str], bytes]) -> Any:
    status, headers, body = response
    kept = {name: value for name, value in headers.items() if name not in VOLATILE}
    return status, kept, abridged(body)


def abridged(body: bytes) -> bytes | tuple[int, str]:
    return body if len(body) < 300 else (len(body), hashlib.sha256(body).hexdigest())


def check(answer: Any, size: int) -> Any:
    """That it is the whole file of that size; returns the answer, as comparable() made it."""
    assert answer[0] == "HTTP/1.1 200 OK", answer
    assert answer[2] == abridged(content(size)), answer
    return answer


def request(path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n".encode() + body


def ask(sock: socket.socket, data: bytes, count: int = 1, method: str = "GET") -> list[Any]:
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise NoAnswerError("no answer") from error
    with sock.makefile("rb") as file:
        return [comparable(read_response(file, method)) for _ in range(count)]


def one(address: Address, data: bytes, port: str = "port", method: str = "GET") -> Any:
    with connect(address, port) as sock:
        return ask(sock, data, method=method)[0]


def slow_connect(address: Address) -> socket.socket:
    """A connection whose window is small."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.settimeout(TIMEOUT_S)
    sock.connect(address)
    return sock


def abandon(address: Address, data: bytes, reset: bool, wait: bool, port: str = "port") -> None:
    with connect(address, port) as sock:
        sock.sendall(data)
        if wait and data.endswith(b"\r\n\r\n") and b"sleep" not in data:
            sock.recv(1000)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
