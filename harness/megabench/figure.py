# SPDX-License-Identifier: MIT
"""Figures: one function per plot shape, which knows no experiment.

    lines     medians with intervals over a parameter, a line a system, a panel per value of another
    bars      a group per value, a bar per system, stacked into parts
    stacked   what each system adds to the one before it, beside the paper's

The paper's numbers are grey, on the same axes, with their mark in the legend. What this testbed
cannot show is not drawn: the figure says so, and shows what can be measured in its place.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from megabench import compare, packets, paper, system
from megabench.experiment import MARKS, Figure, says
from megabench.record import write_whole
from megabench.table import Table

INK, FAINT, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#8c959f"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "path",
}
LABELS = {
    "cost_of_size": "times that of 64 B",
    "transactions_per_connection": "transactions per connection",
    "cores": "cores",
    "connections": "concurrent connections",
    "size": "message size (bytes)",
    "throughput": "throughput (transactions/s)",
    "latency_p50": "median latency (µs)",
    "latency_p99": "99th percentile latency (µs)",
    "latency_p999": "99.9th percentile latency (µs)",
    "workload": "trace",
    "server_cpu": "server CPU per request (µs)",
    "bandwidth": "received (Gbit/s)",
    "load_percent": "load (% of the slower system's saturation)",
    "instructions": "instructions per transaction",
    "interface": "instructions beyond the floor's",
    "instructions_kernel": "kernel",
    "instructions_user": "user",
    "instructions_saving": "instructions of the baseline / of this system",
    "instructions_growth": "instructions per transaction, over 1 core",
    "speedup": "speed-up over 1 core",
    "gain": "gain in throughput over the baseline (%)",
    "contribution": "gain (percentage points)",
    "syscalls": "system calls per transaction",
    **packets.LABELS,
    "batch": "commands collected at most (1: no batching)",
    "fin": "who ends the connection, and with which segment",
    "stranded": "connections that wait over 5 times the median",
    "idle": "idle connections beside",
    "memory_per_idle": "bytes per idle connection",
    "cost_of_idle": "instructions per transaction, over few idle",
    "receiving_cpus": "CPUs that receive packets",
    "slow_work": "the slow worker's turns a message",
    "contention_2": "changes of writer per transaction",
    "contention_4": "changes of writer per transaction",
    "contention_hottest": "changes of writer per transaction",
    "contention_interface_4": "changes of writer per transaction",
}
# Metrics that share their name with a parameter.
RATES = {"connections": "connections per second"}
# Over a panel there is less room than along an axis.
SHORT = {
    "transactions_per_connection": "txn/connection",
    "size": "bytes",
    "load_percent": "% of saturation",
    "receiving_cpus": "CPUs receive",
    "workload": "",
}
# A part of a bar is its system's colour, the first full, the next ones lighter and hatched.
PART_ALPHA, PART_HATCH = (1.0, 0.45, 0.25), ("", "////", "....")
# Series that are values of a parameter: from light to dark, since they are ordered.
ORDERED = ("#c2a5cf", "#9970ab", "#762a83", "#40004b", "#1f0024")
ORDERED_MARKERS = ("o", "s", "D", "^", "v")
GREYS, GREY_HATCH = ("#6e7781", "#9aa4ae", "#c4ccd4"), ("", "////", "....")


def label(name: str) -> str:
    """A parameter's or metric's name as an axis says it."""
    return LABELS.get(name, name.replace("_", " "))


def metric_label(name: str) -> str:
    """The same for a metric alone."""
    return RATES.get(name) or label(name)


def drawable(table: Table, figure: Figure) -> bool:
    """Whether there is anything to draw, and not beside another figure already.

    What cannot be measured is drawn for the paper's curve; its substitute then stands beside it.
    Without such a curve the substitute stands alone.
    """
    if figure.needs_scaling and not table.raw.can_scale:
        return figure.paper is not None and figure.instead is not None
    beside = any(
        other.instead == figure.id and other.needs_scaling and other.paper is not None
        for other in table.raw.experiment.figures
    )
    return not (beside and not table.raw.can_scale) and len(_data(table, figure)) > 0


def draw(table: Table, figure: Figure) -> Canvas:
    """One figure of one table."""
    with mpl.rc_context(STYLE):
        if figure.needs_scaling and not table.raw.can_scale:
            return _not_measurable(table, figure)
        panels = _panel_values(table, figure)
        columns, rows = _layout(len(panels))
        wide = 2.0 if figure.shape == "stacked" else 1.0
        canvas = Canvas(figsize=_size(columns * wide, rows), layout="constrained")
        SHAPES[figure.shape](canvas, table, figure)
        _frame(canvas, table, figure.title)
        return canvas


def write_figures(results: Path, testbed: str, table: Table) -> list[Path]:
    """figures/<experiment>-<figure>.svg and .png, all that can be drawn."""
    folder = results / testbed / "figures"
    written = []
    for figure in table.raw.experiment.figures:
        if not drawable(table, figure):
            continue
        canvas = draw(table, figure)
        stem = file_stem(table, figure)
        for kind in ("svg", "png"):
            path = folder / f"{stem}.{kind}"
            write_whole(path, render(canvas, kind, stem))
            written.append(path)
    return written


def file_stem(table: Table, figure: Figure) -> str:
    """The name of a figure's files."""
    return f"{table.raw.experiment.id}-{figure.id}"


