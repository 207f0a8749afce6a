# SPDX-License-Identifier: MIT
"""Throughput over cores where it cannot be measured: a model, from counts (harness/model.toml).

    tables/model.csv    system, transactions, cores, assumption, speed-up
    figures/model.svg   speed-up over cores with the paper's beside it

It is drawn and told apart from everything that was measured.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from megabench import figure, paper, paths, system, table
from megabench.definition import Table as Definition
from megabench.record import ResultsError, write_whole
from megabench.table import Table

STEM = "model"
KINDS = ("svg", "png")


@dataclass(frozen=True)
class Assumed:
    """Of the machine: instructions per cycle of undisturbed work, cycles that a line takes."""

    name: str
    label: str
    ipc: float
    line: float


@dataclass(frozen=True)
class Model:
    """harness/model.toml."""

    changes: str
    instructions: str
    paper: str
    cores: tuple[int, ...]
    assumed: tuple[Assumed, ...]


@dataclass(frozen=True)
class Counts:
    """What was counted of one system at one length of connections, by the number of cores."""

    instructions: Mapping[int, float]
    changes: Mapping[int, float]
    hottest: Mapping[int, float]

    def speedup(self, cores: int, assumed: Assumed) -> float:
        """Throughput on so many cores over that of one."""
        return self._throughput(cores, assumed) / self._throughput(1, assumed)

    def _throughput(self, cores: int, assumed: Assumed) -> float:
        work = between(self.instructions, cores) / assumed.ipc
        free = cores / (work + between(self.changes, cores) * assumed.line)
        serial = between(self.hottest, cores) * assumed.line
        return min(free, 1 / serial) if serial else free


def between(counted: Mapping[int, float], cores: int) -> float:
    """The count at so many cores, on the straight line between those that were measured."""
    known = sorted(counted)
    return float(np.interp(cores, known, [counted[one] for one in known]))


def read_model() -> Model:
    """The committed definition."""
    top = Definition.load(paths.harness() / "model.toml")
    cores = top.values.get("cores", [])
    top.read.add("cores")
    assumed = top.table("assumed")
    rows = []
    for name in assumed.values:
        row = assumed.table(name)
        numbers = [float(row.values.get(key, 0)) for key in ("ipc", "line")]
        row.read |= {"ipc", "line"}
        if min(numbers) <= 0:
            raise row.wrong("ipc", "and line must be above 0")
        rows.append(Assumed(name, row.text("label"), *numbers))
        row.finish()
    made = Model(
        top.text("changes"), top.text("instructions"), top.text("paper"), tuple(cores), tuple(rows)
    )
    top.finish()
    return made


# Of a system and a number of transactions per connection.
Key = tuple[str, int]


def counts(model: Model, changes: Table, instructions: Table) -> dict[Key, Counts]:
    """What both experiments counted; only what was counted at one core and at more."""
    work = _by_cores(instructions, "instructions")
    lines = _by_cores(changes, "contention_2")
    hottest = _by_cores(changes, "contention_hottest")
    made = {}
    for key in work.keys() & lines.keys():
        if 1 in work[key] and max(model.cores) in lines[key]:
            alone = {1: 0.0}
            made[key] = Counts(work[key], alone | lines[key], alone | hottest.get(key, {}))
    ranks = system.order({name for name, _ in made})
    return dict(sorted(made.items(), key=lambda item: (item[0][1], ranks.index(item[0][0]))))


def _by_cores(one: Table, metric: str) -> dict[Key, dict[int, float]]:
    found: dict[Key, dict[int, float]] = {}
    for _, row in one.rows(metric).dropna(subset=["median"]).iterrows():
        key = str(row["system"]), int(row["transactions_per_connection"])
        found.setdefault(key, {})[int(row["cores"])] = float(row["median"])
    return found


def load(results: Path, testbed: str) -> tuple[Model, Table, dict[Key, Counts]]:
    """The model and what it rests on; ResultsError where that was not measured."""
    model = read_model()
    changes, instructions = (
        table.make_table(table.load_raw(results, testbed, name))
        for name in (model.changes, model.instructions)
    )
    found = counts(model, changes, instructions)
    if not found:
        raise ResultsError(f"{model.changes} and {model.instructions} have no point in common")
    return model, changes, found


def to_csv(model: Model, found: Mapping[Key, Counts]) -> str:
    """A row a system, length, number of cores and assumption."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["system", "transactions_per_connection", "cores", "assumed", "modelled_speedup"]
    )
    for (name, length), one in found.items():
        for cores in model.cores:
            for assumed in model.assumed:
                speedup = f"{one.speedup(cores, assumed):.3f}"
                writer.writerow([name, length, cores, assumed.name, speedup])
    return out.getvalue()


# Of a testbed: what each system at each length speeds up from one core to the most.
Measured = Mapping[str, Mapping[Key, float]]


def measured(model: Model, results: Path) -> Measured:
    """Of every machine whose cores could show it, for the model to be held against."""
    made = {}
    for bed in table.measured_testbeds(results):
        try:
            one = table.make_table(table.load_raw(results, bed, model.instructions))
        except ResultsError:
            continue
        if not one.raw.can_scale:
            continue
        rates = _by_cores(one, "throughput")
        most = max(model.cores)
        made[bed] = {k: v[most] / v[1] for k, v in rates.items() if {1, most} <= v.keys()}
    return made


