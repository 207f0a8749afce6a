# SPDX-License-Identifier: MIT
"""Other machines, virtual and real alike, over SSH by fabric."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import posixpath
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import paramiko
from fabric import Config, Connection
from invoke.exceptions import CommandTimedOut, ThreadException
from paramiko.ssh_exception import NoValidConnectionsError

from .errors import CommandError, CommandTimeoutError, HarnessError, TestbedError
from .host import KILL_DEADLINE_S, Completed, LineReader, Process, Tunnel, checked

# Its failures reach us as exceptions; tracebacks of its threads would only be noise.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

CONNECT_TIMEOUT_S = 60.0
# The far end ends a command by itself at its deadline; ours comes later, for a dead connection.
GRACE_S = 15.0
KEEPALIVE_S = 5
SILENCE_MS = 20_000
PUT = 'chmod "$1" "$2" && mv -f "$2" "$3" && if [ "$(id -u)" = 0 ]; then chown 0:0 "$3"; fi'
# sshd gives every command a session of its own, so its children can be ended with it.
KILL_GROUP = """\
group=$(sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f3)
kill -s KILL -- "-$group"
"""


class SshProcess:
    def __init__(self, host: SshHost, argv: Sequence[str], log: Path) -> None:
        self.argv = list(argv)
        self.host = host
        log.parent.mkdir(parents=True, exist_ok=True)
        with host.broken(argv):
            self.channel = host.open_channel()
            # Standard error joins standard output's log by a file of its own: lines stay whole.
            self.channel.exec_command(host.command(["sh", "-c", 'echo $$; exec "$@"', "sh", *argv]))
        self.errors = LineReader(argv, host.name, self.channel.makefile_stderr("rb"), log)
        self.reader = LineReader(argv, host.name, self.channel.makefile("rb"), log)
        self.pid = int(self.reader.next(CONNECT_TIMEOUT_S))

    def readline(self, timeout: float) -> str:
        return self.reader.next(timeout)

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # its end shows when it is read from
            self.channel.sendall(line.encode() + b"\n")

    def signal(self, name: str) -> None:
        self.host.run(["kill", f"-{name}", str(self.pid)], timeout=CONNECT_TIMEOUT_S)

    def wait(self, timeout: float) -> int:
        if not self.channel.status_event.wait(timeout):
            raise CommandTimeoutError(
                self.argv,
                None,
                self.reader.tail(),
                host=self.host.name,
                problem=f"has not ended after {timeout:g} s",
            )
        status = self.channel.recv_exit_status()
        for reader in (self.reader, self.errors):
            reader.thread.join(KILL_DEADLINE_S)
        # SSH reports a death by signal as -1 and names the signal where paramiko does not look.
        return status if status >= 0 else 128

    def kill(self) -> None:
        # On a machine that does not answer nothing can be ended; whoever started it finds that out.
        with contextlib.suppress(HarnessError):
            if not self.channel.exit_status_ready():
                argv = ["sh", "-c", KILL_GROUP, "sh", str(self.pid)]
                self.host.run(argv, timeout=CONNECT_TIMEOUT_S, check=False)
                self.channel.status_event.wait(KILL_DEADLINE_S)
        self.channel.close()


def hint_at(error: Exception) -> str:
    """What to do when no connection comes about."""
    if isinstance(error, FileNotFoundError):
        return "`key` and `known_hosts` in the inventory are files of this machine"
    if isinstance(error, paramiko.PasswordRequiredException):
        return "the key has a passphrase: ssh-add it to an agent, which asks for it once"
    if isinstance(error, socket.gaierror):
        return "is `host` right? this machine does not know the name"
    if isinstance(error, NoValidConnectionsError | ConnectionRefusedError | TimeoutError):
        return "is `host` right, the machine up, and its SSH server at `port`?"
    return "log in once by hand with ssh: its key must be known, and yours let in"


class Whole(io.StringIO):
    """A command's input in one piece: invoke would take a letter at a time, 10 ms for each."""

    def read(self, size: int | None = -1) -> str:
        return super().read()


def notice_silence(connection: Connection) -> None:
    """A machine that has died says nothing: the kernel gives it up, rather than wait for ever."""
    transport = connection.client.get_transport()
    if transport is None:
        return
    transport.set_keepalive(KEEPALIVE_S)
    with contextlib.suppress(OSError, AttributeError):  # not a socket of TCP's
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)


