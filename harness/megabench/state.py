# SPDX-License-Identifier: MIT
"""What a running testbed consists of, on disk, so that any later command can end it.

A token is written down before anything is started, and every process carries it in its environment:
whatever a broken run left, at whatever point, is found by it. Files live in one directory beside
the state, which goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import TestbedError
from .host import wait_until

TOKEN = "MEGABENCH_TOKEN"
TERM_DEADLINE_S = 5.0
KILL_DEADLINE_S = 10.0


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells it from a later one of its number.
    None if it is gone, or dead and not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def processes_with(token: str) -> list[int]:
    mark = f"{TOKEN}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # not ours, or gone
        if mark in environment and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def signalled(token: str, number: signal.Signals) -> bool:
    found = processes_with(token)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(found)


def end_processes(token: str) -> None:
    for number, deadline in ((signal.SIGTERM, TERM_DEADLINE_S), (signal.SIGKILL, KILL_DEADLINE_S)):
        # In the midst of exec a process has no environment to be seen: look twice, and signal
        # whatever comes up late.
        quiet = 0

        def gone(number: signal.Signals = number) -> bool:
            nonlocal quiet
            quiet = 0 if signalled(token, number) else quiet + 1
            return quiet == 2

        if wait_until(gone, timeout=deadline, every=0.05):
            return
    left = ", ".join(map(str, processes_with(token)))
    raise TestbedError(f"processes of the testbed do not end: {left}", "end them by hand")


class State:
    """The state of one testbed: `values` in <name>.json, files in <name>.d/."""

    def __init__(self, directory: Path, name: str) -> None:
        self.file = directory / f"{name}.json"
        self.directory = directory / f"{name}.d"
        self.lock_file = directory / f"{name}.lock"
        self.values: dict[str, Any] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {TOKEN: self.values["token"]}

    def load(self) -> bool:
        try:
            self.values = json.loads(self.file.read_text())
        except (OSError, json.JSONDecodeError):
            self.values = {}
        return "token" in self.values

    def begin(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.values = {"token": secrets.token_hex(8)}
        self.save()
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def save(self, **values: Any) -> None:
        self.values.update(values)
        scratch = self.file.with_suffix(".json.new")
        scratch.write_text(json.dumps(self.values, indent=1))
        scratch.replace(self.file)

    def remember_process(self, role: str, pid: int) -> None:
        self.save(**{role: {"pid": pid, "start": start_time(pid)}})

    def is_alive(self, role: str) -> bool:
        process = self.values.get(role)
        return process is not None and process["start"] == start_time(process["pid"]) is not None

    def clear(self) -> None:
        """End and remove all that there is; the state goes last, so it can be tried again."""
        if self.load():
            end_processes(self.values["token"])
        shutil.rmtree(self.directory, ignore_errors=True)
        self.file.with_suffix(".json.new").unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)
        self.values = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` at a time. The lock's file goes too, so a lock taken on a file that
        was removed meanwhile is taken again."""
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise TestbedError(
                    f"another command brings the testbed up or down ({self.lock_file})",
                    "wait for that command, or stop it",
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == self.lock_file.stat().st_ino:
                    break
            os.close(handle)
        try:
            yield
        finally:
            self.lock_file.unlink(missing_ok=True)
            os.close(handle)
