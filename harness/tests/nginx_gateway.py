# SPDX-License-Identifier: MIT
"""Scenarios of nginx_client.py in which nginx stands between the client and other servers."""

import gzip
import hashlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from nginx_backends import TEXT, content
from nginx_http import (
    RESET,
    TIMEOUT_S,
    Address,
    abandon,
    ask,
    at,
    check,
    comparable,
    connect,
    one,
    read_all,
    read_response,
    read_response_head,
    request,
    slow_connect,
)
from nginx_server import BIG, SIZES


def unchecked(sock: socket.socket, **options: Any) -> ssl.SSLSocket:
    """TLS on it, whoever the server is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock, **options)


def unchecked_tls(address: Address, port: str, **options: Any) -> ssl.SSLSocket:
    return unchecked(connect(address, port), **options)


def curl(*options: str) -> tuple[str, bytes]:
    """What the body has for a digest, and what curl says of the transfer."""
    argv = ["curl", "-sk", "-w", " %{http_version} %{http_code}", *options]
    done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, check=True)
    body, said = done.stdout[:-6], done.stdout[-6:]
    return hashlib.sha256(body).hexdigest(), said


def upstream_answers(address: Address) -> Iterator[Any]:
    """Slow, unfinished, silent and failing upstreams."""
    for path in (
        *("/gate/slowly", "/direct-gate/slowly", "/gate/silent", "/gate/status/503"),
        *("/fallback/status/500", "/fallback/count", "/gate/accel", "/replaced", "/gunzipped"),
        *("/bound/peer", "/bytcp/1", *["/either/count"] * 4),
    ):
        yield path, one(address, request(path))
    for path in ("/gate/unfinished", "/direct-gate/unfinished"):
        with connect(address) as sock:
            sock.sendall(request(path))
            yield path, len(read_all(sock)) > 5000
    for size in (100, 300_000):
        body = content(size)
        chunks = b"".join(b"%x\r\n" % n + content(n) + b"\r\n" for n in (1, size))
        for path in ("/gate/count", "/direct-gate/count", "/whole/count", "/bound/count"):
            yield one(address, request(path, "POST", body=body))
            head = request(path, "POST", "Transfer-Encoding: chunked\r\n")
            yield one(address, head + chunks + b"0\r\n\r\n")
    began = time.monotonic()
    yield one(address, request("/limited/300000"))
    assert time.monotonic() - began > 0.8


def caching(address: Address) -> Iterator[Any]:
    # A name of its own for each run: what an earlier one has left may be updated just now.
    path = request(f"/cache/counter/cached-{os.getpid()}")
    found = [one(address, path) for _ in range(3)]
    yield [(headers["x-cache"], body) for _, headers, body in found]
    time.sleep(5)
    _, headers, body = one(address, path)
    yield headers["x-cache"], body
    deadline = time.monotonic() + 20
    while (answer := one(address, path))[2] == b"1":
        assert time.monotonic() < deadline, "the cache was not updated"
        time.sleep(0.1)
    yield answer[1]["x-cache"], answer[2]
    with connect(address) as sock:
        for _ in range(2):
            yield [ask(sock, request(f"/cached-files/{size}")) for size in SIZES]
        yield ask(sock, request(f"/cached-files/{SIZES[-1]}", headers="Range: bytes=7-70000\r\n"))


def subrequests(address: Address) -> Iterator[Any]:
    for status in (200, 401, 403, 500):
        for size in (1, SIZES[-1]):
            yield status, one(address, request(f"/guarded/{size}?status={status}"))
    with connect(address) as sock:
        yield ask(sock, request(f"/added/{SIZES[-1]}"))
        yield ask(sock, request("/included/page"))
        yield [ask(sock, request("/mirrored/original"))[0][2] for _ in range(3)]
        deadline = time.monotonic() + 20
        while (count := int(ask(sock, request("/gate/counter/mirror"))[0][2])) < 4:
            assert time.monotonic() < deadline, count
        for encoding in ("", "Accept-Encoding: gzip\r\n"):
            sock.sendall(request("/static/packed", headers=encoding))
            with sock.makefile("rb") as file:
                _, headers, body = read_response(file)
            assert (gzip.decompress(body) if encoding else body) == TEXT
            yield headers.get("content-encoding"), len(body)


def other_protocols(address: Address) -> Iterator[Any]:
    """To upstreams that speak TLS, gRPC's HTTP/2, scgi, uwsgi, memcached's."""
    with connect(address) as sock:
        for size in SIZES:
            yield ask(sock, request(f"/https/{size}"))
            yield ask(sock, request(f"/grpc/{size}"))
            yield ask(sock, request(f"/memcached/{size}"))
        yield ask(sock, request("/memcached/none"))
        yield ask(sock, request("/https/count", "POST", body=content(200_000)))
        for protocol in ("scgi", "uwsgi"):
            yield ask(sock, request(f"/{protocol}"))
            yield ask(sock, request(f"/{protocol}", "POST", body=content(100_000)))


def more_tls_and_http2(address: Address) -> Iterator[Any]:
    host, plain = at(address, "h2c")
    for size in SIZES:
        yield curl("--http2-prior-knowledge", f"http://{host}:{plain}/{size}")
        yield curl("--http2", f"https://{host}:{at(address, 'tls')[1]}/{size}")
    url = f"https://{host}:{at(address, 'tls')[1]}/count"
    for size in (10, 500_000):
        argv = ["curl", "-sk", "--http2", "-H", "Expect:", "--data-binary", "@-", url]
        yield subprocess.run(
            argv, input=content(size), capture_output=True, timeout=TIMEOUT_S, check=True
        ).stdout
    with unchecked_tls(address, "all_tls") as sock:
        yield [ask(sock, request(f"/{size}")) for size in SIZES]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    session = None
    for _ in range(3):
        with context.wrap_socket(connect(address, "all_tls"), session=session) as sock:
            yield ask(sock, request("/reused"))[0][2]
            session = sock.session
    with connect(address, "tls") as sock:  # the handshake is never made
        sock.sendall(b"\x16\x03\x01\x02")
        yield read_all(sock)
    with slow_connect(at(address, "tls")) as sock, context.wrap_socket(sock) as tls:
        tls.sendall(request("/big", headers="Connection: close\r\n"))
        time.sleep(0.7)
        with tls.makefile("rb") as file:
            yield comparable(read_response(file))


def closing_early(address: Address) -> Iterator[Any]:
    """The server ends the connection before the client expects it."""
    with connect(address) as sock:
        answers = [ask(sock, request("/three/1"))[0] for _ in range(3)]
        yield [headers["connection"] for _, headers, _ in answers], read_all(sock)
    with connect(address) as sock:
        sock.sendall(request("/nothing"))
        yield read_all(sock)
    for size in (11, 3_000_000):
        yield one(address, request("/small", "POST", body=content(size)))
    yield one(address, request("/nothing-here", "POST", body=content(3_000_000)))[0]
    for way in ("unread", "unread-copied"):
        with slow_connect(address) as sock:
            sock.sendall(request(f"/{way}/big"))
            time.sleep(4)
            answer = read_all(sock)
        yield way, answer.endswith(b"<reset>"), len(answer) < 6_000_000
    began = time.monotonic()
    with connect(address) as sock:
        yield [ask(sock, request("/delayed"))[0][0] for _ in range(5)]
    assert time.monotonic() - began > 0.3


def more_streams(address: Address) -> Iterator[Any]:
    big = request(f"/{SIZES[-1]}", headers="Connection: close\r\n")
    with connect(address, "preread") as sock:
        sock.sendall(big)
        with sock.makefile("rb") as file:
            yield comparable(read_response(file))
    with unchecked_tls(address, "preread", server_hostname="one.test") as sock:
        yield ask(sock, request(f"/{SIZES[-1]}"))
    with unchecked_tls(address, "stream_tls") as sock:
        for size in SIZES:
            yield ask(sock, request(f"/{size}"))
        yield ask(sock, request("/count", "POST", body=content(300_000)))
    with connect(address, "announce") as sock:
        host, port = sock.getsockname()
        assert ask(sock, request("/"))[0][2].decode() == f"{host}:{port}"
    yield one(address, b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n" + big, "announced")
    with connect(address, "half") as sock:
        sock.sendall(content(300_000))
        sock.shutdown(socket.SHUT_WR)
        yield hashlib.sha256(read_all(sock)).hexdigest()
    for _ in range(4):
        yield one(address, request("/4096"), "either")
    began = time.monotonic()
    yield one(address, big, "paced")
    yield one(address, request("/count", "POST", body=content(300_000)), "paced")
    assert time.monotonic() - began > 1.5
    with connect(address, "returned") as sock:
        yield read_all(sock).split(b" ")[2]
    yield [int(one(address, request("/"), port)[2]) - address[1] for port in ("many", "many_end")]


def more_mail(address: Address) -> Iterator[Any]:
    for lines in (b"a CAPABILITY", b"b LOGIN me wrong"), (b"c LOGIN me right", b"d FETCH 1"):
        with connect(address, "imap") as sock, sock.makefile("rb") as file:
            yield file.readline()
            for line in lines:
                sock.sendall(line + b"\r\n")
                while not (answer := file.readline()).startswith(line[:2]):
                    assert answer
                    yield hashlib.sha256(answer).hexdigest()
                yield answer
    with connect(address, "smtp") as sock, sock.makefile("rb") as file:
        yield file.readline()[:4]
        for line in (b"HELO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA"):
            sock.sendall(line + b"\r\n")
            yield file.readline()[:4]
        sock.sendall(b"a line of a message\r\n" * 20_000 + b".\r\n")
        yield file.readline()
    with unchecked_tls(address, "pop3s") as sock, sock.makefile("rb") as file:
        yield file.readline()[:4]
        for line in (b"USER me", b"PASS right", b"STAT"):
            sock.sendall(line + b"\r\n")
            yield file.readline()


def access_log(address: Address) -> Iterator[Any]:
    """What is said of the requests: by syslog, which the backend keeps."""
    paths = ["/noted/count", "/noted/status/404", "/noted-files/70000", "/noted-files/none"]
    with connect(address) as sock:
        yield ask(sock, b"".join(request(path) for path in paths), len(paths))
    yield one(address, request("/noted/count", "POST", body=content(100_000)))
    abandon(address, request("/noted/sleep"), reset=False, wait=False)
    with connect(address) as sock:  # reset with half of its request in the server
        sock.sendall(request("/noted/count", "POST", "Content-Length: 9\r\n"))
        time.sleep(0.5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    deadline = time.monotonic() + 20
    lines: list[str] = []
    while len(lines) < len(paths) + 3:
        assert time.monotonic() < deadline, lines
        with connect(address) as sock, sock.makefile("rb") as file:
            sock.sendall(request("/gate/logged"))
            lines = read_response(file)[2].decode().splitlines()
    yield sorted(lines)


def slow_head(address: Address) -> Iterator[Any]:
    """A header in two parts, and a body that comes while the answer is on its way."""
    with connect(address) as sock:
        sock.sendall(b"GET /70000 HT")
        time.sleep(0.3)
        sock.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as file:
            yield comparable(read_response(file))
    with connect(address) as sock:
        sock.sendall(request("/count", "POST", "Content-Length: 100000\r\n"))
        for part in range(10):
            sock.sendall(content(100_000)[part * 10_000 : (part + 1) * 10_000])
            time.sleep(0.05)
        with sock.makefile("rb") as file:
            yield comparable(read_response(file))
    with slow_connect(address) as sock:
        sock.sendall(request("/proxy/big") + request("/direct-gate/slowly"))
        time.sleep(0.5)
        with sock.makefile("rb") as file:
            yield comparable((*read_response_head(file), b""))
            yield hashlib.sha256(file.read(6_000_000)).hexdigest()
            yield comparable(read_response(file))


def kept_upstreams(address: Address) -> Iterator[Any]:
    """The upstream's connection is kept: it says so itself."""
    with connect(address) as sock:
        told = [ask(sock, request("/proxy/variables"))[0][2].decode().split() for _ in range(3)]
    connections, requests = zip(*(line[:2] for line in told), strict=True)
    assert len(set(connections)) == 1, told
    numbers = [int(text.split("=")[1]) for text in requests]
    assert numbers == [numbers[0] + i for i in range(3)], told
    yield "kept"