def render(canvas: Canvas, kind: str, stem: str) -> bytes:
    """The picture's bytes: the same ones whenever it is drawn from the same table."""
    out = BytesIO()
    # The salt keeps the ids of one SVG apart from those of its neighbours in the report.
    with mpl.rc_context({**STYLE, "svg.hashsalt": stem}):
        if kind == "svg":
            canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        else:
            canvas.savefig(out, format="png", dpi=160, facecolor="white")
    return out.getvalue()


def where(table: Table) -> str:
    """On what it was measured, as the title says it."""
    bed = table.raw.testbed
    facts = bed.get("facts") or {}
    title = facts.get("title") or bed["name"]
    if not bed["is_virtual"]:
        return f"{title}, {bed['cores']} cores"
    accel = {"tcg": "TCG emulation", "kvm": "KVM"}.get(bed["accel"] or "", bed["accel"])
    hosts = table.raw.meta.get("client", {}).get("cpus")
    on = f" on {hosts} host cores" if hosts else ""
    return f"{title} ({accel}), {bed['cores']} vCPUs{on}"


def _size(columns: float, rows: int) -> tuple[float, float]:
    width = max(5.6, 0.6 + 2.9 * columns)
    return width, 3.9 if rows == 1 else 0.9 + 2.4 * rows


def _layout(panels: int) -> tuple[int, int]:
    columns = panels if panels <= 3 else math.ceil(math.sqrt(panels))
    return columns, math.ceil(panels / columns)


def _frame(canvas: Canvas, table: Table, title: str) -> None:
    """Title and machine. One text: the layout makes room for one only."""
    canvas.suptitle(
        f"{title}\n{where(table)}", x=0.01, ha="left", fontsize=10, color=INK, linespacing=1.4
    )


def _data(table: Table, figure: Figure) -> pd.DataFrame:
    return table.rows(figure.metric, figure.at).dropna(subset=["median"])


def _panel_values(table: Table, figure: Figure) -> list[Any]:
    if figure.panel is None:
        return [None]
    return sorted(_data(table, figure)[figure.panel].unique())


def _panel_title(figure: Figure, value: Any) -> str:
    """The panel's value, and of what."""
    name = figure.panel or ""
    return f"{says(name, value)} {SHORT.get(name, name)}".strip()


def _series(rows: pd.DataFrame, figure: Figure) -> list[Any]:
    if figure.series == "system":
        return system.order(set(rows["system"]))
    return sorted(rows[figure.series].unique())


def _paper_rows(table: Table, figure: Figure, panel: Any = None) -> pd.DataFrame:
    """The published numbers that stand on the axes of a figure, or of one panel of it."""
    rows = pd.DataFrame()
    if figure.paper is not None:
        rows = paper.rows(figure.paper, {"metric": figure.metric, **figure.at})
    if figure.claims:
        rows = pd.DataFrame(compare.claimed(table.raw.experiment, figure.metric))
    if figure.x not in rows.columns:
        return rows.iloc[:0]
    if panel is not None and figure.panel in rows.columns:
        rows = rows[rows[figure.panel] == panel]
    return rows


