# SPDX-License-Identifier: MIT
"""The servers behind the nginx of nginx_server.py. Standard library only, as there."""

import gzip
import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

TEXT = b"the same words again\n" * 5000


def content(size: int) -> bytes:
    """Bytes that tell when some are missing, repeated or swapped."""
    unit = b"".join(struct.pack(">I", i * 2654435761 % 2**32) for i in range(1024))
    return (unit * (size // len(unit) + 1))[:size]


def read_head(file: Any) -> tuple[str, dict[str, str]]:
    first = file.readline().decode()
    headers = {}
    while line := file.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return first, headers


def read_body(file: Any, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return bytes(file.read(int(headers.get("content-length", 0))))
    body = b""
    while size := int(file.readline() or "0", 16):
        body += file.read(size)
        file.readline()
    return body


class Backend:
    """HTTP: what is asked for by the first part of the path."""

    def __init__(self, www: Path, mail_ports: dict[str, int]) -> None:
        self.www, self.mail_ports = www, mail_ports
        self.counts: Counter[str] = Counter()
        self.logged: list[str] = []

    def serve(self, sock: socket.socket) -> None:
        file = sock.makefile("rb")
        first, headers = read_head(file)
        path = first.split()[1]
        name = path.split("?")[0].split("/")[1]
        special = getattr(self, f"serve_{name}", None)
        if special:
            special(sock, file, path, headers)
            return
        status, extra, body = "200 OK", "", b""
        if name == "count":
            body = read_body(file, headers)
            body = f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
        elif name == "counter":
            self.counts[path] += 1
            body = b"%d" % self.counts[path]
        elif name == "aborted":
            body = b"%d" % self.counts["aborted"]
        elif name == "truncate":
            os.truncate(self.www / "shrinking", 0)
            body = b"done"
        elif name == "status":
            status = f"{path.split('/')[2]} Status"
        elif name == "peer":
            body = sock.getpeername()[0].encode()
        elif name == "logged":
            body = "\n".join(self.logged).encode()
        elif name == "accel":
            extra = "X-Accel-Redirect: /internal/70000\r\n"
        elif name == "gzipped":
            extra, body = "Content-Encoding: gzip\r\n", gzip.compress(TEXT, mtime=0)
        head = (
            f"HTTP/1.1 {status}\r\n{extra}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        sock.sendall(head.encode() + body)

    def serve_upgrade(self, sock: socket.socket, file: Any, *_: Any) -> None:
        sock.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
        while data := file.read1(65536):
            sock.sendall(data)

    def serve_sleep(self, sock: socket.socket, file: Any, *_: Any) -> None:
        sock.settimeout(60)
        if not file.read1(1):
            self.counts["aborted"] += 1

    def serve_mail(self, sock: socket.socket, _: Any, __: str, headers: dict[str, str]) -> None:
        protocol = headers["auth-protocol"]
        allowed = protocol == "smtp" or headers.get("auth-pass") == "right"
        status = "OK" if allowed else "Invalid login or password"
        head = f"HTTP/1.0 200 OK\r\nAuth-Status: {status}\r\nAuth-Server: 127.0.0.1\r\n"
        sock.sendall(f"{head}Auth-Port: {self.mail_ports[protocol]}\r\n\r\n".encode())

    def serve_slowly(self, sock: socket.socket, *_: Any) -> None:
        """A chunk at a time."""
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for size in range(1, 20):
            sock.sendall(b"%x\r\n" % (size * 100) + content(size * 100) + b"\r\n")
            time.sleep(0.02)
        sock.sendall(b"0\r\n\r\n")

    def serve_unfinished(self, sock: socket.socket, *_: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + content(5000))

    def serve_silent(self, sock: socket.socket, file: Any, *_: Any) -> None:
        sock.settimeout(60)
        file.read1(1)


def pop3(sock: socket.socket) -> None:
    """For whoever has been let in; RETR gives a long message."""
    file = sock.makefile("rb")
    sock.sendall(b"+OK ready\r\n")
    while line := file.readline():
        if line.startswith(b"RETR"):
            sock.sendall(b"+OK\r\n" + b"a line of a message\r\n" * 20_000 + b".\r\n")
        else:
            sock.sendall(b"+OK " + line)


def imap(sock: socket.socket) -> None:
    """Login and password come as literals; then every command is answered by its name."""
    file = sock.makefile("rb")
    sock.sendall(b"* OK ready\r\n")
    tag = file.readline().split()[0]
    for answer in (b"+ OK", b"+ OK", tag + b" OK"):
        sock.sendall(answer + b"\r\n")
        line = file.readline()
    while line:
        tag, command = line.split()[:2]
        sock.sendall(b"* " + command + b" " + b"x" * 50_000 + b"\r\n" + tag + b" OK\r\n")
        line = file.readline()


def smtp(sock: socket.socket) -> None:
    file = sock.makefile("rb")
    sock.sendall(b"220 ready\r\n")
    while line := file.readline():
        if line.startswith(b"DATA"):
            sock.sendall(b"354 go on\r\n")
            size = 0
            while (line := file.readline()) not in (b".\r\n", b""):
                size += len(line)
            sock.sendall(b"250 %d bytes\r\n" % size)
        else:
            sock.sendall(b"250 " + line)


def fastcgi(sock: socket.socket) -> None:
    size, told = 0, b""
    while True:
        head = sock.recv(8, socket.MSG_WAITALL)
        _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", head)
        body = sock.recv(length + padding, socket.MSG_WAITALL) if length + padding else b""
        if found := re.search(rb"size=(\d+)", body):
            size = int(found[1])
        if kind == 5:
            told += body[:length]
            if not length:
                break
    digest = f"X-Told: {len(told)} {hashlib.sha256(told).hexdigest()}\r\n".encode()
    out = b"Content-Type: text/plain\r\n" + digest + b"\r\n" + content(size)
    for at in range(0, len(out), 60_000):
        part = out[at : at + 60_000]
        sock.sendall(struct.pack(">BBHHBB", 1, 6, 1, len(part), 0, 0) + part)
    sock.sendall(struct.pack(">BBHHBB", 1, 3, 1, 8, 0, 0) + bytes(8))


def scgi(sock: socket.socket) -> None:
    """The header as a netstring, then the body."""
    file = sock.makefile("rb")
    length = b""
    while (byte := file.read(1)) != b":":
        length += byte
    fields = file.read(int(length) + 1).split(b"\0")
    body = file.read(int(fields[fields.index(b"CONTENT_LENGTH") + 1]))
    sock.sendall(b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    sock.sendall(b"%d " % len(body) + content(80_000))


def uwsgi(sock: socket.socket) -> None:
    file = sock.makefile("rb")
    (size,) = struct.unpack("<xHx", file.read(4))
    fields = file.read(size)
    found = re.search(rb"CONTENT_LENGTH..(\d+)", fields, re.DOTALL)
    body = file.read(int(found[1]) if found else 0)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    sock.sendall(b"%d " % len(body) + content(80_000))


def memcached(sock: socket.socket) -> None:
    """A key is there if it is a number: so many bytes."""
    file = sock.makefile("rb")
    while line := file.readline():
        key = line.split()[1].lstrip(b"/").rsplit(b"/")[-1]
        value = content(int(key)) + b"\r\n" if key.isdigit() else b""
        head = b"VALUE %s 0 %d\r\n" % (line.split()[1], len(value) - 2) if value else b""
        sock.sendall(head + value + b"END\r\n")


def answer_at_end(sock: socket.socket) -> None:
    """Says how much it was told, when it has been told all."""
    size = 0
    while data := sock.recv(65536):
        size += len(data)
    sock.sendall(b"%d" % size + content(50_000))


def relay(path: Path, client: socket.socket) -> None:
    """By TCP to the UNIX listener. It holds next to nothing: who reads slowly reads from there."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(path))

        def pass_on(source: socket.socket, sink: socket.socket, size: int) -> None:
            with suppress(OSError):
                while data := source.recv(size):
                    sink.sendall(data)
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

        other = threading.Thread(target=pass_on, args=(client, server, 65536), daemon=True)
        other.start()
        pass_on(server, client, 4096)
        other.join()


def resolve(query: bytes, is_tcp: bool) -> bytes:
    """Every name is this machine; there are no IPv6 addresses; tcp.test is told by TCP alone."""
    end = query.index(b"\0", 12) + 5
    is_a = query[end - 4 : end - 2] == b"\0\1"
    if query[12:].startswith(b"\3tcp") and not is_tcp:
        return query[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + query[12:end]
    head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if is_a else b""
    return head + query[12:end] + answer


def names_by_tcp(sock: socket.socket) -> None:
    file = sock.makefile("rb")
    while size := file.read(2):
        answer = resolve(file.read(struct.unpack(">H", size)[0]), is_tcp=True)
        sock.sendall(struct.pack(">H", len(answer)) + answer)


def datagrams(port: int, serve: Callable[[socket.socket, bytes, Any], None]) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", port))

    def receive() -> None:
        while True:
            serve(sock, *sock.recvfrom(4096))

    threading.Thread(target=receive, daemon=True).start()


def listen(port: int, serve: Callable[[socket.socket], None], address: str = "127.0.0.1") -> None:
    server = socket.create_server((address, port), backlog=512)

    def one(sock: socket.socket) -> None:
        try:
            with sock:
                serve(sock)
        except (OSError, ValueError, IndexError):
            pass  # the client went away, as some tests do

    def accept() -> None:
        while True:
            sock, _ = server.accept()
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def start(www: Path, ports: dict[str, int]) -> None:
    """All of them, each at its port."""
    mail_ports = {name: ports[f"behind_{name}"] for name in ("pop3", "imap", "smtp")}
    backend = Backend(www, mail_ports)
    listen(ports["backend"], backend.serve)
    servers = (pop3, imap, smtp)
    for server in servers:
        listen(mail_ports[server.__name__], server)
    for server in (fastcgi, scgi, uwsgi, memcached, answer_at_end):
        listen(ports[server.__name__], server)
    listen(ports["dns"], names_by_tcp)
    listen(ports["relay"], partial(relay, www.parent / "socket"), "0.0.0.0")

    def name_server(sock: socket.socket, data: bytes, peer: Any) -> None:
        sock.sendto(resolve(data, is_tcp=False), peer)

    def log(_: socket.socket, data: bytes, __: Any) -> None:
        backend.logged.append(data.decode().split("nginx: ", 1)[1])

    datagrams(ports["dns"], name_server)
    datagrams(ports["syslog"], log)
