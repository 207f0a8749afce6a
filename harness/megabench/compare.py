# SPDX-License-Identifier: MIT
"""Ours beside the paper's: ratios, since the machines differ, and a verdict by a stated rule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megabench import metadata, paper, stats
from megabench.experiment import Experiment, Verdict, worded
from megabench.stats import Summary
from megabench.table import Table

REPRODUCED, SAME, NOT, NOT_RUN = "reproduced", "same direction", "not reproduced", "not run"
# How much of the paper's effect, on a logarithmic scale, makes a reproduction.
ENOUGH = 0.8
# Without an interval, how far from 1 a ratio must be to have a direction.
CLEAR = 0.05
# How far a cost may rise and still be called nearly constant.
NEARLY = 0.10
RULE = (
    "Compared are ratios of medians, on a logarithmic scale. "
    f"*{REPRODUCED}*: at least {ENOUGH:.0%} of the paper's effect (log of its ratio), interval "
    f"clear of 1. *{SAME}*: less than that, but on the paper's side of 1 with the whole interval "
    f"(with fewer than {stats.FEWEST} trials, by at least {CLEAR:.0%}). *{NOT}*: neither. "
    f"Of a cost that the paper calls nearly constant, *{REPRODUCED}*: the interval rises at most "
    f"1/{ENOUGH:g} times as far; *{SAME}*: at most by {NEARLY:.0%}. "
    f"*{NOT_RUN}*: no valid trials, or not measurable on this testbed. A number that only stands "
    f"in for the paper's (instructions per transaction where rates cannot show it) never earns "
    f"more than *{SAME}*; recalled numbers [R] are never a target."
)


@dataclass(frozen=True)
class Judged:
    """One claim beside ours."""

    experiment: str
    id: str
    text: str
    mark: str
    paper: float
    metric: str
    ours: Summary | None
    verdict: str
    note: str
    figure: str | None

    @property
    def of_paper(self) -> float | None:
        """Our ratio over the paper's."""
        return None if self.ours is None else self.ours.median / self.paper


def judge(ours: Summary, published: float, *, proxy: bool = False) -> str:
    """The verdict on one ratio."""
    effect, target = math.log(ours.median), math.log(published)
    side = 1 if target > 0 else -1
    if ours.lo is not None and ours.hi is not None:
        edge = min(side * math.log(ours.lo), side * math.log(ours.hi)) if ours.lo > 0 else -1.0
        clear = edge > 0
    else:
        clear = side * effect >= math.log(1 + CLEAR)
    if not clear:
        return NOT
    if not proxy and side * effect >= ENOUGH * abs(target):
        return REPRODUCED
    return SAME


def judge_upper(ours: Summary, published: float) -> str:
    """The verdict on a cost that is to stay within the published ratio, which is above 1."""
    highest = ours.median if ours.hi is None else ours.hi
    if highest - 1 <= (published - 1) / ENOUGH:
        return REPRODUCED
    return SAME if highest - 1 <= NEARLY else NOT


def published_ratio(verdict: Verdict) -> tuple[float, str]:
    """The paper's ratio and its mark."""
    name = verdict.paper["file"]
    above = paper.number(name, verdict.paper["where"])
    if not verdict.paper.get("over"):
        return above.ratio, above.mark
    below = paper.number(name, verdict.paper["over"])
    return above.ratio / below.ratio, above.mark


def claimed(experiment: Experiment, metric: str) -> list[dict[str, Any]]:
    """The paper's numbers behind the verdicts, as values of a metric that is derived like them."""
    of = {
        (derived.of, *derived.over.items()): derived.kind
        for derived in experiment.derived
        if derived.metric == metric and derived.kind in ("gain", "ratio")
    }
    rows: list[dict[str, Any]] = []
    for verdict in experiment.verdicts:
        kind = of.get((verdict.metric, *verdict.over.items()))
        if kind is None:
            continue
        ratio, mark = published_ratio(verdict)
        value = 100 * (ratio - 1) if kind == "gain" else ratio
        row = {"system": verdict.system, "value": value, "mark": mark, "reading_error": math.nan}
        rows.append({**experiment.fixed, **verdict.at, **row})
    return rows


def not_run(experiment: Experiment) -> list[Judged]:
    """The claims of an experiment without results."""
    rows = []
    for verdict in experiment.verdicts:
        ratio, mark = published_ratio(verdict)
        rows.append(_row(experiment, verdict, ratio, mark, verdict.metric, None, NOT_RUN, ""))
    return rows


