# SPDX-License-Identifier: MIT
"""Pictures of a profile: bars by layer, and what lies under each layer, function by function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from megabench import figure, system
from megabench.experiment import says
from megabench.layers import Layer, layers
from megabench.profile import Profile, varying
from megabench.record import write_whole
from megabench.table import Table

KINDS = ("svg", "png")
# Of the second picture: its width, a row's height, a character's width; and how narrow a function
# may be that has a box of its own.
WIDTH, ROW, CHARACTER, NARROW = 1600, 22, 5.0, 2.0


def write_figures(
    results: Path, testbed: str, table: Table, found: Sequence[Profile]
) -> list[Path]:
    """figures/<experiment>-layers as SVG and PNG, and -profile, which only an SVG can be."""
    folder = results / testbed / "figures"
    stem = f"{table.raw.experiment.id}-layers"
    canvas = bars(table, found)
    written = {folder / f"{stem}.{kind}": figure.render(canvas, kind, stem) for kind in KINDS}
    profile = folder / f"{table.raw.experiment.id}-profile.svg"
    written[profile] = icicle(table, found).encode()
    for path, content in written.items():
        write_whole(path, content)
    return list(written)


def _shown(found: Sequence[Profile]) -> list[Layer]:
    """The layers that anybody spends anything on."""
    shares = [one.by_layer() for one in found]
    return [
        layer
        for layer in layers().layers.values()
        if any(
            share[layer.name] >= 0.001 * one.instructions
            for share, one in zip(shares, found, strict=True)
        )
    ]


def _point(found: Profile, names: Sequence[str]) -> str:
    said = [f"{says(name, found.at[name])} {figure.SHORT.get(name, name)}" for name in names]
    return ", ".join(said)


def _title(canvas: Canvas, table: Table, title: str) -> None:
    text = f"{title}\n{figure.where(table)}"
    canvas.suptitle(text, x=0.01, ha="left", fontsize=10, color=figure.INK, linespacing=1.4)


def bars(table: Table, found: Sequence[Profile]) -> Canvas:
    """A bar for each system and point, stacked by layer, the interface's hatched."""
    names = varying(found)
    points = list(dict.fromkeys(_point(one, names) for one in found))
    shown = _shown(found)
    with mpl.rc_context(figure.STYLE):
        most = max(sum(_point(one, names) == point for one in found) for point in points)
        height = 1.4 + len(points) * (0.35 + 0.24 * most) + 0.2 * (1 + len(shown) // 4)
        canvas = Canvas(figsize=(8.4, height), layout="constrained")
        grid = canvas.subplots(len(points), 1, squeeze=False)
        for axes, point in zip(grid.flat, points, strict=True):
            _bars(axes, [one for one in found if _point(one, names) == point], shown)
            axes.set_title(point, fontsize=8)
        grid.flat[-1].set_xlabel(figure.label("instructions"))
        key = [
            Patch(
                facecolor=layer.colour,
                hatch="////" if layer.interface else "",
                edgecolor="white" if layer.interface else figure.FAINT,
                linewidth=0.3,
                label=layer.label + (" *" if layer.interface else ""),
            )
            for layer in shown
        ]
        canvas.legend(handles=key, loc="outside lower left", ncols=4)
        _title(canvas, table, "Instructions per transaction by layer (*: interface)")
        return canvas


def _bars(axes: Axes, columns: Sequence[Profile], shown: Sequence[Layer]) -> None:
    for place, one in enumerate(columns):
        left = 0.0
        shares = one.by_layer()
        for layer in shown:
            axes.barh(
                place,
                shares[layer.name],
                0.8,
                left=left,
                color=layer.colour,
                hatch="////" if layer.interface else "",
                edgecolor="white" if layer.interface else figure.FAINT,
                linewidth=0.3,
            )
            left += shares[layer.name]
        axes.text(left, place, f" {one.instructions:,.0f}", va="center", fontsize=7)
    axes.set_yticks(range(len(columns)), [system.look(one.system).label for one in columns])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.09)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))


def icicle(table: Table, found: Sequence[Profile]) -> str:
    """Under each system its layers, and under each layer its functions, all to one scale a point.

    An SVG of its own, since a box must say what it is: pointed at, it does.
    """
    names = varying(found)
    widest: dict[str, float] = {}
    for one in found:
        point = _point(one, names)
        widest[point] = max(widest.get(point, 0.0), one.instructions)
    lines = [_text(0, 16, 13, f"Instructions per transaction, {figure.where(table)}")]
    y = 26
    for one in found:
        point = _point(one, names)
        said = f"{system.look(one.system).label}, {point}: {one.instructions:,.0f}"
        lines.append(_text(0, y + 12, 11, said))
        lines += _layers(one, y + 16, WIDTH / widest[point])
        y += 16 + 2 * ROW + 10
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}"'
    head += f' width="{WIDTH}" font-family="sans-serif"'
    style = "<style>rect { stroke: #fff; stroke-width: 0.4 }</style>"
    return "\n".join([f"{head}>", style, *lines, "</svg>", ""])


def _layers(one: Profile, y: int, scale: float) -> Iterator[str]:
    left = 0.0
    for layer in layers().layers.values():
        mine = [(f, share) for f, share in one.functions.items() if layers().of(f) is layer]
        width = sum(share for _, share in mine)
        if not width:
            continue
        yield _box(left * scale, y, width * scale, layer.colour, layer.label, width)
        inner = left
        for function, share in mine:
            if share * scale < NARROW:
                break
            yield _box(inner * scale, y + ROW, share * scale, layer.colour, function, share)
            inner += share
        left += width


def _box(x: float, y: int, width: float, colour: str, text: str, share: float) -> str:
    """A rectangle, its name as far as there is room, and the whole of it for who points at it."""
    room = int(width / CHARACTER)
    shown = ""
    if room >= 3:
        dark = sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) < 330
        cut = text if len(text) <= room else text[: room - 1] + "…"
        shown = _text(x + 2, y + ROW - 6, 9, cut, "#ffffff" if dark else figure.INK)
    return (
        f'<g><title>{escape(text)}: {share:,.1f}</title><rect x="{x:.2f}" y="{y}" '
        f'width="{width:.2f}" height="{ROW - 1}" fill="{colour}"/>{shown}</g>'
    )


def _text(x: float, y: int, size: int, text: str, colour: str = figure.INK) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
