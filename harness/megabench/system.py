# SPDX-License-Identifier: MIT
"""The systems under test, from one table (harness/systems.toml): name, label, colour, marker."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from megabench import paths
from megabench.errors import DefinitionError, ExperimentError


@dataclass(frozen=True)
class System:
    """One row of systems.toml; `step` names what an ablation adds to the row before it.

    `program` names the program of an app that is built in several ways.
    """

    name: str
    label: str
    about: str
    colour: str
    marker: str
    step: str
    server: Mapping[str, tuple[str, ...]]
    program: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""  # a file of the server's machine

    def flags(self, app: str) -> tuple[str, ...]:
        """What turns `app`'s server into this system."""
        if app not in self.server:
            raise ExperimentError(
                f"systems.toml: {self.name}: no server.{app}: this system does not run {app}",
                hint=f"it runs: {', '.join(self.server)}",
            )
        return self.server[app]


def load_systems(path: Path | None = None) -> dict[str, System]:
    """The table, in its own order, which is the order of every result."""
    path = path or paths.harness() / "systems.toml"
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(path, "", str(error), "mend the file") from error
    return {name: _system(path, name, row) for name, row in table.items()}


@cache
def systems() -> dict[str, System]:
    """The checkout's table, read once."""
    return load_systems()


def look(name: str) -> System:
    """The row of `name`; a system that only the paper has gets a neutral one."""
    known = systems().get(name)
    return known or System(name, name, "", "#8a8a8a", "D", name, {})


def order(names: set[str]) -> list[str]:
    """`names` in the order of the table, unknown ones last."""
    known = [name for name in systems() if name in names]
    return known + sorted(names - set(known))


def _system(path: Path, name: str, row: object) -> System:
    if not isinstance(row, dict):
        raise DefinitionError(path, f"{name}", f"a table is expected, not {row!r}")
    for key in ("label", "colour", "marker", "server"):
        if key not in row:
            raise DefinitionError(path, f"{name}.{key}", "missing")
    for app, flags in row["server"].items():
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise DefinitionError(path, f"{name}.server.{app}", "a list of strings is expected")
    return System(
        name=name,
        label=row["label"],
        about=row.get("about", ""),
        colour=row["colour"],
        marker=row["marker"],
        step=str(row.get("step", row["label"])),
        server={app: tuple(flags) for app, flags in row["server"].items()},
        program={app: str(name) for app, name in row.get("program", {}).items()},
        needs=str(row.get("needs", "")),
    )
