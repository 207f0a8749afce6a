# SPDX-License-Identifier: MIT
"""Machines behind one small interface: run, start, put, get, read_text, tunnel.

LocalHost is this machine, NamespaceHost this machine inside a network namespace, SshHost any other
one. Commands are argv lists everywhere; only SSH, which has no such thing, gets them quoted.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .errors import CommandError, CommandTimeoutError, TestbedError, last_lines
from .namespace import Namespace

KILL_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Completed:
    argv: list[str]
    exit_status: int
    stdout: str
    stderr: str


class Process(Protocol):
    """A started program. Its standard output is read line by line; all it says goes to its log."""

    argv: list[str]

    def readline(self, timeout: float) -> str:
        """The next line, without its end. CommandError if the program has ended without one,
        CommandTimeoutError if none comes in time."""

    def say(self, line: str) -> None:
        """Write a line to its standard input."""

    def signal(self, name: str) -> None:
        """Send USR1, TERM, ..."""

    def wait(self, timeout: float) -> int:
        """Its exit status, or CommandTimeoutError. 128 and more: a signal (over SSH just 128)."""

    def kill(self) -> None:
        """End it now, whatever it is doing. Does nothing if it has ended."""


class Tunnel(Protocol):
    """A connection made from a host: a socket, or paramiko's likeness of one."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...

    def settimeout(self, timeout: float | None, /) -> None: ...

    def close(self) -> None: ...


class Host(Protocol):
    name: str

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        check: bool = True,
        input: str | None = None,
    ) -> Completed: ...

    def start(self, argv: Sequence[str], *, log: Path) -> Process: ...

    def put(self, local: Path, remote: str, *, mode: int = 0o755) -> None: ...

    def get(self, remote: str, local: Path) -> None: ...

    def read_text(self, path: str) -> str: ...

    def tunnel(self, address: str, port: int, timeout: float) -> Tunnel:
        """A TCP connection from this host to somewhere; OSError if there is none to be had."""


def checked(completed: Completed, host: str) -> Completed:
    if completed.exit_status:
        tail = last_lines(completed.stderr or completed.stdout)
        raise CommandError(completed.argv, completed.exit_status, tail, host=host)
    return completed


class Lines(Protocol):
    """A file of bytes, or paramiko's likeness of one."""

    def readline(self) -> bytes: ...


class LineReader:
    """Reads a program's output to its log in a thread of its own, and hands out the lines."""

    def __init__(self, argv: Sequence[str], host: str, stream: Lines, log: Path) -> None:
        self.argv = list(argv)
        self.host = host
        self.log = log
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self.thread.start()

    def _read(self, stream: Lines) -> None:
        try:
            with self.log.open("ab", buffering=0) as log:
                for line in iter(stream.readline, b""):
                    log.write(line)
                    self.lines.put(line.decode(errors="replace").rstrip("\n"))
        except (OSError, ValueError):
            pass  # the stream was closed under us: the program is gone
        finally:
            self.lines.put(None)

    def next(self, timeout: float) -> str:
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            problem = f"said nothing in {timeout:g} s"
            raise CommandTimeoutError(
                self.argv, None, self.tail(), host=self.host, problem=problem
            ) from None
        if line is None:
            self.lines.put(None)
            self.thread.join(KILL_DEADLINE_S)
            raise CommandError(
                self.argv, None, self.tail(), host=self.host, problem="ended without a word more"
            )
        return line

    def tail(self) -> str:
        try:
            return last_lines(self.log.read_text(errors="replace"))
        except OSError:
            return ""


class LocalProcess:
    def __init__(self, host: LocalHost, argv: Sequence[str], log: Path) -> None:
        self.argv = list(argv)
        self.host = host
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab", buffering=0) as stderr:
            self.popen = host.popen(
                argv, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.PIPE
            )
        assert self.popen.stdout is not None
        self.reader = LineReader(argv, host.name, self.popen.stdout, log)

    def readline(self, timeout: float) -> str:
        return self.reader.next(timeout)

    def say(self, line: str) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end shows when it is read from
            self.popen.stdin.write(line.encode() + b"\n")
            self.popen.stdin.flush()

    def signal(self, name: str) -> None:
        self.popen.send_signal(signal.Signals[f"SIG{name}"])

    def wait(self, timeout: float) -> int:
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(
                self.argv,
                None,
                self.reader.tail(),
                host=self.host.name,
                problem=f"has not ended after {timeout:g} s",
            ) from None
        self.reader.thread.join(KILL_DEADLINE_S)
        return status if status >= 0 else 128 - status

    def kill(self) -> None:
        kill_group(self.popen)
        self.reader.thread.join(KILL_DEADLINE_S)


def kill_group(popen: subprocess.Popen[bytes]) -> None:
    """Each program is started in a session of its own, so its children can be ended with it."""
    try:
        os.killpg(popen.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        popen.kill()
    popen.wait(KILL_DEADLINE_S)


class LocalHost:
    """This machine."""

    def __init__(
        self, name: str = "localhost", environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.environment = dict(environment or {})

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def popen(
        self, argv: Sequence[str], *, stdout: int | IO[bytes], stderr: int | IO[bytes],
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        try:
            return subprocess.Popen(
                self.command(argv),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(
                argv, None, host=self.name, problem=f"cannot be started: {error.strerror}"
            ) from error

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        check: bool = True,
        input: str | None = None,
    ) -> Completed:
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        popen = self.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=stdin)
        try:
            stdout, stderr = popen.communicate(
                None if input is None else input.encode(), timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(
                argv, None, host=self.name, problem=f"has not ended after {timeout:g} s"
            ) from None
        finally:
            if popen.poll() is None:
                kill_group(popen)
        completed = Completed(
            list(argv),
            popen.returncode if popen.returncode >= 0 else 128 - popen.returncode,
            stdout.decode(errors="replace"),
            stderr.decode(errors="replace"),
        )
        return checked(completed, self.name) if check else completed

    def start(self, argv: Sequence[str], *, log: Path) -> Process:
        return LocalProcess(self, argv, log)

    def put(self, local: Path, remote: str, *, mode: int = 0o755) -> None:
        target = Path(remote)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(local)):
            shutil.copyfile(local, target)
        target.chmod(mode)

    def get(self, remote: str, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(remote, local)

    def read_text(self, path: str) -> str:
        return self.run(["cat", "--", path], timeout=30).stdout

    def tunnel(self, address: str, port: int, timeout: float) -> Tunnel:
        return socket.create_connection((address, port), timeout)


class NamespaceHost(LocalHost):
    """This machine, seen from inside a network namespace."""

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        environment: Mapping[str, str] | None = None,
        pin: Sequence[str] = (),
    ) -> None:
        super().__init__(name, environment)
        self.namespace = namespace
        self.pin = list(pin)  # what keeps its commands on cores of their own

    def command(self, argv: Sequence[str]) -> list[str]:
        return self.namespace.argv([*self.pin, *argv])

    def tunnel(self, address: str, port: int, timeout: float) -> Tunnel:
        try:
            connection = self.namespace.connect(address, port, timeout)
        except TestbedError as error:
            raise ConnectionError(error.message) from error
        # It was made by another process, and does not block: with a timeout Python waits for it.
        connection.settimeout(timeout)
        return connection


def wait_until(condition: Callable[[], bool], *, timeout: float, every: float = 0.1) -> bool:
    """Poll until the condition holds; False if it does not by the deadline."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
