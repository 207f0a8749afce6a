# SPDX-License-Identifier: MIT
"""What a person reads at the end: system by system, with ratios over the baseline.

The terminal, the report and results/README.md show the same rows, made here once.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megabench import compare, stats, system
from megabench.compare import Judged
from megabench.experiment import says
from megabench.stats import Summary
from megabench.table import Table

# Shown beside an experiment's own metric, where it was measured.
BESIDE = ("instructions",)
NAMES = {
    "throughput": "throughput, transactions/s",
    "connections": "connections/s",
    "instructions": "instructions per transaction",
    "instructions_saving": "instructions per transaction",
    "speedup": "speed-up",
}


@dataclass(frozen=True)
class Entry:
    """One system at one point."""

    value: Summary | None
    ratio: Summary | None

    @property
    def text(self) -> str:
        return "–" if self.value is None else number(self.value.median)

    @property
    def times(self) -> str:
        return "" if self.ratio is None else f"×{self.ratio.median:.2f}"

    @property
    def range(self) -> str:
        value = self.value
        if value is None or value.lo is None or value.hi is None:
            return ""
        return f"{number(value.lo)} – {number(value.hi)}"


@dataclass(frozen=True)
class Grid:
    """One metric of one experiment: a row a point, a column a system."""

    experiment: str
    metric: str
    title: str
    baseline: str
    parameters: list[str]
    systems: list[str]
    rows: list[tuple[list[str], list[Entry]]]

    @property
    def headings(self) -> list[str]:
        return [system.look(name).label for name in self.systems]


def number(value: float) -> str:
    """Three or four digits that matter, with thousands set apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def grids(table: Table) -> list[Grid]:
    """The experiment's own metric, and the ones beside it."""
    metrics = [table.raw.experiment.metric, *BESIDE]
    return [grid for metric in dict.fromkeys(metrics) if (grid := _grid(table, metric)) is not None]


def _grid(table: Table, metric: str) -> Grid | None:
    rows = table.rows(metric).dropna(subset=["median"])
    if not len(rows):
        return None
    experiment = table.raw.experiment
    names = system.order(set(rows["system"]))
    varying = [name for name in experiment.grid if name != "system"]
    points = list(rows[varying].drop_duplicates().itertuples(index=False, name=None))
    made = []
    for point in points:
        at = dict(zip(varying, point, strict=True))
        base = table.one(metric, {**at, "system": experiment.baseline})
        entries = []
        for name in names:
            value = table.one(metric, {**at, "system": name})
            ratio = None
            if value is not None and base is not None and base.median and name != _base(table):
                ratio = stats.ratio(value, base)
            entries.append(Entry(value, ratio))
        said = [says(name, part) for name, part in zip(varying, point, strict=True)]
        made.append((said, entries))
    return Grid(
        experiment=experiment.id,
        metric=metric,
        title=NAMES.get(metric, metric),
        baseline=experiment.baseline,
        parameters=varying,
        systems=names,
        rows=made,
    )


def _base(table: Table) -> str:
    return table.raw.experiment.baseline


def ours_text(row: Judged) -> str:
    """Our ratio with its interval."""
    if row.ours is None:
        return "–"
    text = f"{row.ours.median:.2f}"
    if row.ours.lo is not None and row.ours.hi is not None:
        text += f" ({row.ours.lo:.2f} – {row.ours.hi:.2f})"
    return text


def claim_rows(rows: Sequence[Judged]) -> list[dict[str, str]]:
    """The claims as cells of text."""
    return [
        {
            "experiment": row.experiment,
            "claim": row.text,
            "by": NAMES.get(row.metric, row.metric),
            "paper": f"{row.paper:.2f} [{row.mark}]",
            "ours": ours_text(row),
            "of_paper": "–" if row.of_paper is None else f"{row.of_paper:.2f}",
            "verdict": row.verdict,
            "note": row.note,
            "figure": row.figure or "",
        }
        for row in rows
    ]


def coverage(table: Table) -> str:
    """A sentence on which points of the whole grid there are, and which there are not."""
    raw, grid = table.raw, table.raw.experiment.grid
    whole = set(itertools.product(*grid.values()))
    cells = (tuple(p["cell"].get(name) for name in grid) for p in raw.points if p["status"] == "ok")
    trials = Counter(cell for cell in cells if cell in whole)
    counts = sorted(set(trials.values())) or [0]
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    some = "all" if len(trials) == len(whole) else f"{len(trials)} of the"
    said = f"Measured at scale {raw.meta['scale']}: {some} {len(whole)} points of the whole grid, "
    said += f"{many} trial{'s' * (many != '1')} each"
    absent = []
    rest = whole - trials.keys()
    for place, (name, values) in enumerate(grid.items()):
        missing = [value for value in values if all(cell[place] != value for cell in trials)]
        if missing:
            words = ", ".join(says(name, value) for value in missing)
            absent.append(f"{name.replace('_', ' ')} {words}")
            rest = {cell for cell in rest if cell[place] not in missing}
    if rest:
        absent.append(f"{len(rest)} points{' besides' * bool(absent)}")
    return f"{said}{'; not: ' * bool(absent)}{'; '.join(absent)}."


def health(table: Table) -> list[str]:
    """Sentences on what was measured, and on what might have disturbed the numbers."""
    raw = table.raw
    lines = [coverage(table)]
    counts = {"ok": 0, "errors": 0, "failed": 0}
    worst = {"retransmits_server": 0.0, "retransmits_client": 0.0}
    for point in raw.points:
        counts[point["status"]] = counts.get(point["status"], 0) + 1
        for name in worst:
            worst[name] = max(worst[name], point["metrics"].get(name, {}).get("value", 0))
    lines.append(
        f"{counts['ok']} valid trials, {counts['errors']} left out because of errors, "
        f"{counts['failed']} failed."
    )
    lines.append(
        f"Retransmitted segments in a trial: at most {worst['retransmits_server']:.0f} by the "
        f"server, {worst['retransmits_client']:.0f} by the client."
    )
    lines += [f"Run left out: {text}." for text in raw.left_out]
    lines += [f"Not planned: {text}." for text in raw.meta.get("left_out", [])]
    return lines


def rule() -> str:
    """The rule of the verdicts."""
    return compare.RULE
