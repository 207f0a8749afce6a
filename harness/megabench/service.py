# SPDX-License-Identifier: MIT
"""A server that is not of our making: it is ready when it answers, and is checked before it counts.

It is reached through its own machine (Host.tunnel), since the network between servers and clients
need not be one that the harness is in.
"""

import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from megabench.errors import CommandError, CommandTimeoutError, HarnessError
from megabench.host import Host, Tunnel
from megabench.program import READY_S, STOP_S, Program

ANSWER_S = 10.0
POLL_S = 0.1


class Service(Program):
    """A server at an address; `check` says what is wrong with its answers."""

    def __init__(self, host: Host, argv: list[str], log: Path, address: str, port: int):
        super().__init__(host, argv, log)
        self.address, self.port = address, port

    def tunnel(self) -> Tunnel:
        """A connection to the server."""
        return self.host.tunnel(self.address, self.port, ANSWER_S)

    def ready(self) -> None:
        """Wait until it accepts, then check what it answers."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self.tunnel().close()
                break
            except OSError as error:
                self._must_run(str(error), deadline)
        problem = self.check()
        if problem:
            raise HarnessError(f"{self.argv[0]} does not answer as it should: {problem}")

    def _must_run(self, why: str, deadline: float) -> None:
        """Wait a moment for a server that is starting; an error if it is not any more."""
        if time.monotonic() > deadline:
            problem = f"did not accept a connection in {READY_S:g} s: {why}"
            raise CommandTimeoutError(self.argv, None, host=self.host.name, problem=problem)
        try:
            self.process.readline(POLL_S)
        except CommandTimeoutError:
            return
        except CommandError as error:
            raise self._ended("ready", error) from error

    @abstractmethod
    def check(self) -> str:
        """What is wrong with the server's answers; empty if nothing is."""

    @abstractmethod
    def counters(self) -> dict[str, Any]:
        """What the server has counted, and tells."""

    def stop(self) -> dict[str, Any]:
        """Its counters, then its end."""
        counters = self.counters()
        self.process.signal("TERM")
        self.process.wait(STOP_S)
        self.ended = True
        return {"event": "final", "threads": [], "counters": counters}