def _places(name: str, values: Sequence[Any]) -> dict[Any, float]:
    """Where values stand on an axis: at themselves, but what is endless after all that is not."""
    if any(isinstance(value, str) for value in values):
        return {value: float(place) for place, value in enumerate(sorted(values))}
    finite = [float(value) for value in values if says(name, value) != "endless"]
    return {
        value: float(value) if says(name, value) != "endless" else 2 * max(finite, default=0.5)
        for value in values
    }


def _parameter_axis(axes: Axes, name: str, places: Mapping[Any, float]) -> None:
    """The parameter's own values as ticks; powers of two at even distances."""
    ticks = sorted(set(places.values()))
    names = {place: says(name, value) for value, place in places.items()}
    if len(ticks) > 1 and ticks[0] > 0 and ticks[-1] / ticks[0] >= 4:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: names.get(place, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label(name))


def _value_axis(axes: Axes, metric: str, *, named: bool = True) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    if named:
        axes.set_ylabel(metric_label(metric))


def _whiskers(row: Any) -> tuple[float, float] | None:
    if pd.isna(row["lo"]) or pd.isna(row["hi"]):
        return None
    return row["median"] - row["lo"], row["hi"] - row["median"]


def _legend(canvas: Canvas | SubFigure, panels: Sequence[Axes], width: float) -> None:
    """Under the axes, in as many columns as `width` inches hold; each label of any panel once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    handles, labels = list(found.values()), list(found)
    widest = 0.5 + 0.062 * max((len(text) for text in labels), default=0)
    columns = min(len(labels), max(1, int(width / widest)))
    canvas.legend(handles, labels, loc="outside lower left", ncols=max(1, columns))


def _width(canvas: Canvas | SubFigure) -> float:
    """The canvas's width in inches."""
    box = canvas.bbox
    return float(box.width) / float(canvas.get_figure(root=True).dpi)


# lines


def lines(canvas: Canvas | SubFigure, table: Table, figure: Figure) -> None:
    """Medians with intervals over a parameter."""
    panels = _panel_values(table, figure)
    columns, rows = _layout(len(panels))
    data = _data(table, figure)
    grid = canvas.subplots(rows, columns, squeeze=False, sharey=_one_scale(data, figure))
    for index, axes in enumerate(grid.flat):
        if index >= len(panels):
            axes.set_visible(False)
            continue
        panel = panels[index]
        chosen = data if panel is None else data[data[figure.panel] == panel]
        published = _paper_rows(table, figure, panel)
        values = [*chosen[figure.x].unique(), *(published[figure.x] if len(published) else ())]
        places = _places(figure.x, values)
        _paper_lines(axes, figure, published, places)
        for place, name in enumerate(_series(chosen, figure)):
            rows_of = chosen[chosen[figure.series] == name]
            _line(axes, figure, name, place, rows_of.assign(place=rows_of[figure.x].map(places)))
        if panel is not None:
            axes.set_title(_panel_title(figure, panel), fontsize=8)
        _parameter_axis(axes, figure.x, places)
        if index + columns < len(panels):
            axes.set_xlabel("")
        _value_axis(axes, figure.metric, named=rows == 1 and index == 0)
        axes.margins(y=0.12)
    # When all is drawn: from here on a scale no longer grows, and panels may share theirs. A loss
    # is shown as well.
    if data["median"].min() >= 0:
        shown = list(grid.flat)[: len(panels)]
        # Room over lines that are flat: of their range alone the margin is next to nothing.
        for axes, top in [(axes, axes.get_ylim()[1]) for axes in shown]:
            axes.set_ylim(0, 1.05 * top)
    if rows > 1:
        canvas.supylabel(metric_label(figure.metric), fontsize=9, color=INK)
    _legend(canvas, list(grid.flat)[: len(panels)], _width(canvas))


def _one_scale(data: pd.DataFrame, figure: Figure) -> bool:
    """One scale for all panels, unless it would press one panel's lines flat."""
    if figure.panel is None:
        return True
    highest = data.groupby(figure.panel)["median"].max()
    return bool(highest.min() >= 0.4 * highest.max())


