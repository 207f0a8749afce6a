# SPDX-License-Identifier: MIT
"""Sessions: shared cells, resuming, failures, full disks and Ctrl-C."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic
from fakes import FakeBed

from megabench import record, run
from megabench.errors import CommandError, ExperimentError, TestbedError
from megabench.experiment import Sampling, load_experiment
from megabench.host import Completed
from megabench.measure import Measured
from megabench.plan import Plan, Trial, make_plan
from megabench.run import COUNTING, Outcome, Request, Session, instruction_plan
from megabench.system import look

BOTH = ("pingpong-contribution", "pingpong-speedup")
Measure = Callable[..., Measured]


def session(
    results: Path,
    measure: Measure = synthetic.formula,
    *,
    names: tuple[str, ...] = BOTH,
    scale: str = "smoke",
    fresh: bool = False,
    bed: Any = None,
    confined: list[Any] | None = None,
    **options: Any,
) -> tuple[Session, Plan]:
    experiments = [load_experiment(name) for name in names]
    plan = make_plan(experiments, scale)
    request = Request(experiments, scale, results, fresh=fresh)
    kept = [] if confined is None else confined
    made = Session(
        bed or synthetic.SyntheticBed(),
        request,
        plan,
        measure_trial=measure,
        confine=lambda bed, *cpus: kept.append(cpus),
        **options,
    )
    return made, plan


def go(results: Path, measure: Measure = synthetic.formula, **options: Any) -> Outcome:
    return session(results, measure, **options)[0].run()


def points(outcome: Outcome, name: str) -> list[dict[str, Any]]:
    return record.read_points(outcome.runs[name])


def status(outcome: Outcome, name: str = BOTH[0]) -> str:
    return str(record.read_meta(outcome.runs[name])["status"])


class After:
    """Measures by formula, until the n-th trial, which meets `fate`."""

    def __init__(self, good: int, fate: BaseException):
        self.left, self.fate, self.seen = good, fate, list[str]()

    def __call__(self, bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
        if not self.left:
            raise self.fate
        self.left -= 1
        self.seen.append(trial.key)
        return synthetic.formula(bed, trial, number, folder)


def test_run__a_shared_cell_is_measured_once_and_recorded_in_each(tmp_path: Path) -> None:
    measured = After(100, AssertionError())
    outcome = go(tmp_path, measured)
    assert len(measured.seen) == len(set(measured.seen)) == 6
    first, second = (points(outcome, name) for name in BOTH)
    assert len(first) == len(second) == 4
    shared = {point["trial"] for point in first} & {point["trial"] for point in second}
    assert len(shared) == 2
    for point in second:
        assert ("reference" in point) == (point["trial"] in shared)
    referring = next(point for point in second if "reference" in point)
    assert referring["reference"]["experiment"] == BOTH[0]
    assert referring["reference"]["run"] == outcome.runs[BOTH[0]].name
    original = next(point for point in first if point["trial"] == referring["trial"])
    assert referring["metrics"] == original["metrics"]


def test_run__complete_is_not_resumed_and_never_overwritten(tmp_path: Path) -> None:
    first = go(tmp_path)
    text = (first.runs[BOTH[0]] / record.POINTS).read_text()
    second = go(tmp_path)
    assert status(first) == "complete"
    assert first.runs[BOTH[0]] != second.runs[BOTH[0]]
    assert (first.runs[BOTH[0]] / record.POINTS).read_text() == text


def test_run__interrupted_resumes(tmp_path: Path) -> None:
    broken, _ = session(tmp_path, After(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert status(broken.outcome) == "interrupted"
    again = After(100, AssertionError())
    outcome = go(tmp_path, again)
    assert outcome.runs == broken.outcome.runs
    assert outcome.skipped == 3
    assert len(again.seen) == 3
    assert status(outcome) == "complete"
    assert len({point["trial"] for point in points(outcome, BOTH[0])}) == 4


def test_run__fresh_does_not_resume(tmp_path: Path) -> None:
    broken, _ = session(tmp_path, After(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    outcome = go(tmp_path, fresh=True)
    assert outcome.skipped == 0
    assert outcome.runs[BOTH[0]] != broken.outcome.runs[BOTH[0]]


def test_run__another_machine_does_not_resume(tmp_path: Path) -> None:
    broken, _ = session(tmp_path, After(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    outcome = go(tmp_path, bed=synthetic.SyntheticBed(can_scale=True, cores=16))
    assert outcome.skipped == 0


def test_run__broken_off_between_two_appends(tmp_path: Path) -> None:
    broken, plan = session(tmp_path, After(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    shared = next(trial.key for trial in plan.trials if len(trial.experiments) == 2)
    path = broken.outcome.runs[BOTH[1]] / record.POINTS
    lines = [line for line in path.read_text().splitlines(True) if shared not in line]
    path.write_text("".join(lines))
    again = After(100, AssertionError())
    outcome = go(tmp_path, again)
    assert shared not in again.seen
    assert shared in {point["trial"] for point in points(outcome, BOTH[1])}


def test_run__a_failed_trial_is_recorded_and_tried_again(tmp_path: Path) -> None:
    def measure(bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
        if trial.system == "megapipe-P":
            raise CommandError(["pingpong-server"], 1, "port 9001 is in use", host="server")
        return synthetic.formula(bed, trial, number, folder)

    outcome = go(tmp_path, measure, names=BOTH[:1])
    failed = [point for point in points(outcome, BOTH[0]) if point["status"] == "failed"]
    assert len(failed) == 1
    assert "port 9001 is in use" in failed[0]["reason"]
    assert failed[0]["log"].startswith("logs/")
    assert len(outcome.failed) == 1
    assert status(outcome) == "incomplete"
    again = After(100, AssertionError())
    second = go(tmp_path, again, names=BOTH[:1])
    assert len(again.seen) == 1
    assert second.runs == outcome.runs
    assert len(points(second, BOTH[0])) == 5


def test_run__errors_are_no_point(tmp_path: Path) -> None:
    def measure(bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
        measured = synthetic.formula(bed, trial, number, folder)
        measured.metrics["errors"] = 2
        return measured

    outcome = go(tmp_path, measure, names=BOTH[:1])
    assert {point["status"] for point in points(outcome, BOTH[0])} == {"errors"}
    assert outcome.ok == 0
    assert len(outcome.failed) == 4


def test_run__what_this_machine_cannot(tmp_path: Path) -> None:
    def measure(bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
        if trial.system != "epoll":
            raise CommandError(["pingpong-server"], 77, "no /dev/megapipe")
        return synthetic.formula(bed, trial, number, folder)

    outcome = go(tmp_path, measure, names=BOTH[:1])
    assert outcome.cannot == len(outcome.failed) == 3


def test_run__a_kernel_without_megapipe_costs_its_systems_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FAILURES_IN_A_ROW", 1)
    bed = synthetic.SyntheticBed()
    asked: list[Any] = []

    def has_no(argv: Any, **given: Any) -> Completed:
        asked.append(argv)
        return Completed(list(argv), 1, "", "")

    bed.server.run = has_no  # type: ignore[method-assign]
    made, plan = session(tmp_path, bed=bed)
    outcome = made.run()
    mine = [trial for trial in plan.trials if look(trial.system).needs]
    assert outcome.cannot == len(outcome.failed) == len(mine)
    assert outcome.ok == len(plan.trials) - len(mine) > 0
    assert "`test -e /dev/megapipe` on server fails: megapipe" in outcome.failed[0]
    assert asked == [["test", "-e", "/dev/megapipe"]]


def test_run__failures_in_a_row_break_off(tmp_path: Path) -> None:
    one, _ = session(tmp_path, After(0, CommandError(["server"], 1)))
    with pytest.raises(ExperimentError, match="4 trials in a row failed"):
        one.run()
    assert status(one.outcome) == "broken off"


def test_run__testbed_gone(tmp_path: Path) -> None:
    bed = FakeBed()
    one, _ = session(tmp_path, After(1, CommandError(["server"], 1)), bed=bed)
    with pytest.raises(TestbedError, match="went away"):
        one.run()


def test_run__disk_full_keeps_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, trials = os.fsync, []

    def measure(bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
        trials.append(trial)
        if len(trials) == 3:
            monkeypatch.setattr(os, "fsync", full)
        return synthetic.formula(bed, trial, number, folder)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one, _ = session(tmp_path, measure)
    with pytest.raises(record.ResultsError, match="no space left"):
        one.run()
    monkeypatch.setattr(os, "fsync", fsync)
    kept = {point["trial"] for name in BOTH for point in points(one.outcome, name)}
    assert len(kept) == 2
    outcome = go(tmp_path)
    assert outcome.skipped == 2
    assert outcome.runs == one.outcome.runs


def test_run__disk_full_in_the_logs(tmp_path: Path) -> None:
    one, _ = session(tmp_path, After(1, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(record.ResultsError, match="no space left"):
        one.run()


def test_run__no_space_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("Usage", (), {"free": 0})
    monkeypatch.setattr(record.shutil, "disk_usage", lambda path: usage)
    measured = After(0, AssertionError())
    with pytest.raises(record.ResultsError, match="no space left for results"):
        go(tmp_path, measured)
    assert list(tmp_path.iterdir()) == []


def test_run__cores_only_when_they_change_and_back_at_the_end(tmp_path: Path) -> None:
    confined: list[tuple[int, int]] = []
    go(tmp_path, confined=confined, names=BOTH[1:])
    assert confined == [(1, 1), (8, 8)]
    confined.clear()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, After(1, KeyboardInterrupt()), confined=confined, names=BOTH[1:], fresh=True)
    assert confined == [(1, 1), (8, 8)]
    confined.clear()
    go(tmp_path, confined=confined, names=("pingpong-skew",))
    assert confined == [(8, 2), (8, 8)]


def test_run__meta_says_all(tmp_path: Path) -> None:
    meta = record.read_meta(go(tmp_path).runs[BOTH[0]])
    for key in ("commit", "dirty", "scale", "sampling", "definition", "argv", "finished"):
        assert key in meta
    assert meta["testbed"]["facts"]["server"]["release"].startswith("6.12")
    assert meta["testbed"]["can_scale"] is False


def test_counting_pass__goes_into_the_same_run(tmp_path: Path) -> None:
    bed = synthetic.SyntheticBed()
    bed.accel = "kvm"
    first, plan = session(tmp_path, bed=bed, last=False)
    outcome = first.run()
    assert status(outcome) == "incomplete"
    counted = instruction_plan(plan)
    assert len(counted.trials) == len(plan.trials)
    request = Request(first.request.experiments, "smoke", tmp_path, into=outcome.runs)
    second = Session(
        synthetic.SyntheticBed(),
        request,
        counted,
        pass_name=COUNTING,
        measure_trial=synthetic.formula,
        confine=lambda *confined: None,
    ).run()
    assert second.runs == outcome.runs
    assert status(second) == "complete"
    meta = record.read_meta(outcome.runs[BOTH[0]])
    assert meta["testbed"]["accel"] == "kvm"
    assert meta["testbed_instructions"]["accel"] == "tcg"
    passes = {
        (point["pass"], "throughput" in point["metrics"]) for point in points(second, BOTH[0])
    }
    assert passes == {("main", True), ("instructions", False)}


def test_alone__one_session_a_testbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path))
    with (
        run.alone("local"),
        pytest.raises(TestbedError, match="another session"),
        run.alone("local"),
    ):
        pass
    with run.alone("local"):
        assert (tmp_path / "state" / "local.session").exists()


def test_spelled__every_command(tmp_path: Path) -> None:
    _, plan = session(tmp_path, names=BOTH[:1])
    lines = run.spelled(FakeBed(), plan)
    assert lines[0] == "# serve on 8 cores"
    assert sum(line.startswith("server: ") for line in lines) == 4
    assert sum(line.startswith("client: ") for line in lines) == 4
    assert "--api megapipe --batch 1 --no-lwsocket" in "\n".join(lines)


def test_log_folder__a_second_attempt_has_its_own(tmp_path: Path) -> None:
    _, plan = session(tmp_path, names=BOTH[:1])
    first = run.log_folder(tmp_path, 1, plan.trials[0])
    first.mkdir(parents=True)
    assert run.log_folder(tmp_path, 1, plan.trials[0]).name == "0001-epoll.2"


def point(system: str, percent: int, rate: float, connections: int = 256) -> dict[str, Any]:
    cell = {"system": system, "load_percent": percent, "connections": connections, "cores": 8}
    return {"system": system, "cell": cell, "metrics": {"throughput": {"value": rate}}}


def loaded(percent: int) -> Trial:
    cell = {"load_percent": percent, "connections": 256, "system": "megapipe", "cores": 8}
    return Trial(cell, 1, Sampling(1, 1, 1, "interleaved", "open"), "memcached", ("x",))


def test_open_rate__a_share_of_the_slowest_systems_saturation() -> None:
    finished = [
        *(point("stock", 100, rate) for rate in (900.0, 1000.0, 5000.0)),
        point("megapipe", 100, 2000.0),
        point("stock", 100, 10.0, connections=512),
        point("stock", 50, 20.0),
    ]
    assert run.open_rate(loaded(50), finished) == 500
    assert run.open_rate(loaded(100), finished) == 0


def test_open_rate__needs_the_closed_loop_first() -> None:
    with pytest.raises(ExperimentError, match="no closed loop"):
        run.open_rate(loaded(10), [point("stock", 50, 20.0)])


def test_open_rate__the_plan_measures_the_closed_loop_first() -> None:
    for scale in ("smoke", "quick", "full"):
        plan = make_plan([load_experiment("memcached-latency")], scale)
        seen: set[Any] = set()
        for trial in plan.trials:
            if trial.cell["load_percent"] == 100:
                seen.add(trial.cell["connections"])
            assert trial.cell["connections"] in seen
