# SPDX-License-Identifier: MIT
"""A picture of the worst shared lines: systems beside each other, a row a kind of line.

Of every system the ten worst are among the rows, so one sees which idea takes which line away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure as Canvas

from megabench import contention, figure, system
from megabench.experiment import Value, says
from megabench.record import write_whole
from megabench.table import Table

KINDS = ("svg", "png")
WORST = 10
# Changes of writer per transaction: below the first nothing is coloured, above the last no darker.
FAINTEST, DARKEST = 0.01, 30.0
SHADES = LinearSegmentedColormap.from_list("changes", ["#fff3e6", "#d55e00"])
# From here on a cell is so dark that its number is white.
DARK = 8.0


@dataclass(frozen=True)
class Point:
    """All systems at one point: changes of writer per transaction, by the line's name."""

    at: Mapping[str, Value]
    systems: list[str]
    names: list[str]  # the worst first
    interface: frozenset[str]
    changes: Mapping[str, Mapping[str, float]]  # of each system
    totals: Mapping[str, float]


def read_points(table: Table, results: Path, testbed: str) -> list[Point]:
    """Of each point the first trial that was counted, of all systems."""
    folder = results / testbed / "raw" / table.raw.experiment.id
    found: dict[tuple[tuple[str, Value], ...], dict[str, dict[str, object]]] = {}
    for point in table.raw.points:
        if "log" not in point or point["status"] != "ok":
            continue
        path = folder / point["run"] / str(point["log"]) / contention.LINES
        if path.exists():
            at = tuple((k, v) for k, v in sorted(point["cell"].items()) if k != "system")
            level = json.loads(path.read_text())["levels"][str(max(contention.LEVELS))]
            found.setdefault(at, {}).setdefault(str(point["system"]), level)
    return [_point(dict(at), levels) for at, levels in sorted(found.items())]


def _point(at: dict[str, Value], levels: Mapping[str, Mapping[str, object]]) -> Point:
    systems = system.order(set(levels))
    interface: set[str] = set()
    wanted: dict[str, float] = {}
    changes: dict[str, dict[str, float]] = {}
    totals: dict[str, float] = {}
    for name in systems:
        level = levels[name]
        lines: Mapping[str, Mapping[str, float]] = level["names"]  # type: ignore[assignment]
        totals[name] = float(level["changes"])  # type: ignore[arg-type]
        changes[name] = {line: float(one["changes"]) for line, one in lines.items()}
        interface |= {line for line, one in lines.items() if one["interface"]}
        for line in list(lines)[:WORST]:
            if changes[name][line] >= FAINTEST:
                wanted[line] = max(wanted.get(line, 0.0), changes[name][line])
    ordered = sorted(wanted, key=lambda line: (line not in interface, -wanted[line]))
    return Point(at, systems, ordered, frozenset(interface), changes, totals)


def draw(table: Table, points: Sequence[Point]) -> Canvas:
    """A panel a point, one under the other."""
    rows = [len(point.names) + 1 for point in points]
    names = [name for name in points[0].at if len({point.at[name] for point in points}) > 1]
    with mpl.rc_context(figure.STYLE):
        width = 4.2 + 0.95 * max(len(point.systems) for point in points)
        canvas = Canvas(figsize=(width, 1.0 + sum(0.24 * n + 0.55 for n in rows)))
        canvas.set_layout_engine("constrained")
        grid = canvas.subplots(len(points), 1, squeeze=False, height_ratios=[n + 2 for n in rows])
        for axes, point in zip(grid.flat, points, strict=True):
            _panel(axes, point)
            said = ", ".join(
                f"{says(name, point.at[name])} {figure.SHORT.get(name, name)}" for name in names
            )
            axes.set_title(said, fontsize=8)
        least = max(contention.LEVELS)
        canvas.suptitle(
            f"Changes of writer per transaction, lines that at least {least} CPUs write "
            f"(*: the interface's)\n{figure.where(table)}",
            x=0.01,
            ha="left",
            fontsize=10,
            color=figure.INK,
            linespacing=1.4,
        )
        return canvas


def _panel(axes: Axes, point: Point) -> None:
    cells = np.array(
        [[point.changes[name].get(line, 0.0) for name in point.systems] for line in point.names]
        + [[point.totals[name] for name in point.systems]]
    )
    shown = np.ma.masked_less(cells, FAINTEST)
    shown[-1] = np.ma.masked
    axes.imshow(shown, cmap=SHADES, norm=LogNorm(FAINTEST, DARKEST), aspect="auto")
    for row, values in enumerate(cells):
        whole = row == len(point.names)
        for column, value in enumerate(values):
            digits = 1 if value >= 10 else 2 if value >= 1 else 3
            text = f"{value:.{digits}f}" if value else "–"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=7,
                fontweight="bold" if whole else "normal",
                color="white" if value >= DARK and not whole else figure.INK,
            )
    labels = [line + (" *" if line in point.interface else "") for line in point.names]
    axes.set_yticks(range(len(labels) + 1), [*labels, "all"], fontsize=7)
    looks = [system.look(name).label for name in point.systems]
    axes.set_xticks(range(len(looks)), [text.replace(" + ", "\n+ ") for text in looks], fontsize=7)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)


def write_figures(results: Path, testbed: str, table: Table) -> list[Path]:
    """figures/<experiment>-lines as SVG and PNG, if lines were counted."""
    points = read_points(table, results, testbed)
    if not points:
        return []
    stem = f"{table.raw.experiment.id}-lines"
    canvas = draw(table, points)
    written = []
    for kind in KINDS:
        path = results / testbed / "figures" / f"{stem}.{kind}"
        write_whole(path, figure.render(canvas, kind, stem))
        written.append(path)
    return written