def _line(axes: Axes, figure: Figure, name: Any, place: int, rows: pd.DataFrame) -> None:
    rows = rows.sort_values("place")
    if figure.series == "system":
        look = system.look(str(name))
        colour, marker, text = look.colour, look.marker, look.label
    else:
        colour = ORDERED[place % len(ORDERED)]
        marker = ORDERED_MARKERS[place % len(ORDERED_MARKERS)]
        text = f"{name:g} {SHORT.get(figure.series, figure.series)}"
    axes.plot(rows["place"], rows["median"], color=colour, marker=marker, label=text, zorder=3)
    for _, row in rows.iterrows():
        reach = _whiskers(row)
        if reach is not None:
            axes.errorbar(
                row["place"],
                row["median"],
                yerr=[[reach[0]], [reach[1]]],
                color=colour,
                capsize=3,
                linewidth=1,
                zorder=2,
            )


def _paper_lines(
    axes: Axes, figure: Figure, published: pd.DataFrame, places: Mapping[Any, float]
) -> None:
    """The paper's curves in grey; what it claims of single points is no curve."""
    if not len(published):
        return
    for name in system.order(set(published["system"])):
        rows = published[published["system"] == name].sort_values(figure.x)
        single = figure.claims or rows[figure.x].nunique() == 1
        axes.errorbar(
            rows[figure.x].map(places),
            rows["value"],
            yerr=rows["reading_error"] if rows["reading_error"].notna().all() else None,
            color=PAPER,
            marker=system.look(name).marker,
            markersize=7 if single else 4,
            markerfacecolor="none",
            linestyle="none" if single else "--",
            linewidth=1.1,
            elinewidth=0.8,
            label=_paper_label(name, rows),
            zorder=1,
        )


def _paper_label(name: str, rows: pd.DataFrame) -> str:
    marks = "".join(f"[{mark}]" for mark in sorted(set(rows["mark"])))
    return f"{system.look(name).label}, paper {marks}"


# bars


def bars(canvas: Canvas | SubFigure, table: Table, figure: Figure) -> None:
    """A group per value, a bar per system, stacked into parts; a panel per value of another."""
    panels = _panel_values(table, figure)
    columns, rows = _layout(len(panels))
    grid = canvas.subplots(rows, columns, squeeze=False, sharey=True)
    data = _data(table, figure)
    names = list(_series(data, figure))
    places = _places(figure.x, list(data[figure.x].unique()))
    values = sorted(places, key=lambda value: places[value])
    for index, axes in enumerate(grid.flat):
        if index >= len(panels):
            axes.set_visible(False)
            continue
        at = dict(figure.at)
        if figure.panel is not None:
            at[figure.panel] = panels[index]
            axes.set_title(_panel_title(figure, panels[index]), fontsize=8)
        _bar_groups(axes, table, figure, at, names, values)
        axes.set_xticks(range(len(values)), [_wrapped(says(figure.x, value)) for value in values])
        if index + columns >= len(panels):
            axes.set_xlabel(label(figure.x))
        axes.tick_params(axis="x", length=0)
        _value_axis(axes, figure.metric, named=rows == 1 and index == 0)
    if rows > 1:
        canvas.supylabel(metric_label(figure.metric), fontsize=9, color=INK)
    _legend(canvas, list(grid.flat)[: len(panels)], _width(canvas))


def _wrapped(text: str) -> str:
    """In lines as wide as a group of bars."""
    return textwrap.fill(text, 14, break_long_words=False, break_on_hyphens=False)