def unix_listener(address: Address) -> Iterator[Any]:
    """Of nginx itself, reached by a relay that keeps nothing back."""
    with connect(address, "relay") as sock:
        for size in SIZES:
            yield check(ask(sock, request(f"/{size}"))[0], size)
        yield check(ask(sock, request("/big"))[0], BIG)
        paths = [f"/{SIZES[i % len(SIZES)]}" for i in range(40)]
        yield ask(sock, b"".join(request(path) for path in paths), len(paths))
        yield ask(sock, request("/count", "POST", body=content(3_000_000)))
        yield ask(sock, request("/variables"))[0][2].split()[1:4]
    with slow_connect(at(address, "relay")) as sock:
        sock.sendall(request("/300000", headers="Connection: close\r\n"))
        time.sleep(0.7)
        with sock.makefile("rb") as file:
            yield check(comparable(read_response(file)), 300_000), file.read()
    for stage in (b"", b"GET /1 HT", request("/big"), request("/sleep")):
        for reset in (True, False):
            abandon(address, stage, reset, wait=True, port="relay")
    yield one(address, request("/1"), "relay")


def fast_open(address: Address) -> Iterator[Any]:
    """The request comes with the SYN, from the second connection on."""
    for _ in range(3):
        with socket.socket() as sock:
            head = request("/70000")
            assert sock.sendto(head, socket.MSG_FASTOPEN, at(address, "second")) == len(head)
            sock.settimeout(TIMEOUT_S)
            with sock.makefile("rb") as file:
                yield check(comparable(read_response(file)), 70_000)


