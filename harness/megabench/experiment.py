# SPDX-License-Identifier: MIT
"""Experiments as data: what harness/experiments/*.toml may say, checked as it is read.

Nothing here, or anywhere in the package, knows an experiment by name. An error names the file and
the key, since the reader is looking at a TOML file and not at this one.
"""

import difflib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megabench import paths, trace
from megabench.definition import Table
from megabench.errors import DefinitionError, ExperimentError
from megabench.system import systems

SCALES = ("smoke", "quick", "full")
MARKS = {
    "A": "the abstract",
    "T": "the paper's own table or text",
    "F": "read off a published figure",
    "R": "recalled, never a target",
}
ORDERS = ("interleaved", "sequential")
LOOPS = ("closed", "open")
SHAPES = ("lines", "bars", "stacked")
# What the emulator's plugin counts meanwhile: instructions, or changes of writer of cache lines.
COUNTERS = ("instructions", "lines")
KINDS = ("ratio", "inverse", "gain", "excess", "step")
# What a claim's ratio is: an effect to be reached, or a cost to stay within.
BOUNDS = ("lower", "upper")

Value = int | float | str
Cell = dict[str, Value]


class UsageError(ExperimentError):
    """A name or value on the command line that does not exist."""


@dataclass(frozen=True)
class Sampling:
    """How often, how long and in which order a cell is measured."""

    repeats: int
    warmup_s: float
    measure_s: float
    order: str
    loop: str


@dataclass(frozen=True)
class Derived:
    """A metric computed from the medians of another: `of` here against `of` at `over`."""

    metric: str
    unit: str
    of: str
    kind: str
    over: Mapping[str, Value] = field(default_factory=dict)
    needs_scaling: bool = False


@dataclass(frozen=True)
class Figure:
    """One picture: which shape draws which metric over which parameter."""

    id: str
    title: str
    shape: str
    metric: str
    x: str
    series: str
    panel: str | None = None
    at: Mapping[str, Value] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    paper: str | None = None
    # The claims of the verdicts are points of this figure: its axis is that of their ratio.
    claims: bool = False
    needs_scaling: bool = False
    instead: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim as a ratio of one system over another, and where the paper's ratio is to be found."""

    id: str
    text: str
    metric: str
    system: str
    over: Mapping[str, Value]
    at: Mapping[str, Value]
    paper: Mapping[str, Any]
    proxy: str | None = None
    bound: str = "lower"
    needs_scaling: bool = False
    unscaled: str = ""


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper."""

    id: str
    title: str
    claim: str
    mark: str
    app: str
    metric: str
    unit: str
    x: str
    series: str
    baseline: str
    grid: Mapping[str, tuple[Value, ...]]
    fixed: Mapping[str, Value]
    sampling: Sampling
    scales: Mapping[str, Mapping[str, Any]]
    derived: tuple[Derived, ...]
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...]
    source: Mapping[str, Any]
    counter: str = COUNTERS[0]
    # Whether the packets between client and server are counted meanwhile.
    capture: bool = False

    def grid_at(self, scale: str) -> dict[str, tuple[Value, ...]]:
        """The grid that `scale` measures."""
        return {**self.grid, **_tuples(self.scales[scale].get("grid", {}))}

    def fixed_at(self, scale: str) -> dict[str, Value]:
        """The parameters that `scale` holds still."""
        return {**self.fixed, **self.scales[scale].get("fixed", {})}

    def sampling_at(self, scale: str) -> Sampling:
        """The sampling of `scale`."""
        return Sampling(**{**vars(self.sampling), **self.scales[scale].get("sampling", {})})

    def cells(self, scale: str, only: Mapping[str, tuple[Value, ...]] | None = None) -> list[Cell]:
        """The points to measure: the grid's product, the last parameter varying fastest.

        A value asked for by `only` may lie outside the scale's grid, as long as it is in the whole
        one: who reruns one point wants that point.
        """
        grid = self.grid_at(scale)
        fixed = self.fixed_at(scale)
        for key, wanted in (only or {}).items():
            whole = self.grid.get(key, (fixed[key],) if key in fixed else None)
            if whole is None:
                known = [*self.grid, *fixed]
                raise UsageError(
                    f"{self.id}: --only {key}=…: no such parameter",
                    hint=f"{near(key, known)}parameters: {', '.join(known)}",
                )
            for value in wanted:
                if value not in whole:
                    raise UsageError(
                        f"{self.id}: --only {key}={value}: not one of its values",
                        hint=f"values: {', '.join(map(str, whole))}",
                    )
            if key in grid:
                grid[key] = tuple(value for value in whole if value in wanted)
        names = list(grid)
        product = itertools.product(*grid.values())
        return [{**fixed, **dict(zip(names, values, strict=True))} for values in product]


def near(name: str, known: list[str]) -> str:
    """`did you mean …? `, or nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close += [k for k in known if name and name in k and k not in close]
    return f"did you mean {' or '.join(close)}? " if close else ""


