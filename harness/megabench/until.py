# SPDX-License-Identifier: MIT
"""Repeating until the numbers are sure enough: `megabench run --until 5%`.

A cell is sure enough when the 95 % interval of its median (stats.py) reaches at most that share of
the median to either side on average: (hi - lo) / 2 <= share * median. Fewer than stats.ENOUGH
trials have no such interval, however close together they are. A point is repeated whole, all
systems side by side, as long as one of them is not. A cell that is still wider after MOST repeats
is named, and its table row shows how wide.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from megabench import stats
from megabench.errors import ExperimentError
from megabench.experiment import cell_key
from megabench.plan import Trial

MOST = 25

Values = Callable[[Trial], Sequence[float]]


def parse(text: str) -> float:
    """`5%` or `5` as 0.05."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ExperimentError(
            f"--until {text}: a share of the median is expected", hint="for example --until 5%"
        )
    return share


def half_width(values: Sequence[float]) -> float:
    """Half the interval over the median; infinite where there is none of 95 % yet."""
    if not values:
        return 0.0  # It fails: more of it says nothing.
    if len(values) < stats.ENOUGH:
        return float("inf")
    summary = stats.summarise(values)
    if summary.lo is None or summary.hi is None or not summary.median:
        return float("inf")
    return (summary.hi - summary.lo) / 2 / abs(summary.median)


def points(trials: Sequence[Trial]) -> dict[str, dict[str, Trial]]:
    """The cells of a plan, by point (all but the system) and then by cell."""
    found: dict[str, dict[str, Trial]] = {}
    for trial in trials:
        rest = {name: value for name, value in trial.cell.items() if name != "system"}
        point = f"{trial.app}|{cell_key(rest)}"
        found.setdefault(point, {}).setdefault(cell_key(trial.cell), trial)
    return found


def wide(trials: Sequence[Trial], values: Values, share: float) -> list[Trial]:
    """One trial of every cell whose interval is wider than `share`."""
    return [
        trial
        for cells in points(trials).values()
        for trial in cells.values()
        if half_width(values(trial)) > share
    ]


def next_round(trials: Sequence[Trial], values: Values, share: float) -> list[Trial]:
    """The trials of one more repeat; none when all is sure enough, or was repeated often enough."""
    repeat = max((trial.repeat for trial in trials), default=MOST) + 1
    if repeat > MOST:
        return []
    more: list[Trial] = []
    for cells in points(trials).values():
        if any(half_width(values(trial)) > share for trial in cells.values()):
            turn = (repeat - 1) % len(cells)
            ordered = list(cells.values())
            more += [replace(t, repeat=repeat) for t in ordered[turn:] + ordered[:turn]]
    return more
