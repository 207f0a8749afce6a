# SPDX-License-Identifier: MIT
"""Repeating until the intervals are narrow enough."""

from pathlib import Path
from typing import Any

import pytest
import synthetic

from megabench import record, until
from megabench.errors import ExperimentError
from megabench.experiment import load_experiment
from megabench.measure import Measured
from megabench.plan import Trial, make_plan
from megabench.run import Outcome, Request, Session

NAME = "pingpong-contribution"


def test_parse__per_cent() -> None:
    assert until.parse("5%") == until.parse("5") == 0.05
    for text in ("", "x", "0", "-1%", "100%", "nan"):
        with pytest.raises(ExperimentError, match="--until"):
            until.parse(text)


def test_half_width__of_the_median() -> None:
    assert until.half_width([90.0, 95.0, 100.0, 100.0, 105.0, 110.0]) == pytest.approx(0.1)
    assert until.half_width([100.0]) == float("inf")
    # However close together: five trials hold their median with 94 % at best.
    assert until.half_width([100.0] * 5) == float("inf")
    assert until.half_width([100.0] * 6) == 0.0
    assert until.half_width([]) == 0.0


def measured(tmp_path: Path, share: float, spread: dict[str, float]) -> tuple[Outcome, list[Any]]:
    """A session in which a system's rate alternates by its `spread`."""

    def rate(bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
        swing = spread.get(trial.system, 0.0) * (-1 if trial.repeat % 2 else 1)
        return Measured(metrics={"throughput": 100 * (1 + swing), "errors": 0})

    experiment = load_experiment(NAME)
    request = Request([experiment], "smoke", tmp_path, until=share)
    session = Session(
        synthetic.SyntheticBed(),
        request,
        make_plan([experiment], "smoke"),
        measure_trial=rate,
        confine=lambda *confined: None,
    )
    outcome = session.run()
    return outcome, record.read_points(outcome.runs[NAME])


def test_until__sure_enough_at_the_fewest_that_have_one_of_95_percent(tmp_path: Path) -> None:
    outcome, points = measured(tmp_path, 0.05, {"epoll": 0.01})
    assert outcome.wide == []
    assert sorted({point["repeat"] for point in points}) == [1, 2, 3, 4, 5, 6]
    # Side by side: every round has all systems.
    assert all(sum(p["repeat"] == n for p in points) == 4 for n in range(1, 7))


def test_until__says_that_it_was_not(tmp_path: Path) -> None:
    outcome, points = measured(tmp_path, 0.05, {"epoll": 0.2})
    assert max(point["repeat"] for point in points) == until.MOST
    (line,) = outcome.wide
    assert "system=epoll" in line
    assert "within 25.0%" in line


def test_until__resumes_and_does_not_measure_again(tmp_path: Path) -> None:
    measured(tmp_path, 0.05, {"epoll": 0.01})
    run = next((tmp_path / "local/raw" / NAME).iterdir())
    meta = record.read_meta(run)
    record.RunDirectory(run).write_meta({**meta, "status": "interrupted"})
    outcome, points = measured(tmp_path, 0.05, {"epoll": 0.01})
    assert outcome.ok == 0
    assert len(points) == 24
