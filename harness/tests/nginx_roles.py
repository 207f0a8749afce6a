# SPDX-License-Identifier: MIT
"""What nginx_client.py does to a server that is mistreated meanwhile: reloaded, replaced, killed.

Each returns how many requests failed. "waiting" on standard output says that all is under way;
a line on standard input, that it is time to end.
"""

import hashlib
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

from nginx_backends import content
from nginx_gateway import unchecked
from nginx_http import (
    TIMEOUT_S,
    Address,
    NoAnswerError,
    abandon,
    ask,
    at,
    check,
    comparable,
    connect,
    read_exactly,
    read_response,
    read_response_head,
    request,
    slow_connect,
)
from nginx_server import BIG, SIZES


def told_to_end() -> threading.Event:
    """Set when a line comes from whoever has started this program."""
    end = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        end.set()

    threading.Thread(target=listen, daemon=True).start()
    return end


def load(address: Address, seconds: float) -> int:
    """New connections and kept ones until the time is over; prints and returns what failed.

    A server that ends may close a kept connection just when it is used again, so a request that is
    not the first on its connection may be left without any answer.
    """
    end = time.monotonic() + seconds
    counts = {"answered": 0, "failed": 0}
    lock = threading.Lock()

    def rude_client() -> None:
        while time.monotonic() < end:
            for data in (b"GET /1 HT", request("/big"), request("/proxy/big"), request("/1")):
                with suppress(ConnectionResetError):
                    abandon(address, data, reset=True, wait=True)

    def client(number: int) -> None:
        size = SIZES[number % len(SIZES)]
        while time.monotonic() < end:
            done, failed = 0, 0
            try:
                with connect(address) as sock:
                    for _ in range(1 if number % 2 else 5):
                        answer = check(ask(sock, request(f"/{size}"))[0], size)
                        done += 1
                        if answer[1]["connection"] == "close":
                            break
            except (OSError, ValueError, KeyError, AssertionError) as error:
                if not done or not isinstance(error, NoAnswerError):
                    print(f"failed: {error!r}", flush=True)
                    failed = 1
            with lock:
                counts["answered"] += done
                counts["failed"] += failed

    threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
    threads.append(threading.Thread(target=rude_client))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(counts)
    return counts["failed"] + (not counts["answered"])


def queued(address: Address, count: int) -> int:
    """Connections that wait while the server is being mistreated; returns how many failed."""
    failed = 0
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(address)) for _ in range(count)]
        for sock in socks:
            sock.sendall(request("/4096", headers="Connection: close\r\n"))
        print("waiting", flush=True)
        for sock in socks:
            try:
                with sock.makefile("rb") as file:
                    check(comparable(read_response(file)), 4096)
                    assert file.read() == b""
            except (OSError, ValueError, AssertionError) as error:
                print(f"failed: {error!r}", flush=True)
                failed += 1
    print(f"{failed} of {count} failed", flush=True)
    return failed


def restless(address: Address, count: int) -> int:
    """So many kept connections that go on sending until this program is told to end, whatever
    happens to the server; returns how many requests failed."""
    end = told_to_end()
    counts = {"answered": 0, "failed": 0}
    lock = threading.Lock()

    def client(number: int) -> None:
        socks: list[socket.socket | None] = [None] * number
        while not end.is_set():
            fresh, done = set(), 0
            for i, sock in enumerate(socks):
                if sock is None:
                    fresh.add(i)
                    socks[i] = sock = connect(address)
                with suppress(BrokenPipeError, ConnectionResetError):
                    sock.sendall(request("/idle/100"))
            for i, sock in enumerate(socks):
                assert sock
                try:
                    with sock.makefile("rb") as file:
                        check(comparable(read_response(file)), 100)
                    done += 1
                    continue
                except (OSError, ValueError, AssertionError) as error:
                    if i in fresh or not isinstance(error, NoAnswerError):
                        print(f"failed: {error!r}", flush=True)
                        with lock:
                            counts["failed"] += 1
                sock.close()
                socks[i] = None
            with lock:
                counts["answered"] += done

    print("waiting", flush=True)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, [count // 16] * 16))
    print(counts)
    return counts["failed"] + (not counts["answered"])


def hold(address: Address, count: int, port: str) -> int:
    """So many connections, each of which has been answered once, until told to end."""
    end = told_to_end()
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(connect(address, port))
            if port == "tls":
                sock = stack.enter_context(unchecked(sock))
            check(ask(sock, request("/idle/1"))[0], 1)
        print("waiting", flush=True)
        end.wait(TIMEOUT_S)
    return 0


def fill(address: Address, port: str) -> int:
    """As many connections as the server's queue takes while nobody accepts: it says how many, and
    they are answered when this program is told to end."""
    end = told_to_end()
    refused = 0
    with ExitStack() as stack:
        socks = []
        while refused < 20:
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.5)
            try:
                sock.connect(at(address, port))
                socks.append(sock)
            except TimeoutError:
                refused += 1
                sock.close()
        print(f"waiting\n{len(socks)}", flush=True)
        end.wait(TIMEOUT_S)
        for sock in socks:
            sock.settimeout(TIMEOUT_S)
            check(ask(sock, request("/1"))[0], 1)
    return 0


def outlive(address: Address) -> int:
    """Requests that last until this program is told to end: a download, one by way of a proxy, an
    upload, a WebSocket. All must end well, whatever happens to the server meanwhile."""
    end = told_to_end()
    under_way = threading.Barrier(5)

    def download(path: str) -> None:
        with slow_connect(address) as sock:
            sock.sendall(request(path))
            with sock.makefile("rb", buffering=1024) as file:
                assert read_response_head(file)[0] == "HTTP/1.1 200 OK"
                body = bytearray(read_exactly(file, 1000))
                under_way.wait(TIMEOUT_S)
                while not end.wait(0.2):
                    body += read_exactly(file, 1000)
                body += read_exactly(file, BIG - len(body))
        assert body == content(BIG), path

    def upload() -> None:
        body = content(3_000_000)
        with connect(address) as sock:
            sock.sendall(request("/count", "POST", f"Content-Length: {len(body)}\r\n"))
            sock.sendall(body[:1000])
            under_way.wait(TIMEOUT_S)
            sent = 1000
            while not end.wait(0.2):
                sock.sendall(body[sent : sent + 1000])
                sent += 1000
            sock.sendall(body[sent:])
            with sock.makefile("rb") as file:
                answer = read_response(file)
        assert answer[2].decode() == f"{len(body)} {hashlib.sha256(body).hexdigest()}", answer

    def talk() -> None:
        with connect(address) as sock:
            sock.sendall(request("/upgrade", headers="Upgrade: echo\r\nConnection: Upgrade\r\n"))
            with sock.makefile("rb") as file:
                assert " 101 " in read_response_head(file)[0]
                under_way.wait(TIMEOUT_S)
                while True:
                    sock.sendall(content(1000))
                    assert read_exactly(file, 1000) == content(1000)
                    if end.wait(0.2):
                        return

    with ThreadPoolExecutor() as pool:
        parts = [pool.submit(download, path) for path in ("/big", "/proxy/big")]
        parts += [pool.submit(upload), pool.submit(talk)]
        under_way.wait(TIMEOUT_S)
        print("waiting", flush=True)
        failed = [repr(part.exception()) for part in parts if part.exception()]
    print(failed)
    return len(failed)
