# SPDX-License-Identifier: MIT
"""From raw results to a tidy table, and from nothing else.

One row a cell and metric: experiment, system, a column per parameter, metric, unit, n, median, lo,
hi, note. Trials of several runs are pooled when the runs are alike (metadata.unlike); a run that is
not like the newest one is left out, by name. A trial with errors is no point; the note counts it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from megabench import metadata, record, stats, system
from megabench.experiment import (
    Derived,
    Experiment,
    Value,
    experiment_files,
    parse_experiment,
    read_experiment,
    says,
    worded,
)
from megabench.measure import (
    CLIENT_BOUND,
    CLIENTS_BOUND,
    RATE_TOO_HIGH,
    RETRANSMITTED,
    UNITS,
)
from megabench.record import ResultsError
from megabench.stats import Summary

# How a table sums up what trials note of themselves.
SAID = {
    "many retransmissions": (RETRANSMITTED,),
    "client-bound": (CLIENT_BOUND, CLIENTS_BOUND),
    "rate too high": (RATE_TOO_HIGH,),
}


@dataclass(frozen=True)
class Raw:
    """The runs of one experiment that may stand in one table."""

    experiment: Experiment
    meta: dict[str, Any]
    runs: tuple[str, ...]
    left_out: tuple[str, ...]
    points: tuple[dict[str, Any], ...]

    @property
    def testbed(self) -> dict[str, Any]:
        return dict(self.meta["testbed"])

    @property
    def can_scale(self) -> bool:
        return bool(self.testbed["can_scale"])

    @property
    def parameters(self) -> list[str]:
        names = [*self.experiment.grid, *self.experiment.fixed]
        return [name for name in names if name != "system"]


@dataclass(frozen=True)
class Table:
    """The summary of one experiment on one testbed."""

    raw: Raw
    frame: pd.DataFrame

    @property
    def tidy(self) -> pd.DataFrame:
        """As a reader gets it: the trials behind a median are in the raw results."""
        frame = self.frame.drop(columns="values")
        for name in self.raw.parameters:
            frame[name] = frame[name].map(partial(worded, name))
        return frame

    def rows(self, metric: str, at: Mapping[str, Value] | None = None) -> pd.DataFrame:
        """The rows of one metric where the parameters are `at`."""
        chosen = self.frame["metric"] == metric
        for name, value in (at or {}).items():
            if name not in self.frame.columns:
                return self.frame.iloc[:0]
            chosen &= self.frame[name] == value
        return self.frame[chosen]

    def one(self, metric: str, at: Mapping[str, Value]) -> Summary | None:
        """The one measured row that `at` describes, if there is one."""
        rows = self.rows(metric, at).dropna(subset=["median"])
        if len(rows) > 1:
            raise ResultsError(f"{self.raw.experiment.id}: {dict(at)} names {len(rows)} rows")
        return row_summary(rows.iloc[0]) if len(rows) else None


def row_summary(row: Any) -> Summary:
    """A row of the table as the summary it came from."""
    lo, hi = (None if pd.isna(row[key]) else float(row[key]) for key in ("lo", "hi"))
    values = row["values"] if isinstance(row["values"], tuple) else ()
    return Summary(int(row["n"]), float(row["median"]), lo, hi, str(row["note"]), values)


def measured_experiments(results: Path, testbed: str) -> list[str]:
    """The experiments that have raw results on `testbed`."""
    raw = results / testbed / "raw"
    if not raw.is_dir():
        return []
    return sorted(path.name for path in raw.iterdir() if record.run_paths(raw, path.name))


def measured_testbeds(results: Path) -> list[str]:
    """The testbeds that have raw results."""
    if not results.is_dir():
        return []
    return sorted(path.name for path in results.iterdir() if (path / "raw").is_dir())


def load_raw(results: Path, testbed: str, name: str, scale: str | None = None) -> Raw:
    """The newest run with a point in it, and the older ones that are like it."""
    chosen: list[tuple[Path, dict[str, Any], list[dict[str, Any]]]] = []
    left_out: list[str] = []
    for path in reversed(record.run_paths(results / testbed / "raw", name)):
        meta = record.read_meta(path)
        points = record.read_points(path)
        if scale is not None and meta["scale"] != scale:
            left_out.append(f"{path.name}: scale {meta['scale']}")
        elif not any(point["status"] == "ok" for point in points):
            left_out.append(f"{path.name}: no valid trial")
        elif chosen and (why := metadata.unlike(meta, chosen[0][1])):
            left_out.append(f"{path.name}: differs in {', '.join(why[:4])}")
        else:
            chosen.append((path, meta, points))
    if not chosen:
        at = f" at scale {scale}" if scale else ""
        raise ResultsError(
            f"no raw results of {name} on {testbed}{at}",
            hint=f"measure first: megabench run {name} --testbed {testbed}",
        )
    meta = chosen[0][1]
    points = [{**point, "run": path.name} for path, _, found in reversed(chosen) for point in found]
    return Raw(
        experiment=definition(name, meta),
        meta=meta,
        runs=tuple(path.name for path, _, _ in reversed(chosen)),
        left_out=tuple(left_out),
        points=tuple(_last_attempts(points)),
    )


def load_run(path: Path) -> Raw:
    """One run by itself."""
    meta = record.read_meta(path)
    points = [{**point, "run": path.name} for point in record.read_points(path)]
    if not any(point["status"] == "ok" for point in points):
        raise ResultsError(f"{path}: no valid trial")
    return Raw(
        experiment=definition(meta["experiment"], meta),
        meta=meta,
        runs=(path.name,),
        left_out=(),
        points=tuple(_last_attempts(points)),
    )


def definition(name: str, meta: Mapping[str, Any]) -> Experiment:
    """The checkout's definition, which may draw old results anew; else the one of the run."""
    files = experiment_files()
    if name in files:
        return read_experiment(files[name])
    return parse_experiment(dict(meta["definition"]), Path(f"{name}/{record.META}"))