def says(name: str, value: object) -> str:
    """A parameter's value as a person reads it."""
    if name == "transactions_per_connection" and value == 0:
        return "endless"
    if name == "workload":
        return trace.label(str(value))
    is_number = isinstance(value, (int, float, np.number))
    return f"{value:g}" if is_number else str(value)


def worded(name: str, value: Value) -> Value:
    """A parameter's value as a table has it: numbers stay numbers."""
    return says(name, value) if isinstance(value, str) else value


def cell_key(cell: Mapping[str, Value]) -> str:
    """One spelling for one cell, whatever the order of its parameters."""
    return ",".join(f"{key}={cell[key]}" for key in sorted(cell))


def experiment_files() -> dict[str, Path]:
    """The definitions of the checkout, by name."""
    folder = paths.harness() / "experiments"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_experiment(name: str) -> Experiment:
    """The experiment called `name`."""
    files = experiment_files()
    if name not in files:
        raise UsageError(
            f"unknown experiment: {name}",
            hint=f"{near(name, list(files))}`megabench list` shows all: {', '.join(files)}",
        )
    return read_experiment(files[name])


def all_experiments() -> list[Experiment]:
    """Every experiment of the checkout."""
    return [read_experiment(path) for path in experiment_files().values()]


def read_experiment(path: Path) -> Experiment:
    """Read and check one file."""
    experiment = parse_experiment(Table.load(path).values, path)
    if experiment.id != path.stem:
        raise DefinitionError(path, "id", f"{experiment.id!r} is not the file's name")
    return experiment


def parse_experiment(content: dict[str, Any], where: Path) -> Experiment:
    """Check a definition; `where` (a file) opens every message."""
    top = Table(where, "", content)
    grid = _grid(top.table("grid"), None)
    fixed = _fixed(top.table("fixed", optional=True), None)
    for key in grid.keys() & fixed.keys():
        raise DefinitionError(where, f"fixed.{key}", "is in the grid as well")
    for key in ("system", "cores", "connections"):
        if key not in grid and key not in fixed:
            raise DefinitionError(where, f"fixed.{key}", "is missing, in the grid as well")
    parameters = [*grid, *fixed]
    sampling = _sampling(top.table("sampling"), None)
    x = top.text("x", among=parameters)
    series = top.text("series", among=parameters)
    experiment = Experiment(
        id=top.text("id"),
        title=top.text("title"),
        claim=top.text("claim"),
        mark=top.text("mark", among=tuple(MARKS)),
        app=top.text("app"),
        metric=top.text("metric"),
        unit=top.text("unit"),
        x=x,
        series=series,
        baseline=top.text("baseline"),
        grid=grid,
        fixed=fixed,
        sampling=sampling,
        scales=_scales(top.table("scale"), grid, fixed, sampling),
        derived=tuple(_derived(row, parameters) for row in _rows(top, "derived")),
        figures=tuple(_figure(row, parameters, x, series) for row in _rows(top, "figure")),
        verdicts=tuple(_verdict(row, parameters) for row in _rows(top, "verdict")),
        source=json.loads(json.dumps(content)),
        counter=top.text("counter", COUNTERS[0], among=COUNTERS),
        capture=top.boolean("capture", False),
    )
    top.finish()
    for name in grid.get("system", ()):
        if name not in systems():
            raise DefinitionError(
                where,
                "grid.system",
                f"unknown system {name!r}",
                hint=f"{near(str(name), list(systems()))}systems.toml has: {', '.join(systems())}",
            )
    ids = {figure.id for figure in experiment.figures}
    for index, figure in enumerate(experiment.figures):
        if figure.instead is not None and figure.instead not in ids:
            raise DefinitionError(
                where, f"figure[{index}].instead", f"no figure is called {figure.instead!r}"
            )
    return experiment


def _tuples(grid: Mapping[str, Any]) -> dict[str, tuple[Value, ...]]:
    return {key: tuple(values) for key, values in grid.items()}


def _rows(top: Table, key: str) -> list[Table]:
    return top.tables(key) if key in top.values else []


