# SPDX-License-Identifier: MIT
"""Verdicts by their stated rule."""

import copy
from pathlib import Path

import pytest
import synthetic

from megabench import compare, record, table
from megabench.compare import NOT, NOT_RUN, REPRODUCED, SAME, judge, judge_upper
from megabench.experiment import all_experiments, load_experiment
from megabench.stats import Summary


@pytest.mark.parametrize(
    ("median", "lo", "hi", "published", "verdict"),
    [
        (6.0, 5.0, 7.0, 6.82, REPRODUCED),
        (9.0, 8.0, 9.5, 6.82, REPRODUCED),
        (1.2, 1.1, 1.3, 6.82, SAME),
        (1.2, 0.99, 1.3, 6.82, NOT),
        (6.0, 0.9, 7.0, 6.82, NOT),
        (0.8, 0.7, 0.9, 6.82, NOT),
        (1.24, 1.2, 1.3, 1.29, REPRODUCED),
        (0.5, 0.4, 0.6, 0.5, REPRODUCED),
        (0.9, 0.85, 0.95, 0.5, SAME),
    ],
)
def test_judge__with_an_interval(
    median: float, lo: float, hi: float, published: float, verdict: str
) -> None:
    assert judge(Summary(3, median, lo, hi, ""), published) == verdict


@pytest.mark.parametrize(
    ("median", "verdict"), [(6.0, REPRODUCED), (1.06, SAME), (1.04, NOT), (0.5, NOT)]
)
def test_judge__without_an_interval(median: float, verdict: str) -> None:
    assert judge(Summary(1, median, None, None, ""), 6.82) == verdict


def test_judge__a_stand_in_earns_no_more_than_the_direction() -> None:
    assert judge(Summary(3, 6.8, 6.7, 6.9, ""), 6.82, proxy=True) == SAME


@pytest.mark.parametrize(
    ("median", "hi", "verdict"),
    [(1.01, 1.02, REPRODUCED), (0.97, 0.98, REPRODUCED), (1.02, 1.04, SAME), (1.02, 1.2, NOT)],
)
def test_judge_upper__a_cost_that_stays_within(median: float, hi: float, verdict: str) -> None:
    assert judge_upper(Summary(3, median, 0.96, hi, ""), 1.02) == verdict


def test_compare__a_cost_is_judged_by_its_bound(tmp_path: Path) -> None:
    (row,) = judged(tmp_path, "motivation-size", can_scale=False)
    # The formula makes 1 KiB dearer by (1 + 1024/40,000) / (1 + 64/40,000).
    assert row.ours is not None
    assert row.ours.median == pytest.approx(1.024, abs=0.02)
    assert row.verdict == judge_upper(row.ours, 1.02)


def judged(results: Path, name: str, *, can_scale: bool) -> list[compare.Judged]:
    synthetic.write(results, [name], "quick", synthetic.SyntheticBed(can_scale=can_scale))
    return compare.compare(table.make_table(table.load_raw(results, "local", name)))


def test_compare__where_scaling_cannot_be_seen(tmp_path: Path) -> None:
    rows = judged(tmp_path, "pingpong-speedup", can_scale=False)
    assert {row.verdict for row in rows} == {NOT_RUN}
    assert all(row.note.startswith("not measurable here: 8 vCPUs share") for row in rows)
    assert all(row.ours is None for row in rows)


def test_compare__a_stand_in_beside_the_rate(tmp_path: Path) -> None:
    rows = judged(tmp_path, "pingpong-contribution", can_scale=False)
    assert [row.metric for row in rows] == ["throughput", "instructions_saving"] * 2
    assert "share too few host cores" in rows[0].note
    assert rows[1].note.startswith("stands in for the rate")
    assert rows[1].verdict == SAME


def test_compare__where_it_can(tmp_path: Path) -> None:
    rows = judged(tmp_path, "pingpong-speedup", can_scale=True)
    assert rows[0].paper == pytest.approx(6.37 / 1.30)
    assert rows[0].verdict == REPRODUCED
    assert rows[0].of_paper is not None