def _last_attempts(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a trial that was tried again after a failure, the last attempt."""
    last = {(point["run"], point["trial"]): point for point in points}
    return list(last.values())


def make_table(raw: Raw) -> Table:
    """Summaries of what was measured, then the derived metrics."""
    rows = _measured_rows(raw)
    for derived in raw.experiment.derived:
        rows += _derived_rows(raw, derived, rows)
    columns = ["experiment", "system", *raw.parameters]
    columns += ["metric", "unit", "n", "median", "lo", "hi", "note", "values"]
    frame = pd.DataFrame(rows, columns=columns)
    return Table(raw, _sorted(raw, frame))


def _sorted(raw: Raw, frame: pd.DataFrame) -> pd.DataFrame:
    systems = system.order(set(frame["system"]))
    metrics = [*UNITS, *(derived.metric for derived in raw.experiment.derived)]
    ranks = {
        "system": {name: rank for rank, name in enumerate(systems)},
        "metric": {name: rank for rank, name in enumerate(metrics)},
    }
    by = [*raw.parameters, "system", "metric"]
    return frame.sort_values(
        by,
        key=lambda column: (
            column.map(ranks[column.name]) if column.name in ranks else _finite(column)
        ),
    ).reset_index(drop=True)


def _finite(column: pd.Series) -> pd.Series:
    """A parameter in its order: what is endless comes last."""
    return column.map(
        lambda value: math.inf if says(str(column.name), value) == "endless" else value
    )


def _measured_rows(raw: Raw) -> list[dict[str, Any]]:
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    names = ["system", *raw.parameters]
    for point in raw.points:
        cells.setdefault(tuple(point["cell"].get(name) for name in names), []).append(point)
    rows: list[dict[str, Any]] = []
    for key, points in cells.items():
        at = {"experiment": raw.experiment.id, **dict(zip(names, key, strict=True))}
        rows += _cell_rows(raw, at, points)
    return rows


def _cell_rows(
    raw: Raw, at: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    good = [point for point in points if point["status"] == "ok"]
    notes = []
    for status, words in (("errors", "with errors left out"), ("failed", "failed")):
        count = sum(point["status"] == status for point in points)
        if count:
            notes.append(f"{count} of {len(points)} trials {words}")
    for said, signs in SAID.items():
        told = [" ".join(point.get("notes", [])) for point in good]
        count = sum(any(sign in one for sign in signs) for one in told)
        if count:
            notes.append(f"{said} in {count} of {len(good)} trials")
    if not good:
        empty = {"metric": raw.experiment.metric, "unit": raw.experiment.unit, "n": 0}
        gap = {"median": math.nan, "lo": math.nan, "hi": math.nan, "note": "; ".join(notes)}
        return [{**at, **empty, **gap, "values": ()}]
    rows = []
    for metric, unit in UNITS.items():
        values = [point["metrics"][metric]["value"] for point in good if metric in point["metrics"]]
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
        if numbers:
            summary = stats.summarise(numbers)
            rows.append({**at, "metric": metric, "unit": unit, **_columns(summary, notes)})
    return rows


def _columns(summary: Summary, notes: Sequence[str] = ()) -> dict[str, Any]:
    said = [summary.note, *notes] if summary.note else list(notes)
    return {
        "n": summary.n,
        "median": summary.median,
        "lo": math.nan if summary.lo is None else summary.lo,
        "hi": math.nan if summary.hi is None else summary.hi,
        "note": "; ".join(said),
        "values": summary.values,
    }


def _derived_rows(
    raw: Raw, derived: Derived, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    names = ["system", *raw.parameters]
    of = [row for row in rows if row["metric"] == derived.of and not math.isnan(row["median"])]
    by_cell = {tuple(row[name] for name in names): row for row in of}
    made = []
    for cell, row in by_cell.items():
        at = {"experiment": raw.experiment.id, **dict(zip(names, cell, strict=True))}
        if derived.kind == "step":
            columns: dict[str, Any] | None = _step(names, cell, row, by_cell)
        else:
            base = by_cell.get(tuple({**at, **derived.over}[name] for name in names))
            columns = _against(derived, row, base)
        if columns is not None:
            if derived.needs_scaling and not raw.can_scale:
                why = raw.testbed.get("why_not_scale") or "too few cores"
                gap = dict.fromkeys(("median", "lo", "hi"), math.nan)
                columns = {**columns, **gap, "note": f"not measurable here: {why}"}
            made.append({**at, "metric": derived.metric, "unit": derived.unit, **columns})
    return made


def _against(
    derived: Derived, row: Mapping[str, Any], base: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """`row` against its base: the ratio, its inverse, the gain in per cent, or the excess."""
    if base is None or not base["median"] or not row["median"]:
        return None
    if derived.kind == "excess":
        excess = stats.difference(row_summary(row), row_summary(base))
        return None if base is row else _columns(excess)
    if base is row:
        # A system against itself says nothing; one core against one core is where a curve begins.
        whole = _columns(Summary(row["n"], 1.0, None, None, ""))
        return whole if derived.kind == "ratio" else None
    ours, theirs = row_summary(row), row_summary(base)
    if derived.kind == "inverse":
        return _columns(stats.ratio(theirs, ours))
    ratio = stats.ratio(ours, theirs)
    return _columns(stats.scaled(ratio, 100, -100) if derived.kind == "gain" else ratio)


def _step(
    names: Sequence[str],
    cell: tuple[Any, ...],
    row: Mapping[str, Any],
    by_cell: Mapping[tuple[Any, ...], Mapping[str, Any]],
) -> dict[str, Any]:
    """What this system adds to the one before it in the systems' order."""
    rest = cell[1:]
    order = system.order({other[0] for other in by_cell if other[1:] == rest})
    place = order.index(cell[0])
    before = by_cell[(order[place - 1], *rest)]["median"] if place else 0.0
    note = "difference of medians: no interval"
    return _columns(Summary(row["n"], row["median"] - before, None, None, note))


def to_csv(table: Table) -> str:
    """The table as it is kept: six digits, empty where there is nothing."""
    frame = table.tidy
    for column in ("median", "lo", "hi"):
        frame[column] = [f"{value:.6g}" if pd.notna(value) else "" for value in frame[column]]
    return str(frame.to_csv(index=False, lineterminator="\n"))


def write_table(results: Path, testbed: str, table: Table) -> Path:
    """tables/<experiment>.csv."""
    path = results / testbed / "tables" / f"{table.raw.experiment.id}.csv"
    record.write_whole(path, to_csv(table))
    return path
