# SPDX-License-Identifier: MIT
"""memcached's programs, untouched and on libmegapipe, and both as servers on this machine."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from programs import BIN, ROOT

STOCK, MEGAPIPE = BIN / "memcached-stock", BIN / "memcached-megapipe"
ASAN = BIN / "memcached-asan"
# With TLS, SASL and the proxy.
FULL, STOCK_FULL = BIN / "memcached-full", BIN / "memcached-stock-full"
SOURCE = ROOT / "build/memcached-stock"
PORTS = {"stock": 21300, "megapipe": 21301}
OPTIONS = "-u root -U 0 -t 4 -c 12000 -A -v"
DEADLINE_S = 30.0


class Server:
    def __init__(self, program: Path, port: int, *options: str, env: Sequence[str] = ()) -> None:
        argv = ["env", *env, str(program), "-l", "127.0.0.1", "-p", str(port)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the server)
        self.process = subprocess.Popen([*argv, *OPTIONS.split(), *options], stderr=self.log)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()


@contextmanager
def serving(program: Path, port: int, *options: str, env: Sequence[str] = ()) -> Iterator[Server]:
    server = Server(program, port, *options, env=env)
    try:
        wait_for("127.0.0.1", port)
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.log.close()


def wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection((host, port), timeout=DEADLINE_S).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