def _is_value(value: object) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _grid(table: Table, within: Mapping[str, Any] | None) -> dict[str, tuple[Value, ...]]:
    for key, values in table.values.items():
        if within is not None and key not in within:
            raise table.wrong(key, "is not in the grid")
        if not isinstance(values, list) or not values or not all(map(_is_value, values)):
            raise table.wrong(key, f"must be a list of numbers or strings, not {values!r}")
    return _tuples(table.values)


def _fixed(table: Table, within: Mapping[str, Any] | None) -> dict[str, Value]:
    for key, value in table.values.items():
        if within is not None and key not in within:
            raise table.wrong(key, "is not a fixed parameter")
        if not _is_value(value):
            raise table.wrong(key, f"must be a number or a string, not {value!r}")
    return dict(table.values)


def _point(table: Table, key: str, parameters: list[str]) -> dict[str, Value]:
    """A table that names parameters; empty when it is not there."""
    point = table.table(key, optional=True)
    for name, value in point.values.items():
        if name not in parameters:
            raise point.wrong(name, f"is no parameter; there are {', '.join(parameters)}")
        if not _is_value(value):
            raise point.wrong(name, f"must be a number or a string, not {value!r}")
    return dict(point.values)


def _seconds(table: Table, key: str, default: float | None) -> float:
    table.read.add(key)
    value = table.values.get(key, default)
    if value is None:
        raise table.wrong(key, "is missing")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise table.wrong(key, f"must be a number of seconds above 0, not {value!r}")
    return float(value)


def _sampling(table: Table, base: Sampling | None) -> Sampling:
    sampling = Sampling(
        repeats=table.integer("repeats", base.repeats if base else None, least=1),
        warmup_s=_seconds(table, "warmup_s", base.warmup_s if base else None),
        measure_s=_seconds(table, "measure_s", base.measure_s if base else None),
        order=table.text("order", base.order if base else None, among=ORDERS),
        loop=table.text("loop", base.loop if base else None, among=LOOPS),
    )
    table.finish()
    return sampling


def _scales(
    scales: Table,
    grid: Mapping[str, Any],
    fixed: Mapping[str, Any],
    sampling: Sampling,
) -> dict[str, Mapping[str, Any]]:
    for scale in SCALES:
        overrides = scales.table(scale)
        _grid(overrides.table("grid", optional=True), grid)
        _fixed(overrides.table("fixed", optional=True), fixed)
        _sampling(overrides.table("sampling", optional=True), sampling)
        overrides.finish()
    scales.finish()
    return dict(scales.values)


def _derived(row: Table, parameters: list[str]) -> Derived:
    derived = Derived(
        metric=row.text("metric"),
        unit=row.text("unit"),
        of=row.text("of"),
        kind=row.text("kind", among=KINDS),
        over=_point(row, "over", parameters),
        needs_scaling=row.boolean("needs_scaling", False),
    )
    if not derived.over and derived.kind != "step":
        raise row.wrong("over", "is missing")
    row.finish()
    return derived


def _figure(row: Table, parameters: list[str], x: str, series: str) -> Figure:
    row.read.add("parts")
    figure = Figure(
        id=row.text("id"),
        title=row.text("title"),
        shape=row.text("shape", among=SHAPES),
        metric=row.text("metric"),
        x=row.text("x", x, among=parameters),
        series=row.text("series", series, among=parameters),
        panel=row.text("panel", "", among=["", *parameters]) or None,
        at=_point(row, "at", parameters),
        parts=tuple(row.values.get("parts", ())),
        paper=row.text("paper", "") or None,
        claims=row.boolean("claims", False),
        needs_scaling=row.boolean("needs_scaling", False),
        instead=row.text("instead", "") or None,
    )
    row.finish()
    return figure


def _verdict(row: Table, parameters: list[str]) -> Verdict:
    paper = row.table("paper")
    paper.text("file")
    paper.table("where")
    paper.table("over", optional=True)
    paper.finish()
    verdict = Verdict(
        id=row.text("id"),
        text=row.text("text"),
        metric=row.text("metric"),
        system=row.text("system"),
        over=_point(row, "over", parameters),
        at=_point(row, "at", parameters),
        paper=dict(paper.values),
        proxy=row.text("proxy", "") or None,
        bound=row.text("bound", "lower", among=BOUNDS),
        needs_scaling=row.boolean("needs_scaling", False),
        unscaled=row.text("unscaled", ""),
    )
    row.finish()
    return verdict
