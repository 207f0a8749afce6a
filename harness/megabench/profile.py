# SPDX-License-Identifier: MIT
"""Where the instructions go: by layer (layers.toml) and by function, from raw results alone.

Every trial whose instructions were counted keeps them for each function of the kernel
(measure.FUNCTIONS); user space is one function. Layers and functions are means over the trials of
a point, so that they add up; the whole is the mean too, and so may differ a little from the median
in the experiment's own table.

    tables/<experiment>-layers.csv       experiment, system, parameters, layer, instructions
    tables/<experiment>-functions.csv    the same by function: the interface's, and the largest
    tables/<experiment>-profile.folded   `system;point;layer;function instructions`, a line each:
                                         the form that flame graph tools read
    figures/<experiment>-layers.svg      bars
    figures/<experiment>-profile.svg     layers and functions under each system

The emulator's plugin sees no stacks, so under a layer there are its functions, not their callers.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabench import packets, record, system
from megabench.experiment import Experiment, Value, says, worded
from megabench.layers import UNKNOWN, USER, Layers, layers
from megabench.measure import FUNCTIONS
from megabench.record import ResultsError
from megabench.table import Raw

# Beside the layers: what is not work, and what happens in a transaction.
APART = ("instructions_spin", "instructions_tick", "instructions_idle")
EVENTS = (
    "syscalls",
    "calls",
    "wakeups",
    "switches",
    "interrupts",
    "ipis",
    "page_faults",
    "doorbells",
    "packets_in",
    "packets_out",
    *packets.METRICS,
)
# Of the functions that are no interface's, those that a person may want to see.
LARGEST = 40


@dataclass(frozen=True)
class Profile:
    """One system at one point, per transaction."""

    system: str
    at: Mapping[str, Value]
    trials: int
    instructions: float
    functions: Mapping[str, float]  # the largest first
    beside: Mapping[str, float]  # APART and EVENTS, as far as they were counted

    def by_layer(self, names: Layers | None = None) -> dict[str, float]:
        """Instructions of each layer; what is not attributed has one of its own."""
        names = names or layers()
        totals = dict.fromkeys(names.layers, 0.0)
        for function, share in self.functions.items():
            totals[names.of(function).name] += share
        # Functions that a trial's list leaves out, each of next to nothing.
        totals[UNKNOWN] += max(0.0, self.instructions - sum(self.functions.values()))
        return totals

    def interface(self, names: Layers | None = None) -> float:
        """Instructions of the layers that the program's way of doing I/O decides."""
        names = names or layers()
        return sum(
            share for layer, share in self.by_layer(names).items() if names.layers[layer].interface
        )

    def covered(self, names: Layers | None = None) -> float:
        """The share of the instructions that the layers account for."""
        return 1 - self.by_layer(names)[UNKNOWN] / self.instructions


def profiles(
    raw: Raw, results: Path, testbed: str, only: Mapping[str, tuple[Value, ...]] | None = None
) -> list[Profile]:
    """A profile of each point that was counted, in the order of the tables."""
    found: dict[tuple[Any, ...], list[tuple[dict[str, Any], dict[str, float]]]] = {}
    names = ["system", *raw.parameters]
    for point in raw.points:
        cell = point["cell"]
        if point["status"] != "ok" or "instructions" not in point["metrics"]:
            continue
        if any(cell.get(name) not in values for name, values in (only or {}).items()):
            continue
        path = functions_path(point, raw, results, testbed)
        if path.exists():
            functions = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
            key = tuple(cell.get(name) for name in names)
            found.setdefault(key, []).append((point, functions))
    made = [_profile(dict(zip(names, key, strict=True)), rows) for key, rows in found.items()]
    if not made:
        raise ResultsError(
            f"no instructions of {raw.experiment.id} were counted on {testbed}",
            hint="measure where the emulator's plugin counts: megabench run --testbed local",
        )
    ranks = {name: rank for rank, name in enumerate(system.order({one.system for one in made}))}
    return sorted(made, key=lambda one: (*map(_rank, one.at.items()), ranks[one.system]))


def _rank(parameter: tuple[str, Value]) -> tuple[bool, Any]:
    """A parameter in its order: what is endless comes last, and words after numbers."""
    name, value = parameter
    if isinstance(value, str):
        return True, value
    return False, math.inf if says(name, value) == "endless" else value


def functions_path(point: Mapping[str, Any], raw: Raw, results: Path, testbed: str) -> Path:
    """Where a trial's functions lie: with the experiment that measured it first."""
    folder = results / testbed / "raw"
    if "reference" in point:
        there = point["reference"]
        return folder / there["experiment"] / there["run"] / str(there["log"]) / FUNCTIONS
    return folder / raw.experiment.id / point["run"] / str(point["log"]) / FUNCTIONS


def _profile(
    at: dict[str, Value], rows: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]
) -> Profile:
    def mean(metric: str) -> float | None:
        values = [p["metrics"][metric]["value"] for p, _ in rows if metric in p["metrics"]]
        return math.fsum(values) / len(values) if values else None

    functions: dict[str, float] = {USER: mean("instructions_user") or 0.0}
    for _, shares in rows:
        for name, share in shares.items():
            functions[name] = functions.get(name, 0.0) + share / len(rows)
    ordered = sorted(functions.items(), key=lambda item: (-item[1], item[0]))
    beside = {name: mean(name) for name in (*APART, *EVENTS)}
    return Profile(
        system=str(at.pop("system")),
        at=at,
        trials=len(rows),
        instructions=mean("instructions") or 0.0,
        functions={name: share for name, share in ordered if share},
        beside={name: value for name, value in beside.items() if value is not None},
    )


