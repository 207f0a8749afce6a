# SPDX-License-Identifier: MIT
"""A program under way on a host: waited for, stopped, and never left behind."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from megabench.errors import CommandError, CommandTimeoutError
from megabench.host import Host, Process
from megabench.interrupts import held_back

READY_S = 30.0
STOP_S = 15.0


class Program:
    """A program of ours under way: it speaks JSON lines, and its log keeps all it says."""

    def __init__(self, host: Host, argv: list[str], log: Path):
        self.host, self.argv, self.log = host, argv, log
        self.ended = False

    def __enter__(self) -> "Program":
        self.process: Process = self.host.start(self.argv, log=self.log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.ended:
            with held_back():
                self.process.kill()

    def wait_for(
        self, event: str, seconds: float, on: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """The JSON line `event`; what comes before it is in the log, and for `on` to hear."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.process.readline(max(0.01, deadline - time.monotonic()))
            except CommandTimeoutError:
                raise
            except CommandError as error:
                raise self._ended(event, error) from error
            said = _event(line)
            if said is not None and said.get("event") == event:
                return said
            if said is not None and on is not None:
                on(said)

    def _ended(self, event: str, error: CommandError) -> CommandError:
        """The same error with its exit status: 77 means that this machine lacks something."""
        status = self.end()
        return CommandError(
            self.argv,
            status,
            error.tail,
            host=self.host.name,
            problem=f"ended with status {status} before it said {event!r}",
        )

    def ready(self) -> None:
        """Wait until a server serves."""
        self.wait_for("ready", READY_S)

    def end(self) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(STOP_S)
        self.ended = True
        return status

    def stop(self) -> dict[str, Any]:
        """Ask a server to end, and return its last counters."""
        self.process.signal("TERM")
        final = self.wait_for("final", STOP_S)
        self.end()
        return final


def _event(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
