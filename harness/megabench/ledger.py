# SPDX-License-Identifier: MIT
"""The cost ledger: what a transaction costs at a few fixed points, kept in harness/ledger.toml.

A change that makes the interface dearer must say so: the test compares, and fails on a rise of
more than RISE beyond the ledger. Whoever means it writes the ledger anew (`megabench ledger
--write`) in the same commit, and says why there.

Compared is what the interface's own layers take, by symbol (layers.toml). It hardly depends on the
rate, unlike the whole, so that a busy machine is no alarm, and RISE is a few instructions. The
whole may rise by WHOLE_RISE: enough for a busy machine, not for a lost batch or one more wake-up.
An entry is the median of a few trials. The lowest of a few is held against it, since what disturbs
a count mostly adds to it, and only as many are made as it takes to be within. At the edges of a
window up to a transaction of each connection is counted with one side only, so windows are not
short.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from megabench import paths
from megabench.definition import Table
from megabench.errors import HarnessError
from megabench.experiment import Value, cell_key, load_experiment
from megabench.layers import USER, layers
from megabench.measure import FUNCTIONS, Bed, measure
from megabench.plan import Trial, make_plan
from megabench.record import write_whole

RISE, WHOLE_RISE = 0.02, 0.08
MOST_TRIALS = 5
# As many trials make a new entry.
ENTRY_TRIALS = 3
SCALE = "quick"


class LedgerError(HarnessError):
    """The ledger cannot be compared with."""


@dataclass(frozen=True)
class Cost:
    """Instructions per transaction: of the interface's layers by symbol, and of everything."""

    interface: float
    whole: float

    def within(self, entry: Cost) -> bool:
        """No rise that must be stated."""
        return self.interface <= entry.interface * (1 + RISE) and (
            self.whole <= entry.whole * (1 + WHOLE_RISE)
        )


def lowest(costs: Sequence[Cost]) -> Cost:
    """Of each kind the lowest."""
    return Cost(min(one.interface for one in costs), min(one.whole for one in costs))


def middle(costs: Sequence[Cost]) -> Cost:
    """Of each kind the median."""
    return Cost(median(one.interface for one in costs), median(one.whole for one in costs))


@dataclass(frozen=True)
class Ledger:
    """The points to measure, and what they cost when it was written."""

    experiment: str
    only: Mapping[str, tuple[Value, ...]]
    entries: Mapping[str, Cost]  # by the cell's key

    def trials(self) -> list[Trial]:
        """A trial of each point."""
        trials = make_plan([load_experiment(self.experiment)], SCALE, self.only).trials
        return [trial for trial in trials if trial.repeat == 1]


@dataclass(frozen=True)
class Compared:
    """One point: then and now."""

    point: str
    entry: Cost | None
    now: Cost
    trials: int

    @property
    def risen(self) -> bool:
        return self.entry is None or not self.now.within(self.entry)


def path() -> Path:
    """The checkout's ledger."""
    return paths.harness() / "ledger.toml"


def read_ledger(where: Path | None = None) -> Ledger:
    """The ledger, checked."""
    table = Table.load(where or path())
    only = table.table("only")
    wanted: dict[str, tuple[Value, ...]] = {}
    for key, values in only.values.items():
        if not isinstance(values, list):
            raise only.wrong(key, "must be a list of values")
        wanted[key] = tuple(values)
    entries = {}
    points = table.table("points", optional=True)
    for key in points.values:
        point = points.table(key)
        entries[key] = Cost(point.integer("interface"), point.integer("whole"))
        point.finish()
    ledger = Ledger(table.text("experiment"), wanted, entries)
    table.finish()
    return ledger


def write_ledger(ledger: Ledger, compared: Sequence[Compared], where: Path | None = None) -> None:
    """New entries below the old head."""
    where = where or path()
    head = where.read_text().partition("[points.")[0].rstrip()
    lines = [head]
    for one in compared:
        lines += [
            "",
            f'[points."{one.point}"]',
            f"interface = {one.now.interface:.0f}",
            f"whole = {one.now.whole:.0f}",
        ]
    write_whole(where, "\n".join(lines) + "\n")


def cost(metrics: Mapping[str, Any], functions: Mapping[str, float]) -> Cost:
    """What one trial cost."""
    by_symbol = {USER: float(metrics["instructions_user"]), **functions}
    return Cost(
        sum(share for name, share in by_symbol.items() if layers().of(name).interface),
        float(metrics["instructions"]),
    )


def measure_once(bed: Bed, trial: Trial, number: int, logs: Path) -> Cost:
    """One trial on a testbed that is up and counts instructions."""
    measured = measure(bed, trial, number, logs)
    if "instructions" not in measured.metrics:
        raise LedgerError(
            f"{bed.name}: no instructions were counted: {'; '.join(measured.notes)}",
            hint="make plugin; and the testbed must be an emulated machine (ACCEL=tcg)",
        )
    if measured.errors:
        raise LedgerError(f"{trial.key}: {measured.errors} errors: no measure of the cost")
    return cost(measured.metrics, json.loads((logs / FUNCTIONS).read_text()))


def compare(bed: Bed, ledger: Ledger, folder: Path, *, anew: bool = False) -> list[Compared]:
    """Every point against its entry; with `anew`, as often as a new entry takes."""
    compared = []
    number = 0
    for trial in ledger.trials():
        key = cell_key(trial.cell)
        entry = None if anew else ledger.entries.get(key)
        costs: list[Cost] = []
        most = MOST_TRIALS if entry else ENTRY_TRIALS
        while not costs or (len(costs) < most and not (entry and lowest(costs).within(entry))):
            number += 1
            again = replace(trial, repeat=len(costs) + 1)
            costs.append(measure_once(bed, again, number, folder / f"{number}"))
        now = lowest(costs) if entry else middle(costs)
        compared.append(Compared(key, ledger.entries.get(key), now, len(costs)))
    return compared


def rows(compared: Sequence[Compared]) -> list[list[str]]:
    """Point, then, now, and how much more; for the interface and the whole."""
    lines = []
    for one in compared:
        entry = one.entry or Cost(0, 0)
        lines.append(
            [
                one.point,
                f"{entry.interface:,.0f}",
                f"{one.now.interface:,.0f}",
                _change(entry.interface, one.now.interface),
                f"{entry.whole:,.0f}",
                f"{one.now.whole:,.0f}",
                _change(entry.whole, one.now.whole),
                "risen" if one.risen else "",
            ]
        )
    return lines


HEADINGS = ["point", "interface then", "now", "", "whole then", "now", "", ""]


def _change(then: float, now: float) -> str:
    return f"{now / then - 1:+.1%}" if then else "new"


def complaint(compared: Sequence[Compared]) -> str:
    """What is dearer than the ledger says, and what to do; empty if nothing is."""
    risen = [one for one in compared if one.risen]
    if not risen:
        return ""
    lines = ["a transaction costs more than harness/ledger.toml says:"]
    lines += ["  " + "  ".join(row) for row in rows(risen)]
    lines.append(
        "If that is meant: megabench ledger --write, and say in the commit what the rise is for."
    )
    return "\n".join(lines)