def test_not_run__keeps_the_paper_s_number() -> None:
    rows = compare.not_run(load_experiment("pingpong-contribution"))
    assert [(round(row.paper, 2), row.mark, row.verdict) for row in rows] == [
        (6.82, "A", NOT_RUN),
        (1.29, "A", NOT_RUN),
    ]


def test_verdicts__never_have_a_recalled_target() -> None:
    for experiment in all_experiments():
        for row in compare.not_run(experiment):
            assert row.mark != "R"


def test_differences__proven_or_not(tmp_path: Path) -> None:
    name = "pingpong-contribution"
    tables = []
    for folder, can_scale in (("old", False), ("new", True), ("same", False)):
        bed = synthetic.SyntheticBed(can_scale=can_scale)
        synthetic.write(tmp_path / folder, [name], "quick", bed)
        tables.append(table.make_table(table.load_raw(tmp_path / folder, "local", name)))
    changed = compare.differences(tables[0], tables[1], ["throughput"])
    assert len(changed) == 16
    # Three trials beside three that do not overlap: one time in ten although nothing differs.
    assert all(row.clear and not row.proven for row in changed)
    assert {row.said for row in changed} == {"likely (10% by chance)"}
    same = compare.differences(tables[0], tables[2], ["throughput"])
    assert {row.said for row in same} == {"no"}


@pytest.mark.parametrize(
    ("n", "lo", "hi", "said"),
    [
        (2, None, None, "not known: fewer than 3 trials"),
        (3, 1.1, 1.3, "likely (10% by chance)"),
        (4, 1.1, 1.3, "yes"),
        (6, 0.7, 0.9, "yes"),
        (6, 0.9, 1.1, "no"),
    ],
)
def test_difference__as_sure_as_its_trials_allow(
    n: int, lo: float | None, hi: float | None, said: str
) -> None:
    one = Summary(n, 1.0, None, None, "")
    assert compare.Difference("m", "c", one, one, Summary(n, 1.2, lo, hi, "")).said == said


def runs(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"local/raw/{name}/*"))


def test_unlike_runs__of_two_experiments(tmp_path: Path) -> None:
    names = ["pingpong-contribution", "pingpong-speedup"]
    synthetic.write(tmp_path, names, "quick")
    old, new = (record.read_meta(runs(tmp_path, name)[0]) for name in names)
    assert compare.unlike_runs(old, new) == [f"the experiments: {names[0]} and {names[1]}"]
    assert compare.unlike_runs(old, old) == []


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("testbed.accel", "kvm", "testbed.accel"),
        ("testbed.name", "mylab", "testbed.name"),
        ("sampling.measure_s", 60.0, "sampling.measure_s"),
        ("definition.unit", "1/s", "definition.unit"),
        ("definition.fixed", {"cores": 4}, "definition.fixed"),
    ],
)
def test_unlike_runs__what_makes_them_so(tmp_path: Path, key: str, value: object, why: str) -> None:
    synthetic.write(tmp_path, ["pingpong-contribution"], "quick")
    old = record.read_meta(runs(tmp_path, "pingpong-contribution")[0])
    new = copy.deepcopy(old)
    part, _, last = key.rpartition(".")
    new[part][last] = value
    assert why in compare.unlike_runs(old, new)


def test_unlike_runs__another_build_is_what_they_are_compared_for(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-contribution"], "quick")
    old = record.read_meta(runs(tmp_path, "pingpong-contribution")[0])
    new = {**old, "commit": "f" * 40, "dirty": False, "binaries": {"pingpong-server": "0"}}
    assert compare.unlike_runs(old, new) == []
    changed = compare.changed_between({**old, "dirty": False}, new)
    assert changed[0].endswith(", fffffff)")
    assert "binaries" in changed


def test_rule__names_every_verdict() -> None:
    for verdict in (REPRODUCED, SAME, NOT, NOT_RUN):
        assert f"*{verdict}*" in compare.RULE