# Text


def said_at(profile: Profile, names: Sequence[str]) -> str:
    """The point in words, by the parameters that vary."""
    return ", ".join(f"{says(name, profile.at[name])} {name.replace('_', ' ')}" for name in names)


def varying(all_of_them: Sequence[Profile]) -> list[str]:
    """The parameters that are not the same in all profiles."""
    first = all_of_them[0].at
    return [name for name in first if len({one.at[name] for one in all_of_them}) > 1]


@dataclass(frozen=True)
class Account:
    """One point: a row a layer or event, a column a system; numbers as text."""

    title: str
    systems: list[str]
    rows: list[tuple[str, list[str], str]]  # name, cells, "" or what kind of row it is


def base_of(experiment: Experiment) -> str | None:
    """The system beyond which an interface's cost is reckoned: of a derived metric of that kind."""
    for derived in experiment.derived:
        if derived.kind == "excess" and derived.of == "instructions":
            return str(derived.over["system"])
    return None


def accounts(all_of_them: Sequence[Profile], base: str | None = None) -> list[Account]:
    """A table for each point: layers, sums, what is apart, and what happens in a transaction."""
    names = varying(all_of_them)
    points: dict[str, list[Profile]] = {}
    for one in all_of_them:
        points.setdefault(said_at(one, names), []).append(one)
    return [_account(title, columns, base) for title, columns in points.items()]


def _account(title: str, columns: Sequence[Profile], base: str | None) -> Account:
    shares = [one.by_layer() for one in columns]
    rows: list[tuple[str, list[str], str]] = []

    def add(name: str, values: Sequence[float | None], kind: str = "", digits: int = 0) -> None:
        cells = ["–" if value is None else f"{value:,.{digits}f}" for value in values]
        rows.append((name, cells, kind))

    def add_layers(interface: bool) -> None:
        for layer in layers().layers.values():
            values = [share[layer.name] for share in shares]
            if layer.interface == interface and any(value >= 0.5 for value in values):
                add(layer.label, values)

    add_layers(True)
    add("interface, by symbol", [one.interface() for one in columns], "sum")
    add_layers(False)
    add("all", [one.instructions for one in columns], "sum")
    least = next((one.instructions for one in columns if one.system == base), None)
    if base is not None and least is not None:
        label = f"beyond {system.look(base).label}"
        add(label, [one.instructions - least for one in columns], "sum")
    for name in APART:
        label = f"not counted above: {name.removeprefix('instructions_')}"
        add(label, [one.beside.get(name) for one in columns], "apart")
    for name in EVENTS:
        values = [one.beside.get(name) for one in columns]
        if any(values):
            add(EVENT_LABELS.get(name, name), values, "event", 2)
    add("trials, of which all this is the mean", [float(one.trials) for one in columns], "apart")
    return Account(title, [system.look(one.system).label for one in columns], rows)


EVENT_LABELS = {
    "syscalls": "system calls that the server counts",
    "calls": "system calls of the whole machine",
    "wakeups": "wake-ups",
    "switches": "context switches",
    "interrupts": "device interrupts",
    "ipis": "interrupts between CPUs",
    "page_faults": "page faults",
    "doorbells": "doorbells (device told of work)",
    "packets_in": "packets received",
    "packets_out": "packets sent",
    **packets.LABELS,
}


def layers_csv(experiment: str, all_of_them: Sequence[Profile]) -> str:
    """A row a system, point and layer."""
    lines = []
    for one in all_of_them:
        for name, share in one.by_layer().items():
            if round(share, 1):
                interface = "yes" if layers().layers[name].interface else "no"
                lines.append([*_where(experiment, one), name, interface, f"{share:.1f}"])
    return _csv(all_of_them, ["layer", "interface", "instructions"], lines)


def functions_csv(experiment: str, all_of_them: Sequence[Profile]) -> str:
    """The interface's functions and the largest others, a row each."""
    lines = []
    for one in all_of_them:
        others = 0
        for name, share in one.functions.items():
            layer = layers().of(name)
            others += not layer.interface
            if layer.interface or others <= LARGEST:
                lines.append([*_where(experiment, one), layer.name, name, f"{share:.1f}"])
    return _csv(all_of_them, ["layer", "function", "instructions"], lines)


def _where(experiment: str, one: Profile) -> list[Any]:
    return [experiment, one.system, *(worded(name, value) for name, value in one.at.items())]


def _csv(
    all_of_them: Sequence[Profile], last: Sequence[str], lines: Sequence[Sequence[Any]]
) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["experiment", "system", *all_of_them[0].at, *last])
    writer.writerows(lines)
    return out.getvalue()


def folded(all_of_them: Sequence[Profile]) -> str:
    """Every function of every profile, as flame graph tools read stacks."""
    names = varying(all_of_them)
    lines = []
    for one in all_of_them:
        point = said_at(one, names) or "all"
        for function, share in one.functions.items():
            if round(share):
                layer = layers().of(function)
                stack = f"{system.look(one.system).label};{point};{layer.label};{function}"
                lines.append(f"{stack} {round(share)}")
    return "\n".join(lines) + "\n"


def write_tables(results: Path, testbed: str, experiment: str, found: list[Profile]) -> list[Path]:
    """The profile's tables, beside the experiment's own."""
    folder = results / testbed / "tables"
    made = {
        folder / f"{experiment}-layers.csv": layers_csv(experiment, found),
        folder / f"{experiment}-functions.csv": functions_csv(experiment, found),
        folder / f"{experiment}-profile.folded": folded(found),
    }
    for path, content in made.items():
        record.write_whole(path, content)
    return list(made)