def _bar_groups(
    axes: Axes,
    table: Table,
    figure: Figure,
    point: dict[str, Any],
    names: Sequence[Any],
    values: Sequence[Any],
) -> None:
    """One panel's bars, side by side within a group."""
    width = 0.84 / len(names)
    parts = figure.parts or (figure.metric,)
    for place, name in enumerate(names):
        look = system.look(str(name))
        for group, value in enumerate(values):
            at = {**point, figure.x: value, figure.series: name}
            x = group + (place - (len(names) - 1) / 2) * width
            bottom = 0.0
            for index, part in enumerate(parts):
                summary = table.one(part, at)
                if summary is None:
                    continue
                axes.bar(
                    x,
                    summary.median,
                    width * 0.92,
                    bottom=bottom,
                    color=look.colour,
                    alpha=PART_ALPHA[index],
                    hatch=PART_HATCH[index],
                    edgecolor="white" if index == 0 else look.colour,
                    linewidth=0,
                    label=look.label if group == 0 and index == 0 else None,
                )
                bottom += summary.median
            total = table.one(figure.metric, at)
            if total is not None and total.lo is not None and total.hi is not None:
                reach = [[total.median - total.lo], [total.hi - total.median]]
                axes.errorbar(x, total.median, yerr=reach, color=INK, capsize=2, linewidth=1)
    _paper_marks(axes, table, figure, point, names, values)
    _hatch_key(axes, parts)


def _paper_marks(
    axes: Axes,
    table: Table,
    figure: Figure,
    point: Mapping[str, Any],
    names: Sequence[Any],
    values: Sequence[Any],
) -> None:
    """The paper's numbers in grey over the bars that they are of."""
    published = _paper_rows(table, figure, point.get(figure.panel or ""))
    for _, row in published.iterrows():
        if row["system"] not in names or row[figure.x] not in values:
            continue
        place = (names.index(row["system"]) - (len(names) - 1) / 2) * 0.84 / len(names)
        axes.plot(
            values.index(row[figure.x]) + place,
            row["value"],
            color=PAPER,
            marker=system.look(row["system"]).marker,
            markersize=7,
            markerfacecolor="none",
            linestyle="none",
            label=_paper_label(row["system"], published[published["system"] == row["system"]]),
        )


def _hatch_key(axes: Axes, parts: Sequence[str]) -> None:
    if len(parts) < 2:
        return
    for index, part in enumerate(parts):
        axes.bar(
            0,
            0,
            color=FAINT,
            alpha=PART_ALPHA[index],
            hatch=PART_HATCH[index],
            linewidth=0,
            label=f"{label(part)} part",
        )


# stacked


def stacked(canvas: Canvas | SubFigure, table: Table, figure: Figure) -> None:
    """What each system adds: beside the paper's on one scale, and again on a scale of its own."""
    published = _paper_rows(table, figure)
    data = _data(table, figure)
    values = sorted({*data[figure.x], *(published[figure.x] if len(published) else ())})
    columns = 2 if len(published) else 1
    grid = canvas.subplots(1, columns, squeeze=False)
    if len(published):
        both = grid[0][0]
        names = system.order(set(published["system"]))
        for index, name in enumerate(names):
            rows = published[published["system"] == name].set_index(figure.x)["value"]
            below = _below(published, names[:index], figure.x, "value")
            marks = "".join(f"[{m}]" for m in sorted(set(published["mark"])))
            both.bar(
                [values.index(value) - 0.21 for value in rows.index],
                rows.to_numpy(),
                0.38,
                bottom=[below.get(value, 0.0) for value in rows.index],
                color=GREYS[index % 3],
                hatch=GREY_HATCH[index % 3],
                edgecolor="white",
                linewidth=0,
                label=f"paper {marks}: + {system.look(name).step}",
            )
        _our_stack(both, table, figure, data, values, 0.21, 0.38)
        both.set_title("beside the paper, one scale")
        _stack_axes(both, figure, values, named=True)
    ours = grid[0][-1]
    shown = sorted(set(data[figure.x]))
    _our_stack(ours, table, figure, data, shown, 0.0, 0.6)
    ours.set_title("ours alone, its own scale" if len(published) else "")
    _stack_axes(ours, figure, shown, named=not len(published))
    _legend(canvas, [grid[0][0]], _width(canvas))


def _below(rows: pd.DataFrame, names: Sequence[str], x: str, column: str) -> dict[Any, float]:
    lower = rows[rows["system"].isin(names)]
    return {key: float(value) for key, value in lower.groupby(x)[column].sum().items()}


