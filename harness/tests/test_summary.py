# SPDX-License-Identifier: MIT
"""What a person reads at the end."""

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from megabench import compare, console, plan, summary, table
from megabench.experiment import load_experiment
from megabench.stats import Summary
from megabench.summary import Entry


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> table.Table:
    folder = tmp_path_factory.mktemp("results")
    synthetic.write(folder, ["pingpong-contribution"], "quick")
    return table.make_table(table.load_raw(folder, "local", "pingpong-contribution"))


def test_grids__a_row_a_point_a_column_a_system(one: table.Table) -> None:
    rate, cost = summary.grids(one)
    assert [rate.metric, cost.metric] == ["throughput", "instructions"]
    assert rate.systems == ["epoll", "megapipe-P", "megapipe-PB", "megapipe"]
    assert [point for point, _ in rate.rows] == [["1"], ["4"], ["16"], ["128"]]
    first = rate.rows[0][1]
    assert first[0].times == ""
    assert first[3].times.startswith("×1.")
    assert cost.rows[0][1][3].times.startswith("×0.")


@pytest.mark.parametrize(
    ("value", "said"),
    [(12345.6, "12,346"), (999.4, "999"), (1.2345, "1.23"), (0.001234, "0.00123")],
)
def test_number__digits_that_matter(value: float, said: str) -> None:
    assert summary.number(value) == said


def test_entry__of_nothing() -> None:
    entry = Entry(None, None)
    assert (entry.text, entry.times, entry.range) == ("–", "", "")


def test_claim_rows__ratio_interval_and_mark(one: table.Table) -> None:
    row = summary.claim_rows(compare.compare(one))[0]
    assert row["paper"] == "6.82 [A]"
    assert row["ours"].startswith("1.")
    assert "(" in row["ours"]


def test_coverage__what_of_the_whole_grid(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["nginx-throughput"], "smoke")
    raw = table.load_raw(tmp_path, "local", "nginx-throughput")
    said = summary.coverage(table.make_table(raw))
    assert said == (
        "Measured at scale smoke: 3 of the 80 points of the whole grid, 1 trial each; not: "
        "cores 1, 2, 4; workload synthetic Yahoo-like, synthetic Yahoo/2, synthetic SPECweb96 mix; "
        "system megapipe-P, megapipe-PB."
    )
    # A point whose values are all there, but not together.
    cells = [dict(raw.points[0]["cell"]), {**raw.points[1]["cell"], "cores": 4}]
    points = [{**raw.points[0], "cell": cell} for cell in (cells[0], cells[0], cells[1])]
    said = summary.coverage(table.make_table(replace(raw, points=tuple(points))))
    assert "2 of the 80 points of the whole grid, 1 to 2 trials each; not: cores 1, 2;" in said
    assert said.endswith("; 2 points besides.")


def test_coverage__all(one: table.Table) -> None:
    grid = one.raw.experiment.grid_at("quick")
    whole = replace(one.raw.experiment, grid=grid)
    said = summary.coverage(replace(one, raw=replace(one.raw, experiment=whole)))
    assert said == "Measured at scale quick: all 16 points of the whole grid, 3 trials each."


def test_health__counts(one: table.Table) -> None:
    said = " ".join(summary.health(one))
    assert "48 valid trials, 0 left out because of errors, 0 failed." in said
    assert "Retransmitted segments" in said


def test_described__a_trace_is_synthetic() -> None:
    trial = plan.make_plan([load_experiment("nginx-throughput")], "smoke").trials[0]
    assert console.described(trial) == "stock, 8 cores, synthetic SpecWeb-like, trial 1"


def test_described_and_outcome__one_line() -> None:
    trial = plan.make_plan([load_experiment("pingpong-contribution")], "smoke").trials[0]
    assert console.described(trial) == "epoll, 8 cores, 1 txn/connection, trial 1"
    failed = {"status": "failed", "reason": "`x` ended\nmore", "metrics": {}}
    assert console.outcome(failed) == "failed: `x` ended"
    good = {
        "status": "ok",
        "metrics": {"throughput": {"value": 3012.3}, "instructions": {"value": 70123.4}},
    }
    assert console.outcome(good) == "3,012 txn/s, 70,123 instructions/txn"


def test_bar__eta_follows_the_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    trial = plan.make_plan([load_experiment("pingpong-contribution")], "smoke").trials[0]
    bar = console.Bar()
    bar.begin(4, 20.0, 0)
    now[0] += 10
    bar.result(trial, {"status": "ok", "metrics": {}}, 15.0)
    bar.end()
    assert "(30 s left)" in capsys.readouterr().err


def test_entry__range_needs_both_ends() -> None:
    assert Entry(Summary(3, 2.0, 1.0, 3.0, ""), None).range == "1 – 3"


def test_write__is_reproducible(tmp_path: Path) -> None:
    names = ["pingpong-contribution"]
    texts = []
    for folder in ("a", "b"):
        synthetic.write(tmp_path / folder, names, "smoke")
        made = table.make_table(table.load_raw(tmp_path / folder, "local", names[0]))
        texts.append(table.to_csv(made))
    assert texts[0] == texts[1]
