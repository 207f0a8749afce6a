# SPDX-License-Identifier: MIT
"""A demanding client: does the same to two nginx servers and compares the answers.

    python nginx_client.py [--idle N] HOST:PORT HOST:PORT

The first is the reference, the untouched build. Both run nginx_server.py's configuration, whose
ports follow PORT. A program of its own, for it has to run where the servers can be reached; prints
a line a scenario and exits 1 if an answer differs.
"""

import argparse
import gzip
import hashlib
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import nginx_gateway
import nginx_roles
import requests
import urllib3
from nginx_backends import TEXT, content
from nginx_http import (
    TIMEOUT_S,
    Address,
    abandon,
    abridged,
    ask,
    at,
    check,
    comparable,
    connect,
    one,
    read_all,
    read_exactly,
    read_response,
    read_response_head,
    request,
    slow_connect,
)
from nginx_server import BIG, HUGE, MIB, SIZES

# ---- Scenarios: each yields what the server answered ---------------------------


def static_files(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        for size in SIZES:
            yield check(ask(sock, request(f"/{size}"))[0], size)
        yield ask(sock, request(f"/{SIZES[-1]}", "HEAD"), method="HEAD")
        yield ask(sock, request("/none"))
    for size in SIZES:
        yield one(address, request(f"/{size}", headers="Connection: close\r\n"))


def whole_big_file(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        sock.sendall(request("/big"))
        with sock.makefile("rb") as file:
            body = read_response(file)[2]
    assert body == content(BIG)
    yield len(body)


def old_http(address: Address) -> Iterator[Any]:
    for text in (b"GET /1 HTTP/1.0\r\n\r\n", b"GET /1\r\n", b"GET /none HTTP/1.0\r\n\r\n"):
        with connect(address) as sock:
            sock.sendall(text)
            yield re.sub(rb"\r\n(Date|ETag|Last-Modified):[^\r]*", b"", read_all(sock))


def ranges(address: Address) -> Iterator[Any]:
    last = SIZES[-1]
    for spec in ("0-0", "-5", f"{last - 1}-", "5-1000", "100000-0", "0-1,5-6", "9999999-"):
        answer = one(address, request(f"/{last}", headers=f"Range: bytes={spec}\r\n"))
        kind = answer[1].get("content-type", "")
        if "multipart" in kind:  # the boundary counts up
            answer = answer[0], answer[1]["content-length"]
        yield answer


def pipelining(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        paths = [f"/{SIZES[i % len(SIZES)]}" for i in range(40)]
        yield ask(sock, b"".join(request(path) for path in paths), len(paths))
        yield ask(sock, b"".join(request(f"/proxy/{path}") for path in paths), len(paths))
    with connect(address) as sock:
        data = request("/1") * 30 + request("/none", headers="Connection: close\r\n")
        sock.sendall(data)
        with sock.makefile("rb") as file:
            yield [comparable(read_response(file)) for _ in range(31)], file.read()


def byte_by_byte(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request("/1", headers="X-Slow: yes\r\n"):
            sock.sendall(bytes([byte]))
        with sock.makefile("rb") as file:
            yield comparable(read_response(file))


def uploads(address: Address) -> Iterator[Any]:
    for size in (1, 2047, 2048, 2049, 70_000, 3_000_000):
        yield one(address, request("/count", "POST", body=content(size)))
        yield one(address, request("/discard", "POST", body=content(size)))
    chunks = (
        b"".join(b"%x\r\n" % n + content(n) + b"\r\n" for n in (1, 3000, 100_000)) + b"0\r\n\r\n"
    )
    yield one(address, request("/count", "POST", "Transfer-Encoding: chunked\r\n") + chunks)
    yield one(
        address, request("/count", "POST", "Transfer-Encoding: chunked\r\n") + b"nonsense\r\n"
    )
    with connect(address) as sock:
        head = request("/count", "POST", "Expect: 100-continue\r\nContent-Length: 5\r\n")
        yield ask(sock, head), ask(sock, b"12345")
    body = content(50_000)
    yield one(address, request("/dav/file", "PUT", body=body))[0][:12]
    yield one(address, request("/dav/file"))[2]
    yield one(address, request("/dav/file", "DELETE"))[0]
    yield one(address, request("/count", "POST", "Content-Length: 999999999\r\n"))


def compression(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        sock.sendall(request("/text", headers="Accept-Encoding: gzip\r\n"))
        with sock.makefile("rb") as file:
            status, headers, body = read_response(file)
    assert headers["content-encoding"] == "gzip"
    yield status, hashlib.sha256(gzip.decompress(body)).hexdigest()


def python_requests(address: Address) -> Iterator[Any]:
    """What most Python programs do, by the library that they do it with."""
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    bases = f"http://{address[0]}:{address[1]}", f"https://{address[0]}:{at(address, 'tls')[1]}"
    for base in bases:
        with requests.Session() as session:
            session.trust_env, session.verify = False, False

            def told(method: str, path: str, base: str = base, **options: Any) -> Any:
                with session.request(
                    method, base + path, timeout=TIMEOUT_S, stream=True, **options
                ) as answer:
                    body = b"".join(answer.iter_content(10_000))
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    return comparable((str(answer.status_code), headers, body))

            for size in SIZES:
                answer = told("GET", f"/{size}")
                assert answer[2] == abridged(content(size))
                yield answer
            answer = told("GET", "/text")
            assert answer[1]["content-encoding"] == "gzip"
            assert answer[2] == abridged(TEXT)
            numbers = [told("GET", "/variables")[2].split()[0] for _ in range(2)]
            assert numbers[0] == numbers[1], numbers  # one connection for all
            parts = [content(size) for size in (1, 3000, 100_000)]
            yield told("POST", "/count", data=iter(parts))
            form = {"file": ("name", content(200_000)), "field": (None, "value")}
            yield told("POST", "/count", files=form)[2].split()[0]  # the boundary is random
            yield told("GET", "/70000", headers={"Range": "bytes=5-60000"})
            yield told("HEAD", "/70000"), told("GET", "/none")


def proxying(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        for size in SIZES:
            yield ask(sock, request(f"/proxy/{size}"))
            yield ask(sock, request(f"/unbuffered/{size}"))
        yield ask(sock, request("/proxy/none"))
        yield ask(sock, request("/nobody"))
        yield ask(sock, request("/byname/1"))
    yield one(address, request(f"/slice/{SIZES[-1]}"))
    yield one(address, request("/unix/1"))


def websocket(address: Address) -> Iterator[Any]:
    with connect(address) as sock:
        sock.sendall(request("/upgrade", headers="Upgrade: echo\r\nConnection: Upgrade\r\n"))
        with sock.makefile("rb") as file:
            yield comparable((*read_response_head(file), b""))
            for size in (1, 5000, 100_000):
                sock.sendall(content(size))
                assert file.read(size) == content(size)
        yield "echoed"


def fastcgi(address: Address) -> Iterator[Any]:
    yield one(address, request("/fastcgi?size=10"))
    yield one(address, request("/fastcgi?size=100000"))
    for size in (1, 5000, 300_000):
        answer = one(address, request("/fastcgi?size=10", "POST", body=content(size)))
        assert answer[1]["x-told"] == f"{size} {hashlib.sha256(content(size)).hexdigest()}"
        yield answer


def variables(address: Address) -> Iterator[Any]:
    numbers = set()
    with ExitStack() as stack:
        for sock in [stack.enter_context(connect(address)) for _ in range(20)]:
            numbers.add(ask(sock, request("/variables"))[0][2].split()[0])
    assert len(numbers) == 20, numbers
    with connect(address) as sock:
        here = sock.getsockname()
        for i in (1, 2, 3):
            text = ask(sock, request("/variables"))[0][2].decode()
            found = dict(item.split("=") for item in text.split())
            assert found["remote_addr"] == here[0], text
            assert found["remote_port"] == str(here[1]), text
            assert found["server_addr"] == address[0], text
            assert found["server_port"] == str(address[1]), text
            assert found["requests"] == str(i), text
            assert int(found["connection"]) > 0, text
            assert int(found["rtt"]) > 0, text
        text = ask(sock, request("/ipv6/variables"))[0][2].decode()
        found = dict(item.split("=") for item in text.split())
        assert found["remote_addr"] == found["server_addr"] == "::1", text
        assert found["server_port"] == str(address[1]), text
        assert int(found["rtt"]) > 0, text
    yield "right"


def limits(address: Address) -> Iterator[Any]:
    yield [one(address, request("/rate"))[0] for _ in range(3)]
    began = time.monotonic()
    yield one(address, request("/slow/1"))
    assert time.monotonic() - began > 0.9
    with connect(address) as first:
        first.sendall(request("/alone/big"))
        first.recv(1)
        yield one(address, request("/alone/1"))[0]


def bad_requests(address: Address) -> Iterator[Any]:
    for data in (
        b"\x00\x01\x02garbage\r\n\r\n",
        b"\r\n\r\nGET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
    ):
        with connect(address) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
            # With bytes nobody has read, whether a reset overtakes the answer is a race.
            yield answer.split(b"\r\n")[0].removesuffix(b"<reset>")[:30]


def timeouts(address: Address) -> Iterator[Any]:
    with connect(address) as sock:  # client_header_timeout
        sock.sendall(b"GET / HTTP/1.1\r\nHo")
        yield read_all(sock)
    with connect(address) as sock:  # client_body_timeout
        sock.sendall(request("/count", "POST", "Content-Length: 10\r\n") + b"123")
        yield read_all(sock)[:12]
    with connect(address) as sock:  # keepalive_timeout
        yield ask(sock, request("/1")), read_all(sock)
    with connect(address) as sock:
        sock.shutdown(socket.SHUT_WR)
        yield read_all(sock)


def resets(address: Address) -> Iterator[Any]:
    """At every stage of a request; the server lives on, and answers the next one."""
    stages = [
        b"",
        b"GET /1 HT",
        request("/1"),
        request("/big"),
        request("/proxy/big"),
        request("/sleep"),
        request("/count", "POST", "Content-Length: 100000\r\n") + content(5000),
        request("/big") * 5,
    ]
    for data in stages:
        for wait in (False, True):
            for reset in (True, False):
                abandon(address, data, reset, wait)
        yield one(address, request("/1"))


def stalled_reader(address: Address) -> Iterator[Any]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(TIMEOUT_S)
        sock.connect(address)
        sock.sendall(request("/big") + request("/proxy/big") + request("/1"))
        time.sleep(1)
        yield one(address, request("/1"))
        digest = hashlib.sha256()
        with sock.makefile("rb") as file:
            for _ in range(3):
                digest.update(read_response(file)[2])
        yield digest.hexdigest()


def aborted_while_proxying(address: Address) -> Iterator[Any]:
    """The upstream's connection ends with the client's: 499."""
    before = one(address, request("/aborted"))[2]
    with connect(address) as sock:
        sock.sendall(request("/sleep"))
        time.sleep(0.5)
    deadline = time.monotonic() + 20
    while (after := one(address, request("/aborted"))[2]) == before:
        assert time.monotonic() < deadline, "the upstream was not told"
        time.sleep(0.1)
    yield int(after) - int(before)


def tls_and_http2(address: Address) -> Iterator[Any]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(connect(address, "tls")) as sock:
        for size in SIZES:
            yield ask(sock, request(f"/{size}"))
        yield ask(sock, request("/count", "POST", body=content(100_000)))
    url = f"https://{address[0]}:{at(address, 'tls')[1]}/{SIZES[-1]}"
    argv = ["curl", "-sk", "--http2", "-w", "%{http_version} %{http_code}", url]
    done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, check=True)
    yield hashlib.sha256(done.stdout).hexdigest(), done.stdout[-6:]
    yield one(address, request("/1"), "tls")[0]  # plain to the TLS port


def streams(address: Address) -> Iterator[Any]:
    with connect(address, "stream") as sock:
        for size in SIZES:
            yield ask(sock, request(f"/{size}"))
        yield ask(sock, request("/count", "POST", body=content(300_000)))
        sock.sendall(request("/1", headers="Connection: close\r\n"))
        yield len(read_all(sock)) > 0


def proxy_v2(family: int, addresses: bytes) -> bytes:
    """The PROXY protocol's second version: binary."""
    rest = addresses + struct.pack(">HH", 1234, 80)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, family, len(rest)) + rest


def proxy_protocol(address: Address) -> Iterator[Any]:
    names = "192.0.2.7", "192.0.2.8"
    long_names = "2001:db8::7", "2001:db8::8"
    for head in (
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n",
        b"PROXY TCP6 2001:db8::7 2001:db8::8 1234 80\r\n",
        proxy_v2(0x11, b"".join(socket.inet_aton(name) for name in names)),
        proxy_v2(0x21, b"".join(socket.inet_pton(socket.AF_INET6, n) for n in long_names)),
    ):
        with connect(address, "proxied") as sock:
            answer = ask(sock, head + request("/proxied"))[0]
            assert answer[2] in (b"192.0.2.7:1234", b"2001:db8::7:1234"), answer
            yield answer
    with connect(address, "proxied") as sock:
        sock.sendall(request("/proxied"))
        yield read_all(sock)


def ways_to_send(address: Address) -> Iterator[Any]:
    """One file, by all the ways that nginx knows."""
    ways = "threads threads-sendfile direct copied nopush chunks cached lingering temporary"
    with connect(address) as sock:
        for way in f"{ways} ipv6 second own".split():
            for size in SIZES:
                yield way, size, ask(sock, request(f"/{way}/{size}"))
        yield ask(sock, request("/included/page"))
    for way in ways.split():
        answer = one(address, request(f"/{way}/big", headers="Connection: close\r\n"))
        yield way, answer[0], answer[2]
    began = time.monotonic()
    yield one(address, request("/later/300000"))[2]
    assert time.monotonic() - began > 0.8


def slow_goodbye(address: Address) -> Iterator[Any]:
    """The server has said all, and closes; the client reads it later."""
    for path in ("/300000", "/big", "/proxy/300000", "/copied/300000"):
        with slow_connect(address) as sock:
            sock.sendall(request(path, headers="Connection: close\r\n"))
            time.sleep(0.7)
            with sock.makefile("rb") as file:
                yield path, comparable(read_response(file)), file.read()


def shrinking_file(address: Address) -> Iterator[Any]:
    """What was promised cannot be sent: the connection ends."""
    with slow_connect(address) as sock:
        sock.sendall(request("/shrinking"))
        with sock.makefile("rb") as file:
            yield read_response_head(file)[1]["content-length"]
            yield one(address, request("/truncate"))[2]
            yield len(file.read()) < BIG


def datagrams(address: Address) -> Iterator[Any]:
    name = b"\x04self\x04test\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(at(address, "udp"))
        for number in range(20):
            sock.send(bytes([0, number]) + b"\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1")
            yield sock.recv(512)


def mail(address: Address) -> Iterator[Any]:
    for password in (b"wrong", b"right"):
        with connect(address, "mail") as sock, sock.makefile("rb") as file:
            # nginx's greeting names the process and the time
            yield file.readline()[:4]
            for line in (b"CAPA", b"USER somebody", b"PASS " + password, b"RETR 1", b"STAT"):
                sock.sendall(line + b"\r\n")
                answer = file.readline()
                yield answer
                if line == b"CAPA" or (answer == b"+OK\r\n" and line == b"RETR 1"):
                    lines = 0
                    while file.readline() != b".\r\n":
                        lines += 1
                    yield lines
                if answer.startswith(b"-ERR"):
                    break


def programs(address: Address) -> Iterator[Any]:
    """Other people's clients."""
    url = f"http://{address[0]}:{address[1]}"
    clients = {
        "curl": ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\\n", f"{url}/1?[1-40]"],
        "wrk": ["wrk", "-t1", "-c20", "-d2s", f"{url}/4096"],
        "ab": ["ab", "-q", "-n400", "-c20", f"{url}/4096"],
        "ab -k": ["ab", "-q", "-k", "-n400", "-c20", f"{url}/70000"],
        "h2load": ["h2load", "-n400", "-c20", "--h1", f"{url}/4096"],
        "h2load h2": [
            "h2load",
            "-n400",
            "-c5",
            "-m10",
            f"https://{address[0]}:{at(address, 'tls')[1]}/1",
        ],
    }
    bad = r"(?:Failed requests|Non-2xx responses): +[1-9]|Socket errors|[^0-9][1-9]\d* failed"
    for name, argv in clients.items():
        assert shutil.which(argv[0]), f"not installed: {argv[0]} (scripts/packages.sh ensure test)"
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        codes = done.stdout if name == "curl" else ""
        # What curl says of its progress is not the server's.
        said = done.stderr[:200] if done.returncode else ""
        yield name, done.returncode, re.findall(bad, done.stdout), said, codes


def huge_download(address: Address) -> Iterator[Any]:
    """1 GiB, with a reader that stops twice."""
    with connect(address) as sock:
        sock.sendall(request("/huge", headers="Connection: close\r\n"))
        rest = bytes(MIB - 8)
        with sock.makefile("rb") as file:
            yield read_response_head(file)[1]["content-length"]
            for number in range(HUGE // MIB):
                assert read_exactly(file, MIB) == struct.pack(">Q", number) + rest
                if number in (1, HUGE // MIB // 2):
                    time.sleep(3)
                    check(one(address, request("/1")), 1)
            yield file.read()


def patient_readers(address: Address) -> Iterator[Any]:
    """The server has said all; the client takes more than a minute to read it."""

    def read_slowly(port: str, path: str, size: int, at_once: int, step: int) -> str:
        headers = f"Range: bytes=0-{size - 1}\r\nConnection: close\r\n"
        with slow_connect(at(address, port)) as sock:
            sock.sendall(request(path, headers=headers))
            with sock.makefile("rb", buffering=1024) as file:
                status, _ = read_response_head(file)
                body = read_exactly(file, at_once)
                end = time.monotonic() + 75
                while time.monotonic() < end:
                    body += file.read(step)
                    time.sleep(0.5)
                body += file.read()
        assert body == content(size), f"{port}: {len(body)} of {size} bytes"
        return status

    # What MegaPipe sends of a file at once is 128 KiB. The buffer for sending is small in the one
    # case. The other is not TCP: the socket takes two pieces, so that the third is not the
    # socket's before the first two are read, which takes longer than the 75 s; but every half a
    # minute 64 KiB are, which is how such a socket tells.
    cases = (
        ("second", "/300000", 2 * 131_072, 100_000, 400),
        ("relay", "/patient/big", 3 * 131_072, 10_000, 1200),
    )
    with ThreadPoolExecutor() as pool:
        yield list(pool.map(lambda case: read_slowly(*case), cases))


def exhausted(address: Address, connections: int) -> Iterator[Any]:
    """Twice as many as the server may have: the longest idle ones make room, then none."""
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(address)) for _ in range(1)]
        for _ in range(2 * connections):
            socks.append(stack.enter_context(connect(address)))
            check(ask(socks[-1], request("/idle/1"))[0], 1)
        ended = 0
        for sock in socks:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                ended += not sock.recv(1)
        yield connections < ended < 2 * connections
    with ExitStack() as stack:
        for _ in range(2 * connections):
            sock = stack.enter_context(connect(address))
            sock.sendall(b"GET /1 HT")
        yield "refused or not"
    yield [check(one(address, request("/1")), 1) for _ in range(5)]


def status(address: Address) -> Iterator[Any]:
    """Connections in all states, as the server counts them."""
    yield from settled(address)
    with ExitStack() as stack:
        new, kept, half, asking = (stack.enter_context(connect(address)) for _ in range(4))
        yield ask(kept, request("/1"))[0][0]
        half.sendall(b"GET /1 HT")
        asking.sendall(request("/sleep"))
        yield wait_for_status(address, "Reading: 1 Writing: 2 Waiting: 2 ")
        for sock in (new, half, asking):
            sock.close()
        yield wait_for_status(address, "Active connections: 2 ")
    yield wait_for_status(address, "Active connections: 1 ")


def deferred(address: Address) -> Iterator[Any]:
    """Of connections to one listener the server hears when data have come; of others, at once."""

    def active() -> int:
        return int(one(address, request("/status", headers="Connection: close\r\n"))[2].split()[2])

    for _ in range(10):  # the kernel lets it go after a second, in which this may not be done
        list(settled(address))
        with connect(address, "second") as sock:
            unheard = active() == 1
            answer = check(ask(sock, request("/1"))[0], 1)
            heard = active() == 2
        if unheard and heard:
            break
    assert (unheard, heard) == (True, True)
    yield answer
    list(settled(address))
    with connect(address):
        found = wait_for_status(address, "Active connections: 2 ")[0]
        assert found == "Active connections: 2 "
        yield found


def wait_for_status(address: Address, expected: str) -> list[str]:
    """What it says of connections when it says that, or after 30 s."""
    deadline = time.monotonic() + 30
    while True:
        text = one(address, request("/status", headers="Connection: close\r\n"))[2].decode()
        if expected in text or time.monotonic() > deadline:
            return text.splitlines()[::3]
        time.sleep(0.2)


def settled(address: Address) -> Iterator[Any]:
    """All connections but the one that asks have gone."""
    yield wait_for_status(address, "Active connections: 1 ")


def idle(address: Address, count: int) -> Iterator[Any]:
    """So many connections, each used at the beginning and at the end."""

    def use(sock: socket.socket) -> socket.socket:
        check(ask(sock, request("/idle/1"))[0], 1)
        return sock

    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        made = pool.map(lambda _: use(stack.enter_context(connect(address))), range(count))
        yield len(list(pool.map(use, reversed(list(made)))))


def many_at_once(address: Address) -> Iterator[Any]:
    answers: list[Any] = []

    def client(number: int) -> None:
        found = []
        for i in range(10):
            if i % 3:
                with connect(address) as sock:
                    found.append(ask(sock, request(f"/{SIZES[(number + i) % len(SIZES)]}")))
            else:
                found.append(one(address, request("/count", "POST", body=content(i * 4000 + 1))))
        answers.append((number, found))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(threads)
    yield sorted(answers, key=lambda answer: answer[0])


SCENARIOS: list[Callable[[Address], Iterator[Any]]] = [
    static_files,
    whole_big_file,
    old_http,
    ranges,
    pipelining,
    byte_by_byte,
    uploads,
    compression,
    python_requests,
    proxying,
    websocket,
    fastcgi,
    variables,
    limits,
    bad_requests,
    timeouts,
    resets,
    stalled_reader,
    aborted_while_proxying,
    tls_and_http2,
    streams,
    proxy_protocol,
    ways_to_send,
    slow_goodbye,
    shrinking_file,
    datagrams,
    mail,
    programs,
    many_at_once,
    *nginx_gateway.SCENARIOS,
    deferred,
    status,
]


def outcome(scenario: Callable[[Address], Iterator[Any]], address: Address) -> list[Any]:
    found = []
    try:
        found.extend(scenario(address))
    except (OSError, AssertionError, ValueError, KeyError) as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def difference(reference: list[Any], other: list[Any], ports: list[int]) -> str:
    for i, (want, got) in enumerate(zip(reference, other, strict=False)):
        want_text, got_text = (
            repr(value).replace(str(port), "PORT")
            for value, port in zip((want, got), ports, strict=True)
        )
        if want_text != got_text:
            return f"answer {i}: {want_text[:700]}\n  instead {got_text[:700]}"
    if len(reference) != len(other):
        return f"{len(reference)} answers, {len(other)} instead"
    if reference and re.match(r"[A-Z]\w*(Error|Refused|Reset)", str(reference[-1])):
        return f"both failed: {reference[-1]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("servers", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--load", type=float, help="seconds: requests to the first server only")
    parser.add_argument("--queued", type=int, metavar="N", help="N connections wait for the first")
    parser.add_argument("--restless", type=int, metavar="N", help="N connections that send")
    parser.add_argument("--hold", type=int, metavar="N", help="N connections do nothing")
    parser.add_argument("--hold-port", default="port", help="to which port")
    parser.add_argument("--fill", action="store_true", help="the queue of a listener")
    parser.add_argument("--outlive", action="store_true", help="requests that last")
    parser.add_argument("--exhausted", type=int, metavar="N", help="they have N connections")
    parser.add_argument("--idle", type=int, default=100, help="idle keep-alive connections")
    parser.add_argument("--only", action="append", help="one scenario; the only way to long ones")
    args = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pairs = [server.rsplit(":", 1) for server in args.servers]
    addresses = [(host, int(port)) for host, port in pairs]

    if args.load:
        return 1 if nginx_roles.load(addresses[0], args.load) else 0
    if args.hold:
        return nginx_roles.hold(addresses[0], args.hold, args.hold_port)
    if args.fill:
        return nginx_roles.fill(addresses[0], "short")
    if args.outlive:
        return nginx_roles.outlive(addresses[0])
    if args.restless:
        return 1 if nginx_roles.restless(addresses[0], args.restless) else 0
    if args.queued:
        return 1 if nginx_roles.queued(addresses[0], args.queued) else 0

    scenarios = {scenario.__name__: scenario for scenario in SCENARIOS}
    scenarios["idle"] = lambda address: idle(address, args.idle)
    if args.only:
        scenarios |= {"huge_download": huge_download, "patient_readers": patient_readers}
    scenarios["settled"] = settled
    if args.exhausted:
        scenarios = {"exhausted": lambda address: exhausted(address, args.exhausted)}
    failed = 0
    for name, scenario in scenarios.items():
        if args.only and name not in args.only:
            continue
        began = time.monotonic()
        # Both at the same time, but for what takes all descriptors.
        with ThreadPoolExecutor(1 if name == "idle" else len(addresses)) as pool:
            answers = list(pool.map(partial(outcome, scenario), addresses))
        wrong = difference(*answers, ports=[port for _, port in addresses])
        failed += bool(wrong)
        spent = time.monotonic() - began
        print(f"{'differs' if wrong else 'same':8}{name} ({spent:.1f} s)", flush=True)
        if wrong:
            print(f"  {wrong}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