def http2_request(path: bytes) -> bytes:
    """A connection's preface, settings and one request, in the simplest of encodings."""
    fields = b"\x82\x86\x44" + bytes([len(path)]) + path + b"\x41\x01x"
    frames = bytes(3) + b"\x04" + bytes(5)
    frames += len(fields).to_bytes(3, "big") + b"\x01\x05\0\0\0\1" + fields
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames


def more_resets(address: Address) -> Iterator[Any]:
    """Where another protocol, an upstream or nginx's own waiting is in the middle of something."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
    upgrade = request("/upgrade", headers="Upgrade: echo\r\nConnection: Upgrade\r\n")
    unread = request("/lingering/1", "POST", "Content-Length: 100000\r\n") + content(5000)
    for port, data in (
        *(("tls", hello[:5]), ("tls", hello), ("all_tls", hello)),
        *(("h2c", http2_request(b"/big")[:30]), ("h2c", http2_request(b"/big"))),
        *(("port", request("/1")), ("port", unread), ("port", upgrade)),
        *(("port", request("/fastcgi?size=3000000")), ("port", request("/page"))),
        *(("stream", request("/big")), ("stream", b"GET /1"), ("half", content(300_000))),
        *(("proxied", b"PROXY TCP4 192.0.2.7"), ("second", b""), ("own", request("/big"))),
    ):
        for reset in (True, False):
            for pause_s in (0, 0.1):
                with connect(address, port) as sock:
                    sock.sendall(data)
                    time.sleep(pause_s)
                    if reset:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    for path in ("/big", "/sleep", "/proxy/big"):
        sock = unchecked_tls(address, "tls")
        sock.sendall(request(path))
        if path != "/sleep":
            sock.recv(1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
    with connect(address) as sock:  # an answered WebSocket
        sock.sendall(upgrade)
        with sock.makefile("rb") as file:
            yield read_response_head(file)[0]
        sock.sendall(content(5000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    yield [one(address, request("/1"), port) for port in ("port", "second", "own", "stream")]


SCENARIOS = [
    kept_upstreams,
    unix_listener,
    fast_open,
    more_resets,
    upstream_answers,
    caching,
    subrequests,
    other_protocols,
    more_tls_and_http2,
    closing_early,
    more_streams,
    more_mail,
    access_log,
    slow_head,
]
