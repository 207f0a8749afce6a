# SPDX-License-Identifier: MIT
"""The C programs as tests drive them: built once, run with a deadline, their JSON read.

Used by test_load.py and test_pingpong.py, natively and over loopback only.
"""

import json
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build" / "bin"
DEADLINE_S = 30.0


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server in this process: a thread per connection, which `serve` answers."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def build(*folders: str) -> None:
    """Make what is stale; nothing happens if nothing is."""
    for folder in folders:
        subprocess.run(
            ["make", "-s", "-C", str(ROOT / folder)],
            check=True,
            capture_output=True,
            timeout=120,
        )


def has_ipv6() -> bool:
    """Whether the loopback of this machine speaks IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Program:
    """A running program that prints JSON lines."""

    def __init__(self, argv: list[str]) -> None:
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )

    def event(self, name: str) -> dict[str, Any]:
        """The next line, which must be this event."""
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert ready, f"no event {name} within {DEADLINE_S} s"
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=DEADLINE_S)[1]
        event: dict[str, Any] = json.loads(line)
        assert event["event"] == name
        return event

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for it; its exit status and what it said on stderr."""
        _, stderr = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, stderr


class Server(Program):
    """pingpong-server, listening."""

    def __init__(self, *options: str) -> None:
        super().__init__([str(BIN / "pingpong-server"), "--port", "0", *options])
        self.ready = self.event("ready")
        address = self.ready["address"]
        host = f"[{address}]" if ":" in address else address
        self.target = f"{host}:{self.ready['port']}"

    def counters(self) -> dict[str, Any]:
        self.signal(signal.SIGUSR1)
        return self.event("counters")

    def total(self, counter: str) -> int:
        return sum(thread[counter] for thread in self.counters()["threads"])

    def total_reaching(self, counter: str, value: int) -> int:
        """The same once it is `value`: a server counts a reply after sending it."""
        deadline = time.monotonic() + 2
        while (total := self.total(counter)) < value and time.monotonic() < deadline:
            time.sleep(0.01)
        return total


@contextmanager
def server(*options: str) -> Iterator[Server]:
    """A server for the length of a test; it must end well."""
    running = Server(*options)
    try:
        yield running
        running.signal(signal.SIGTERM)
        running.event("final")
        assert running.end() == (0, "")
    finally:
        running.process.kill()
        running.end()


class Load:
    """A finished run of megabench-load."""

    def __init__(self, *options: str, prefix: tuple[str, ...] = ()) -> None:
        done = subprocess.run(
            [*prefix, str(BIN / "megabench-load"), *options],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        self.status = done.returncode
        self.stderr = done.stderr
        self.events = [json.loads(line) for line in done.stdout.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        assert self.events, self.stderr
        result: dict[str, Any] = self.events[-1]
        assert result["event"] == "result"
        return result

    @property
    def errors(self) -> dict[str, int]:
        """Those that happened, of the measured window and outside it."""
        both = (self.result["errors"], self.result["errors_outside"])
        sums = {kind: sum(errors[kind] for errors in both) for kind in both[0]}
        return {kind: n for kind, n in sums.items() if n}
