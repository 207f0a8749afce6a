# SPDX-License-Identifier: MIT
"""Tables from raw results: the golden one, and the cases it does not hold."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic

from megabench import table
from megabench.measure import Measured, judge_clients, load_notes
from megabench.record import ResultsError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden() -> table.Table:
    return table.make_table(table.load_raw(GOLDEN, "local", "golden"))


def test_to_csv__golden(golden: table.Table) -> None:
    assert table.to_csv(golden) == (GOLDEN / "golden.csv").read_text()


def test_load_raw__an_unlike_run_is_left_out_by_name(golden: table.Table) -> None:
    assert golden.raw.runs == ("20261122T100000Z-0123456", "20261123T100000Z-0123456")
    (left_out,) = golden.raw.left_out
    assert left_out == "20261120T100000Z-0123456: differs in testbed.facts.server.release"


def test_make_table__a_trial_with_errors_is_no_point(golden: table.Table) -> None:
    at = {"system": "epoll", "cores": 1, "transactions_per_connection": 1}
    summary = golden.one("throughput", at)
    assert summary is not None
    assert summary.n == 3
    assert "1 of 4 trials with errors left out" in summary.note


def test_make_table__a_failed_trial_is_said(golden: table.Table) -> None:
    at = {"system": "megapipe-P", "cores": 1, "transactions_per_connection": 1}
    summary = golden.one("throughput", at)
    assert summary is not None
    assert "1 of 4 trials failed" in summary.note


def test_make_table__a_trial_tried_again_counts_once(golden: table.Table) -> None:
    at = {"system": "megapipe", "cores": 1, "transactions_per_connection": 1}
    summary = golden.one("throughput", at)
    assert summary is not None
    assert (summary.n, summary.note) == (4, "range of 4: 88% interval")


def test_make_table__client_bound_is_said(golden: table.Table) -> None:
    rows = golden.rows("throughput")
    assert rows["note"].str.contains("client-bound in 1 of 4 trials").sum() == 1


def noted(tmp_path: Path, add: Any) -> str:
    """What the table says of a point whose trials have `add` done to them."""

    def measure(bed: Any, trial: Any, number: int, folder: Path) -> Any:
        measured = synthetic.formula(bed, trial, number, folder)
        if trial.system == "megapipe":
            add(measured)
        return measured

    synthetic.write(tmp_path, ["pingpong-contribution"], "smoke", measure=measure)
    made = table.make_table(table.load_raw(tmp_path, "local", "pingpong-contribution"))
    assert not made.rows("throughput", {"system": "epoll"})["note"].str.contains("trials").any()
    return str(made.rows("throughput", {"system": "megapipe"}).iloc[0]["note"])


def test_make_table__a_client_fewer_is_missed(tmp_path: Path) -> None:
    """As measure says it where there are several clients."""
    fewer = Measured(metrics={"throughput": 1.0})
    said = noted(tmp_path, lambda measured: judge_clients(measured, fewer, 2))
    assert "client-bound in 1 of 1 trials" in said


def test_make_table__the_load_came_late(tmp_path: Path) -> None:
    late = load_notes([{"behind_s": 3.0}])
    assert "rate too high in 1 of 1 trials" in noted(tmp_path, lambda m: m.notes.extend(late))


def test_derived__gain_is_of_the_ratio_of_medians(golden: table.Table) -> None:
    at = {"cores": 8, "transactions_per_connection": 128}
    ours = golden.one("throughput", {**at, "system": "megapipe"})
    base = golden.one("throughput", {**at, "system": "epoll"})
    gain = golden.one("gain", {**at, "system": "megapipe"})
    assert ours is not None
    assert base is not None
    assert gain is not None
    assert gain.median == pytest.approx(100 * ours.median / base.median - 100)
    assert gain.lo == pytest.approx(100 * (ours.lo or 0) / (base.hi or 1) - 100)
    assert golden.one("gain", {**at, "system": "epoll"}) is None


def test_derived__steps_add_up_to_the_gain(golden: table.Table) -> None:
    at = {"cores": 8, "transactions_per_connection": 1}
    steps = golden.rows("contribution", at)["median"].sum()
    gain = golden.one("gain", {**at, "system": "megapipe"})
    assert gain is not None
    assert steps == pytest.approx(gain.median)


def test_derived__what_cannot_be_measured_is_said(golden: table.Table) -> None:
    rows = golden.rows("speedup")
    assert len(rows) == 12
    assert rows["median"].isna().all()
    expected = "not measurable here: 8 virtual CPUs share 2 host cores"
    assert set(rows["note"]) == {expected}


def test_one__ambiguous_is_an_error(golden: table.Table) -> None:
    with pytest.raises(ResultsError, match="names 4 rows"):
        golden.one("throughput", {"system": "epoll"})


def test_rows__of_a_parameter_that_is_not_there(golden: table.Table) -> None:
    assert len(golden.rows("throughput", {"clients": 3})) == 0


def test_load_raw__of_another_scale(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-contribution"], "smoke")
    assert table.load_raw(tmp_path, "local", "pingpong-contribution").meta["scale"] == "smoke"
    with pytest.raises(ResultsError, match="at scale full"):
        table.load_raw(tmp_path, "local", "pingpong-contribution", "full")


def test_load_raw__nothing_measured(tmp_path: Path) -> None:
    with pytest.raises(ResultsError) as caught:
        table.load_raw(tmp_path, "local", "pingpong-contribution")
    assert "megabench run pingpong-contribution --testbed local" in caught.value.hint


def test_load_raw__one_point_run_again_is_pooled(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-contribution"], "smoke")
    synthetic.write(tmp_path, ["pingpong-contribution"], "smoke")
    raw = table.load_raw(tmp_path, "local", "pingpong-contribution")
    assert len(raw.runs) == 2
    assert set(table.make_table(raw).rows("throughput")["n"]) == {2}


def test_make_table__no_valid_trial_of_a_cell(tmp_path: Path) -> None:
    def measure(bed: Any, trial: Any, number: int, folder: Path) -> Any:
        measured = synthetic.formula(bed, trial, number, folder)
        if trial.system == "megapipe":
            measured.metrics["errors"] = 1
        return measured

    synthetic.write(tmp_path, ["pingpong-contribution"], "smoke", measure=measure)
    made = table.make_table(table.load_raw(tmp_path, "local", "pingpong-contribution"))
    row = made.rows("throughput", {"system": "megapipe"}).iloc[0]
    assert row["n"] == 0
    assert pd.isna(row["median"])
    assert row["note"] == "1 of 1 trials with errors left out"
    assert made.one("throughput", {"system": "megapipe"}) is None


def test_write_table__redrawn_alike(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-speedup"], "smoke")
    texts = []
    for _ in range(2):
        raw = table.load_raw(tmp_path, "local", "pingpong-speedup")
        texts.append(table.write_table(tmp_path, "local", table.make_table(raw)).read_text())
    assert texts[0] == texts[1]
    head = "experiment,system,cores,transactions_per_connection,connections,size,metric,unit,n,"
    assert texts[0].startswith(head + "median,lo,hi,note\n")
