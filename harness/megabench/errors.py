# SPDX-License-Identifier: MIT
"""The one family of errors that a user gets to see.

Each says what is wrong in its message and what to do about it in its hint; the command line prints
both and no traceback. Anything that is not a HarnessError is a bug.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


class HarnessError(Exception):
    """Something the user can understand and usually mend."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class DefinitionError(HarnessError):
    """A TOML file that does not say what it should: names the file and the key."""

    def __init__(self, path: Path, key: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{path}: {key}: {problem}" if key else f"{path}: {problem}", hint)
        self.path = path
        self.key = key


class ExperimentError(HarnessError):
    """An experiment that cannot be run, or was broken off."""


class TestbedError(HarnessError):
    """Machines that cannot be had, reached or set up."""

    __test__ = False  # pytest takes every class named Test... for a test


class CommandError(HarnessError):
    """A command that failed; `tail` holds the last lines it said."""

    def __init__(
        self,
        argv: Sequence[str],
        exit_status: int | None,
        tail: str = "",
        *,
        host: str = "",
        problem: str = "",
        hint: str = "",
    ) -> None:
        where = f" on {host}" if host else ""
        what = problem or f"ended with status {exit_status}"
        said = f"\n{tail.rstrip()}" if tail.strip() else ""
        super().__init__(f"`{shlex.join(argv)}`{where} {what}{said}", hint)
        self.argv = list(argv)
        self.exit_status = exit_status
        self.tail = tail


class CommandTimeoutError(CommandError):
    """A command that did not end, or said nothing, by its deadline."""


def last_lines(text: str, count: int = 20) -> str:
    return "\n".join(text.rstrip().splitlines()[-count:])