def _our_stack(
    axes: Axes,
    table: Table,
    figure: Figure,
    data: pd.DataFrame,
    values: Sequence[Any],
    shift: float,
    width: float,
) -> None:
    """Gains upwards, losses downwards from zero; a dash where they come out in sum."""
    up: dict[Any, float] = dict.fromkeys(values, 0.0)
    down: dict[Any, float] = dict.fromkeys(values, 0.0)
    for name in _series(data, figure):
        rows = data[data[figure.series] == name]
        look = system.look(str(name))
        named = False
        for _, row in rows.iterrows():
            value, step = row[figure.x], float(row["median"])
            side = up if step >= 0 else down
            axes.bar(
                values.index(value) + shift,
                step,
                width,
                bottom=side[value],
                color=look.colour,
                linewidth=0,
                label=None if named else f"+ {look.step}",
            )
            side[value] += step
            named = True
    for index, value in enumerate(values):
        if value in set(data[figure.x]):
            total = up[value] + down[value]
            axes.plot(
                [index + shift - width / 2, index + shift + width / 2],
                [total, total],
                color=INK,
                linewidth=2,
                label="all, in sum" if value == data[figure.x].min() else None,
                zorder=4,
            )
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=4)


def _stack_axes(axes: Axes, figure: Figure, values: Sequence[Any], *, named: bool) -> None:
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.tick_params(axis="x", length=0)
    # A lone bar keeps the width of a bar among others.
    room = max(0.6, (4 - len(values)) / 2)
    axes.set_xlim(-room, len(values) - 1 + room)
    axes.set_xlabel(label(figure.x))
    _value_axis(axes, figure.metric, named=named)


# what this testbed cannot show


def _not_measurable(table: Table, figure: Figure) -> Canvas:
    """The paper's curves, why ours are not there, and what can be shown in their place."""
    other = next((f for f in table.raw.experiment.figures if f.id == figure.instead), None)
    panels = _panel_values(table, other) if other is not None else []
    columns, rows = _layout(len(panels)) if panels else (0, 1)
    width = 4.6 + 2.5 * max(columns, 1.4) if panels else 5.6
    canvas = Canvas(figsize=(width, max(4.2, 0.9 + 2.3 * rows)), layout="constrained")
    if other is not None and panels:
        left, right = canvas.subfigures(
            1, 2, squeeze=False, width_ratios=[4.6, width - 4.6], wspace=0.04
        ).flat
        SHAPES[other.shape](right, table, other)
        right.suptitle(f"Measured in its place\n{other.title}", x=0.02, ha="left", fontsize=9)
    else:
        left = canvas.subfigures(1, 1)
    axes = left.subplots()
    published = _paper_rows(table, figure)
    if figure.panel is not None and figure.panel in published.columns:
        grid = table.raw.experiment.grid
        published = published[published[figure.panel].isin(grid[figure.panel])]
    if len(published):
        places = _places(figure.x, list(published[figure.x]))
        _paper_lines(axes, figure, published, places)
        if figure.panel is not None:
            _name_points(axes, figure, published, places)
        _parameter_axis(axes, figure.x, places)
        _legend(left, [axes], 4.6)
    axes.set_ylim(bottom=0)
    _value_axis(axes, figure.metric)
    why = table.raw.testbed.get("why_not_scale") or "the testbed has too few cores"
    said = textwrap.fill(f"ours: not measurable here ({why})", 58)
    left.suptitle(f"The paper's\n{said}", x=0.02, ha="left", fontsize=9)
    _frame(canvas, table, figure.title)
    return canvas


def _name_points(
    axes: Axes, figure: Figure, published: pd.DataFrame, places: Mapping[Any, float]
) -> None:
    """Points of several panels on one pair of axes: each says of which it is."""
    for _, row in published.iterrows():
        axes.annotate(
            _panel_title(figure, row[str(figure.panel)]),
            (places[row[figure.x]], row["value"]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )


Shape = Callable[[Canvas | SubFigure, Table, Figure], None]
SHAPES: dict[str, Shape] = {"lines": lines, "bars": bars, "stacked": stacked}


def marks_explained() -> str:
    """The marks, in one line."""
    return "; ".join(f"[{mark}] {meaning}" for mark, meaning in MARKS.items())