def compare(table: Table) -> list[Judged]:
    """Every claim of a table's experiment: its own metric first, then its stand-in."""
    raw = table.raw
    experiment = raw.experiment
    rows = []
    for verdict in experiment.verdicts:
        ratio, mark = published_ratio(verdict)
        unscaled = "" if raw.can_scale else verdict.unscaled
        if verdict.needs_scaling and not raw.can_scale:
            why = f"not measurable here: {raw.testbed.get('why_not_scale') or 'too few cores'}"
            rows.append(_row(experiment, verdict, ratio, mark, verdict.metric, None, NOT_RUN, why))
        else:
            ours = _our_ratio(table, verdict)
            if ours is None:
                said = NOT_RUN
            else:
                rule = judge_upper if verdict.bound == "upper" else judge
                said = rule(ours, ratio)
            rows.append(
                _row(
                    experiment,
                    verdict,
                    ratio,
                    mark,
                    verdict.metric,
                    ours,
                    said,
                    unscaled if ours is not None else "",
                )
            )
        if verdict.proxy is not None and not raw.can_scale:
            stand_in = table.one(verdict.proxy, {**verdict.at, "system": verdict.system})
            said = NOT_RUN if stand_in is None else judge(stand_in, ratio, proxy=True)
            note = "stands in for the rate: cost per transaction alone" if stand_in else ""
            rows.append(_row(experiment, verdict, ratio, mark, verdict.proxy, stand_in, said, note))
    return rows


def _our_ratio(table: Table, verdict: Verdict) -> Summary | None:
    at = {**verdict.at, "system": verdict.system}
    above = table.one(verdict.metric, at)
    below = table.one(verdict.metric, {**at, **verdict.over})
    if above is None or below is None or not below.median or not above.median:
        return None
    return stats.ratio(above, below)


def _row(
    experiment: Experiment,
    verdict: Verdict,
    ratio: float,
    mark: str,
    metric: str,
    ours: Summary | None,
    said: str,
    note: str,
) -> Judged:
    notes = [text for text in (note, ours.note if ours else "") if text]
    # The figure of the metric, or of the one that it is derived from.
    sources = {derived.metric: derived.of for derived in experiment.derived}
    figure = next(
        (
            figure.id
            for wanted in (metric, sources.get(metric))
            for figure in experiment.figures
            if figure.metric == wanted
        ),
        None,
    )
    return Judged(
        experiment=experiment.id,
        id=verdict.id,
        text=verdict.text,
        mark=mark,
        paper=ratio,
        metric=metric,
        ours=ours,
        verdict=said,
        note="; ".join(notes),
        figure=figure,
    )


@dataclass(frozen=True)
class Difference:
    """One row of two tables."""

    metric: str
    cell: str
    old: Summary
    new: Summary
    ratio: Summary

    @property
    def clear(self) -> bool:
        """Whether the ratio's interval is clear of 1."""
        if self.ratio.lo is None or self.ratio.hi is None:
            return False
        return self.ratio.lo > 1 or self.ratio.hi < 1

    @property
    def chance(self) -> float:
        """How often it would be although nothing differs, of so few trials."""
        return stats.chance(self.old.n, self.new.n)

    @property
    def proven(self) -> bool:
        """Whether chance is no explanation."""
        return self.clear and self.chance <= 1 - stats.CONFIDENCE

    @property
    def said(self) -> str:
        """Whether it is more than noise, in words."""
        if self.ratio.lo is None:
            return f"not known: fewer than {stats.FEWEST} trials"
        if self.clear and not self.proven:
            return f"likely ({self.chance:.0%} by chance)"
        return "yes" if self.proven else "no"


def differences(old: Table, new: Table, metrics: Sequence[str]) -> list[Difference]:
    """Two tables of one experiment, cell by cell."""
    names = ["system", *new.raw.parameters]
    rows = []
    for metric in metrics:
        for _, row in new.rows(metric).dropna(subset=["median"]).iterrows():
            at = {name: row[name] for name in names}
            there, here = old.one(metric, at), new.one(metric, at)
            if there is None or here is None or not there.median:
                continue
            cell = ", ".join(f"{name}={worded(name, value)}" for name, value in at.items())
            rows.append(Difference(metric, cell, there, here, stats.ratio(here, there)))
    return rows


# What two runs may differ in: it is what they are compared for.
MAY_DIFFER = ("binaries", "testbed.facts.server.release", "testbed.facts.server.version",
              "testbed.facts.server.config_sha256")  # fmt: skip


def unlike_runs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why two runs say nothing about each other; empty if they do."""
    if old["experiment"] != new["experiment"]:
        return [f"the experiments: {old['experiment']} and {new['experiment']}"]
    why = []
    for name in ("grid", "fixed", "metric", "unit", "app"):
        one, other = (meta["definition"].get(name) for meta in (old, new))
        if name == "grid":
            # More points are points that only one of them has.
            one, other = (sorted(grid or {}) for grid in (one, other))
        if one != other:
            why.append(f"definition.{name}")
    names = metadata.unlike(old, new)
    return why + [name for name in names if name not in MAY_DIFFER]


def changed_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In what two comparable runs differ: what a difference of their numbers may be due to."""
    names = [name for name in metadata.unlike(old, new) if name in MAY_DIFFER]
    if old["commit"] != new["commit"] or old["dirty"] or new["dirty"]:
        said = [f"{meta['commit'][:7]}{'+' * bool(meta['dirty'])}" for meta in (old, new)]
        names.insert(0, f"commit ({said[0]}, {said[1]})")
    return names
