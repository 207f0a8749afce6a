# SPDX-License-Identifier: MIT
"""Plans: shared cells once, interleaved order, time known in advance."""

import itertools

from megabench.apps import app
from megabench.experiment import load_experiment
from megabench.plan import CHANGE_S, duration, make_plan

BOTH = ["pingpong-contribution", "pingpong-speedup"]


def test_make_plan__a_shared_cell_once() -> None:
    experiments = [load_experiment(name) for name in BOTH]
    apart = [make_plan([one], "quick") for one in experiments]
    together = make_plan(experiments, "quick")
    assert together.shared == 24
    assert len(together.trials) == sum(len(one.trials) for one in apart) - together.shared
    for one, name in zip(apart, BOTH, strict=True):
        assert {t.key for t in one.trials} == {t.key for t in together.of(name)}


def test_make_plan__every_repeat_visits_every_cell() -> None:
    plan = make_plan([load_experiment(BOTH[0])], "quick")
    thirds = [plan.trials[i : i + 16] for i in (0, 16, 32)]
    for repeat, third in enumerate(thirds, start=1):
        assert {trial.repeat for trial in third} == {repeat}
        assert len({trial.key for trial in third}) == 16


def test_make_plan__systems_side_by_side_in_turn() -> None:
    plan = make_plan([load_experiment(BOTH[0])], "quick")
    first = [[t.system for t in plan.trials[i : i + 4]] for i in (0, 16, 32)]
    assert all(set(group) == set(first[0]) for group in first)
    assert len({group[0] for group in first}) == 3


def test_make_plan__cores_change_rarely() -> None:
    plan = make_plan([load_experiment(BOTH[1])], "quick")
    cores = [trial.cores for trial in plan.trials]
    changes = sum(a != b for a, b in itertools.pairwise(cores))
    assert changes == 3


def test_make_plan__packets_on_fewer_cpus_change_rarely() -> None:
    plan = make_plan([load_experiment("pingpong-skew")], "quick", cores=8)
    receiving = [trial.receiving for trial in plan.trials]
    assert set(receiving) == {2, 8}
    assert {trial.cores for trial in plan.trials} == {8}
    assert plan.changes == sum(a != b for a, b in itertools.pairwise([8, *receiving, 8])) == 2


def test_make_plan__packets_on_no_more_cpus_than_there_are() -> None:
    plan = make_plan([load_experiment("pingpong-skew")], "quick", cores=4)
    assert {trial.receiving for trial in plan.trials} == {2, 4}


def test_make_plan__too_many_cores_are_left_out_and_said() -> None:
    plan = make_plan([load_experiment(BOTH[1])], "full", cores=4)
    assert {trial.cores for trial in plan.trials} == {1, 2, 4}
    assert len(plan.left_out) == 16
    assert "the testbed has 4 cores" in plan.left_out[0]


def test_make_plan__cores_that_a_scale_does_not_vary_are_those_there_are() -> None:
    plan = make_plan([load_experiment("nginx-throughput")], "quick", cores=4)
    assert {trial.cores for trial in plan.trials} == {4}
    assert plan.left_out == ()
    assert plan.fitted == ("nginx-throughput: on 4 cores, not 8",)


def test_seconds__windows_and_overhead() -> None:
    plan = make_plan([load_experiment(BOTH[0])], "smoke")
    assert plan.seconds == 4 * (1 + 2 + app("pingpong").overhead_s)


def test_seconds__changes_of_cores_too() -> None:
    plan = make_plan([load_experiment(BOTH[1])], "smoke", cores=8)
    assert plan.changes == 2
    assert plan.seconds == 4 * (1 + 2 + app("pingpong").overhead_s) + 2 * CHANGE_S


def test_duration__as_said() -> None:
    assert [duration(s) for s in (20, 360, 4320, 8640)] == ["20 s", "6 min", "72 min", "2.4 h"]
