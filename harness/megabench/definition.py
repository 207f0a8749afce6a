# SPDX-License-Identifier: MIT
"""A TOML table read key by key, so that every mistake names its file and key.

A key that nobody asked for is a mistake too: it is nearly always a misspelt one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import DefinitionError


class Table:
    def __init__(self, path: Path, name: str, values: dict[str, Any]) -> None:
        self.path = path
        self.name = name
        self.values = values
        self.read: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> Table:
        try:
            return cls(path, "", tomllib.loads(path.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            raise DefinitionError(path, "", f"cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise DefinitionError(path, "", f"is not TOML: {error}") from error

    def copy(self) -> Table:
        """The same table, to be read once more."""
        return Table(self.path, self.name, self.values)

    def key(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def wrong(self, key: str, problem: str) -> DefinitionError:
        return DefinitionError(self.path, self.key(key), problem)

    def _get(self, key: str, kind: type, called: str, default: Any) -> Any:
        self.read.add(key)
        value = self.values.get(key, default)
        if value is None:
            raise self.wrong(key, "is missing")
        # True is an int to Python, but not to whoever wrote the file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, f"must be {called}, not {value!r}")
        return value

    def text(
        self, key: str, default: str | None = None, *, among: Sequence[str] | None = None
    ) -> str:
        value: str = self._get(key, str, "a string", default)
        if among is not None and value not in among:
            raise self.wrong(key, f"must be one of {', '.join(among)}, not {value!r}")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        value: int = self._get(key, int, "a whole number", default)
        if value < least:
            raise self.wrong(key, f"must be at least {least}, not {value}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        return bool(self._get(key, bool, "true or false", default))

    def table(self, key: str, *, optional: bool = False) -> Table:
        values = self._get(key, dict, "a table", {} if optional else None)
        return Table(self.path, self.key(key), values)

    def tables(self, key: str) -> list[Table]:
        values = self._get(key, list, "a list of tables", None)
        if not values or not all(isinstance(value, dict) for value in values):
            raise self.wrong(key, "must be a list of tables, [[...]]")
        return [Table(self.path, f"{self.key(key)}[{n}]", v) for n, v in enumerate(values)]

    def texts(self) -> dict[str, str]:
        """All of a table of strings."""
        return {key: self.text(key) for key in self.values}

    def finish(self) -> None:
        for key in self.values:
            if key not in self.read:
                raise self.wrong(key, "is not known here")