def rows(model: Model, found: Mapping[Key, Counts], real: Measured) -> list[list[str]]:
    """For the report: what each assumption gives at the most cores, the paper's, the measured."""
    most = max(model.cores)
    made = []
    for (name, length), one in found.items():
        modelled = [f"{one.speedup(most, assumed):.2f}" for assumed in model.assumed]
        made.append(
            [
                system.look(name).label,
                str(length),
                f"{between(one.instructions, most):,.0f}",
                f"{between(one.changes, most):.1f}",
                f"{between(one.hottest, most):.2f}",
                *modelled,
                _published(model, name, length),
                *(_against(one, most, model, rates.get((name, length))) for rates in real.values()),
            ]
        )
    return made


def _against(one: Counts, cores: int, model: Model, real: float | None) -> str:
    """What was measured, and by how much each assumption misses it."""
    if real is None:
        return "–"
    errors = [one.speedup(cores, assumed) / real - 1 for assumed in model.assumed]
    return f"{real:.2f} (model: {', '.join(f'{error:+.0%}' for error in errors)})"


def headings(model: Model, real: Measured) -> list[str]:
    """Of `rows`."""
    first = ["system", "transactions per connection", "instructions", "changes of writer"]
    assumed = [one.label for one in model.assumed]
    return [*first, "of the hottest line", *assumed, "paper", *(f"measured: {bed}" for bed in real)]


def _published(model: Model, name: str, length: int) -> str:
    at = {"metric": "speedup", "cores": max(model.cores), "transactions_per_connection": length}
    published = paper.rows(model.paper, at)
    published = published[published["system"] == name]
    if published.empty:
        return "–"
    return f"{published.iloc[0]['value']:.2f} [{published.iloc[0]['mark']}]"


def draw(model: Model, where: Table, found: Mapping[Key, Counts]) -> Canvas:
    """A panel a length of connections; a band a system, over all assumptions."""
    lengths = sorted({length for _, length in found})
    with mpl.rc_context(figure.STYLE):
        canvas = Canvas(figsize=(max(5.6, 0.6 + 3.1 * len(lengths)), 4.3), layout="constrained")
        grid = canvas.subplots(1, len(lengths), squeeze=False, sharey=True)
        for axes, length in zip(grid.flat, lengths, strict=True):
            chosen = {name: one for (name, at), one in found.items() if at == length}
            _panel(axes, model, chosen, length)
        grid.flat[0].set_ylabel("speed-up over 1 core, modelled")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower left", ncols=2)
        canvas.suptitle(
            f"A model, not a measurement: speed-up over cores\ncounts: {figure.where(where)}",
            x=0.01,
            ha="left",
            fontsize=10,
            color=figure.INK,
            linespacing=1.4,
        )
        return canvas


def _panel(axes: Axes, model: Model, chosen: Mapping[str, Counts], length: int) -> None:
    axes.plot(model.cores, model.cores, color=figure.GRID, linewidth=1, label="as many as cores")
    for name in system.order(set(chosen)):
        look = system.look(name)
        curves = [
            [chosen[name].speedup(cores, assumed) for cores in model.cores]
            for assumed in model.assumed
        ]
        low, high = np.min(curves, axis=0), np.max(curves, axis=0)
        axes.fill_between(model.cores, low, high, color=look.colour, alpha=0.25, linewidth=0)
        middle = curves[len(curves) // 2]
        label = f"{look.label}, modelled"
        axes.plot(model.cores, middle, color=look.colour, linestyle=":", label=label)
        _paper_points(axes, model, name, length)
    axes.set_title(f"{length} {figure.SHORT['transactions_per_connection']}", fontsize=8)
    axes.set_xticks(model.cores)
    axes.set_xlabel("cores")
    axes.set_ylim(bottom=0)


def _paper_points(axes: Axes, model: Model, name: str, length: int) -> None:
    at = {"metric": "speedup", "transactions_per_connection": length}
    published = paper.rows(model.paper, at)
    published = published[published["system"] == name]
    if published.empty:
        return
    look = system.look(name)
    marks = "".join(f"[{mark}]" for mark in sorted(set(published["mark"])))
    axes.plot(
        published["cores"],
        published["value"],
        color=figure.PAPER,
        marker=look.marker,
        markerfacecolor="none",
        linestyle="none",
        label=f"{look.label}, paper {marks}",
    )


def write(results: Path, testbed: str) -> list[Path]:
    """Table and figure; nothing where the counts are not there."""
    try:
        model, where, found = load(results, testbed)
    except ResultsError:
        return []
    written = {results / testbed / "tables" / f"{STEM}.csv": to_csv(model, found).encode()}
    canvas = draw(model, where, found)
    for kind in KINDS:
        path = results / testbed / "figures" / f"{STEM}.{kind}"
        written[path] = figure.render(canvas, kind, STEM)
    for path, content in written.items():
        write_whole(path, content)
    return list(written)


def assumptions(model: Model) -> Sequence[str]:
    """The parameters in words."""
    return [
        f"{one.label}: {one.ipc:g} instructions per cycle, {one.line:g} cycles a line"
        for one in model.assumed
    ]