class SshHost:
    """A machine reached by SSH. Its key must be known: nobody is trusted at first sight."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        user: str = "root",
        port: int = 22,
        key: Path | None = None,
        host_key: str | None = None,
        known_hosts: Path | None = None,
        become_root: bool = False,
        connect: Callable[[], socket.socket] | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.user = user
        self.port = port
        self.key = key
        self.host_key = host_key  # "ssh-ed25519 AAAA...", else the user's known_hosts
        self.known_hosts = known_hosts
        self.become_root = become_root and user != "root"
        self.connect = connect
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        if self._connection is None or not self._connection.is_connected:
            self._connection = self._open()
        return self._connection

    def _open(self) -> Connection:
        options: dict[str, object] = {
            "banner_timeout": CONNECT_TIMEOUT_S,
            "auth_timeout": CONNECT_TIMEOUT_S,
        }
        if self.key is not None:
            options |= {
                "key_filename": str(self.key),
                "look_for_keys": False,
                # It may hold this very key, without the passphrase that the file has.
                "allow_agent": self.connect is None,
            }
        connection = Connection(
            self.address,
            user=self.user,
            port=self.port,
            connect_timeout=CONNECT_TIMEOUT_S,
            connect_kwargs=options,
            # The user's ssh_config is about the user's machines, not about our guest.
            config=Config(lazy=True) if self.connect else None,
        )
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._trust(connection)
            if self.connect is not None:
                options["sock"] = self.connect()
            connection.open()
            notice_silence(connection)
        except (OSError, paramiko.SSHException, EOFError) as error:
            raise TestbedError(
                f"{self.name}: no SSH to {self.user}@{self.address} port {self.port}: {error}",
                hint_at(error),
            ) from error
        return connection

    def _trust(self, connection: Connection) -> None:
        """Which keys of machines are known."""
        if self.known_hosts is not None:
            connection.client.load_host_keys(str(self.known_hosts))
        elif self.host_key is None:
            connection.client.load_system_host_keys()
        else:
            kind, blob = self.host_key.split()[:2]
            keys = connection.client.get_host_keys()
            key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
            where = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
            keys.add(where, kind, key)

    def _lost(self) -> None:
        """The next command comes by a new connection."""
        with contextlib.suppress(OSError, paramiko.SSHException, EOFError):
            self.close()
        self._connection = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def command(self, argv: Sequence[str]) -> str:
        """The one string that SSH carries; everything else deals in lists."""
        return shlex.join(["sudo", "-n", "--", *argv] if self.become_root else list(argv))

    @contextlib.contextmanager
    def broken(self, argv: Sequence[str]) -> Iterator[None]:
        """A connection that breaks is an error of the command; the next one gets a new one."""
        try:
            yield
        except (OSError, paramiko.SSHException, EOFError, ThreadException) as error:
            self._lost()
            why = str(error) or "the connection was closed"
            raise CommandError(
                argv, None, host=self.name, problem=f"could not be run over SSH: {why}"
            ) from error

    def open_channel(self) -> paramiko.Channel:
        transport = self.connection.client.get_transport()
        if transport is None:
            raise TestbedError(f"{self.name}: the SSH connection is gone")
        return transport.open_session(timeout=CONNECT_TIMEOUT_S)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        check: bool = True,
        input: str | None = None,
    ) -> Completed:
        bounded = ["timeout", "--kill-after=5", f"{timeout:.3f}", *argv]
        try:
            with self.broken(argv):
                result = self.connection.run(
                    self.command(bounded),
                    hide=True,
                    warn=True,
                    timeout=timeout + GRACE_S,
                    in_stream=False if input is None else Whole(input),
                )
        except CommandTimedOut:
            # It should have been ended there: nobody listens any more.
            self._lost()
            raise CommandTimeoutError(
                argv, None, host=self.name, problem=f"has not ended after {timeout:g} s"
            ) from None
        if result.exited in (124, 137) and check:
            raise CommandTimeoutError(
                argv, None, result.stderr, host=self.name, problem=f"was ended after {timeout:g} s"
            )
        completed = Completed(list(argv), result.exited, result.stdout, result.stderr)
        return checked(completed, self.name) if check else completed

    def start(self, argv: Sequence[str], *, log: Path) -> Process:
        return SshProcess(self, argv, log)

    def put(self, local: Path, remote: str, *, mode: int = 0o755) -> None:
        """Copy by SFTP; `remote` is replaced at once, even while an older one of it runs."""
        self.run(["mkdir", "-p", "--", posixpath.dirname(remote) or "."], timeout=CONNECT_TIMEOUT_S)
        # SFTP has no sudo: as an ordinary user the file lands in /tmp first.
        scratch = f"/tmp/megabench-{time.monotonic_ns()}" if self.become_root else f"{remote}.new"
        with self.broken(["sftp", "put", str(local), remote]):
            self.connection.sftp().put(str(local), scratch)
        self.run(["sh", "-c", PUT, "sh", f"{mode:o}", scratch, remote], timeout=CONNECT_TIMEOUT_S)

    def get(self, remote: str, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        with self.broken(["sftp", "get", remote]):
            self.connection.sftp().get(remote, str(local))

    def read_text(self, path: str) -> str:
        # Not by SFTP: files of /proc and /sys have no size there.
        return self.run(["cat", "--", path], timeout=CONNECT_TIMEOUT_S).stdout

    def tunnel(self, address: str, port: int, timeout: float) -> Tunnel:
        transport = self.connection.client.get_transport()
        try:
            if transport is None:
                raise OSError("the SSH connection is gone")
            channel = transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(f"{self.name}: {address} port {port}: {error}") from error
        channel.settimeout(timeout)
        return channel
