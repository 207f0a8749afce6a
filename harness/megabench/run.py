# SPDX-License-Identifier: MIT
"""A session: carry out a plan, record each trial in every experiment that wants it.

Whatever happens between two trials (Ctrl-C, a full disk, a dead testbed), every finished trial is
on disk, and the same command given again goes on from there.
"""

import fcntl
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from megabench import apps, metadata, paths, record, until
from megabench.cores import confine
from megabench.errors import CommandError, ExperimentError, HarnessError, TestbedError
from megabench.experiment import Experiment, Value, cell_key
from megabench.interrupts import held_back
from megabench.measure import (
    EVENTS,
    INSTRUCTIONS,
    Bed,
    Measured,
    Watch,
    measure,
    trial_commands,
)
from megabench.plan import Plan, Trial
from megabench.system import look

# After so many failures in a row it is not the point that is at fault.
FAILURES_IN_A_ROW = 4
# What a program of ours ends with where the machine lacks what it needs.
CANNOT = 77
LOOK_S = 30.0

# The passes of a session: rates and, under emulation, counts at once; or counts by themselves.
MAIN, COUNTING = "main", "instructions"

Measure = Callable[[Bed, Trial, int, Path], Measured]


class Progress(Protocol):
    """Who watches a session."""

    def begin(self, trials: int, seconds: float, done: int) -> None: ...

    def trial(self, trial: Trial, number: int) -> None: ...

    def result(self, trial: Trial, point: Mapping[str, Any], seconds_left: float) -> None: ...

    def end(self) -> None: ...

    @property
    def watch(self) -> Watch | None:
        """Who wants the rate of the trial under way; None: nobody."""


class Silent:
    """Nobody watches."""

    watch: Watch | None = None

    def begin(self, trials: int, seconds: float, done: int) -> None:
        pass

    def trial(self, trial: Trial, number: int) -> None:
        pass

    def result(self, trial: Trial, point: Mapping[str, Any], seconds_left: float) -> None:
        pass

    def end(self) -> None:
        pass


@dataclass
class Request:
    """What the user asked for."""

    experiments: Sequence[Experiment]
    scale: str
    results: Path
    only: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    fresh: bool = False
    # Repeat until every interval is within this share of its median; None: as planned.
    until: float | None = None
    # The run directories of an earlier pass of this session.
    into: Mapping[str, Path] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of it."""

    runs: dict[str, Path] = field(default_factory=dict)
    ok: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    # Those of `failed` that this machine cannot run at all (exit status 77).
    cannot: int = 0
    # Cells that no number of repeats made sure enough.
    wide: list[str] = field(default_factory=list)
    # Programs that failed trials had left behind, and that were ended.
    swept: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """What came of another session, of other experiments."""
        self.runs |= other.runs
        self.ok += other.ok
        self.skipped += other.skipped
        self.failed += other.failed
        self.cannot += other.cannot
        self.wide += other.wide
        self.swept += other.swept


@dataclass
class _Run:
    """One experiment's run directory, and the trials it has."""

    experiment: Experiment
    directory: record.RunDirectory
    meta: dict[str, Any]
    finished: dict[str, dict[str, Any]]


class Session:
    """Carries one plan out on one testbed."""

    def __init__(
        self,
        bed: Bed,
        request: Request,
        plan: Plan,
        *,
        pass_name: str = MAIN,
        last: bool = True,
        progress: Progress | None = None,
        measure_trial: Measure | None = None,
        confine: Callable[[Bed, int, int], None] = confine,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        self.bed, self.request, self.plan = bed, request, plan
        self.progress: Progress = progress or Silent()
        self.measure_trial = measure_trial or partial(measure, watch=self.progress.watch)
        self.confine, self.clock = confine, clock
        self.pass_name, self.last = pass_name, last
        self.outcome = Outcome()
        self.cores: tuple[int, int] | None = None
        self.failures_in_a_row = 0
        # Of the files that systems need: those that the server's machine has, or has not.
        self.there: dict[str, bool] = {}

    def run(self) -> Outcome:
        """Measure what is not measured yet."""
        record.check_space(self.request.results)
        with self._opened() as runs:
            self._copy_shared(runs)
            try:
                self._all(self.plan.trials, runs)
                if self.request.until is not None and self.pass_name == MAIN:
                    self._repeat(self.request.until, runs)
            finally:
                # A testbed that went away has no CPUs to give back, and its error is on its way.
                with held_back(), suppress(HarnessError):
                    self._use_cores(self.bed.cores, self.bed.cores)
        return self.outcome

    def _all(self, trials: Sequence[Trial], runs: Mapping[str, _Run]) -> None:
        """Measure those of `trials` that are not measured yet."""
        todo = [trial for trial in trials if not self._done(trial, runs)]
        self.outcome.skipped += len(trials) - len(todo)
        left = sum(trial.seconds for trial in todo)
        self.progress.begin(len(trials), left, len(trials) - len(todo))
        try:
            for trial in todo:
                self.progress.trial(trial, self._number(trial))
                point = self._one(trial, runs)
                left -= trial.seconds
                self.progress.result(trial, point, left)
                self._count(trial, point)
        finally:
            self.progress.end()

    def _repeat(self, share: float, runs: Mapping[str, _Run]) -> None:
        """Round after round, until all intervals are within `share` or it has been often enough."""

        def values(trial: Trial) -> list[float]:
            run = runs[trial.experiments[0]]
            points = [p for p in run.finished.values() if p["cell"] == dict(trial.cell)]
            metrics = [p["metrics"].get(run.experiment.metric, {}).get("value") for p in points]
            return [float(value) for value in metrics if value is not None]

        while more := until.next_round(self.plan.trials, values, share):
            self.plan = replace(self.plan, trials=(*self.plan.trials, *more))
            self._all(more, runs)
        self.outcome.wide = [
            f"{cell_key(trial.cell)}: within {until.half_width(values(trial)):.1%}"
            for trial in until.wide(self.plan.trials, values, share)
        ]

    @contextmanager
    def _opened(self) -> Iterator[dict[str, _Run]]:
        """The run directories, new or resumed; their meta.json says how the session ended."""
        runs: dict[str, _Run] = {}
        ended = "interrupted"
        try:
            for experiment in self.request.experiments:
                if self.plan.of(experiment.id):
                    runs[experiment.id] = self._open(experiment)
            yield runs
            ended = "incomplete" if self.outcome.failed or not self.last else "complete"
        except HarnessError:
            ended = "broken off"
            raise
        finally:
            for run in runs.values():
                run.directory.close()
                run.meta |= {"status": ended, "finished": metadata.utc_now()}
                self._write_meta_at_last(run, ended)

    def _write_meta_at_last(self, run: _Run, ended: str) -> None:
        """On a full disk the old meta.json, which says that the run is under way, is as good."""
        try:
            run.directory.write_meta(run.meta)
        except record.ResultsError:
            if ended == "complete":
                raise

    def _open(self, experiment: Experiment) -> _Run:
        meta = self._meta(experiment)
        raw = self.request.results / self.bed.name / "raw"
        path = self.request.into.get(experiment.id)
        if path is None and not self.request.fresh:
            path = resumable(raw, meta)
        if path is None:
            path = record.new_run_path(raw, experiment.id, meta["commit"][:7], self.clock())
        else:
            there = record.read_meta(path)
            meta["started"] = there["started"]
            if self.pass_name != MAIN:
                meta = {**there, f"testbed_{self.pass_name}": meta["testbed"]}
        directory = record.RunDirectory(path)
        directory.write_meta(meta)
        points = record.read_points(path)
        finished = {point["trial"]: point for point in points if point["status"] == "ok"}
        self.outcome.runs[experiment.id] = path
        return _Run(experiment, directory, meta, finished)

    def _meta(self, experiment: Experiment) -> dict[str, Any]:
        commit, dirty = metadata.commit()
        return {
            "schema": record.SCHEMA,
            "experiment": experiment.id,
            "status": "running",
            "started": metadata.utc_now(),
            "finished": None,
            "argv": metadata.argv(),
            "commit": commit,
            "dirty": dirty,
            "scale": self.request.scale,
            "only": {key: list(values) for key, values in self.request.only.items()},
            "sampling": asdict(experiment.sampling_at(self.request.scale)),
            "left_out": [row for row in self.plan.left_out if row.startswith(f"{experiment.id}:")],
            "software": metadata.software(),
            "binaries": metadata.binaries(),
            "kernel_source": metadata.kernel_source(),
            "client": metadata.client_facts(),
            "testbed": describe(self.bed),
            "definition": dict(experiment.source),
        }

    def _copy_shared(self, runs: Mapping[str, _Run]) -> None:
        """A session broken off between two appends: one experiment has the trial, another not."""
        for trial in self.plan.trials:
            having = [runs[name] for name in trial.experiments if trial.key in runs[name].finished]
            if having:
                self._record(trial, dict(having[0].finished[trial.key]), runs, having[0])

    def _done(self, trial: Trial, runs: Mapping[str, _Run]) -> bool:
        return all(trial.key in runs[name].finished for name in trial.experiments)

    def _number(self, trial: Trial) -> int:
        return self.plan.trials.index(trial) + 1

    def _one(self, trial: Trial, runs: Mapping[str, _Run]) -> dict[str, Any]:
        """Measure one trial and record it, well or not."""
        number = self._number(trial)
        owner = runs[trial.experiments[0]]
        folder = log_folder(owner.directory.path, number, trial)
        point: dict[str, Any] = {
            "trial": trial.key,
            "cell": dict(trial.cell),
            "system": trial.system,
            "repeat": trial.repeat,
            "number": number,
            "pass": self.pass_name,
            "start": metadata.utc_now(),
            "host_load": round(metadata.host_load(), 2),
            "status": "ok",
            "log": str(folder.relative_to(owner.directory.path)),
        }
        begun = time.monotonic()
        try:
            self._need(trial.system)
            self._use_cores(trial.cores, trial.receiving)
            trial = replace(trial, rate=open_rate(trial, owner.finished.values()))
            point["rate_txn_s"] = trial.rate
            with record.disk_errors(folder):
                measured = self.measure_trial(self.bed, trial, number, folder)
        except record.ResultsError:
            raise
        except HarnessError as error:
            point |= {"status": "failed", "reason": error.message, "metrics": {}}
            # A server or load generator that cannot run here may need what this machine lacks.
            if isinstance(error, CommandError):
                point["exit_status"] = error.exit_status
        else:
            if self.pass_name == COUNTING:
                measured = only_instructions(measured)
            point |= {
                "status": "errors" if measured.errors else "ok",
                "metrics": measured.with_units(),
                "histogram_us": measured.histogram,
                "server": measured.server,
                "load": measured.load,
                "notes": measured.notes,
            }
            if point["status"] == "errors":
                point["reason"] = f"{measured.errors} errors in the measured window"
        point["seconds"] = round(time.monotonic() - begun, 1)
        self._record(trial, point, runs, None)
        return point

    def _need(self, system: str) -> None:
        """See that the server's machine has what a system needs."""
        file = look(system).needs
        if not file:
            return
        argv = ["test", "-e", file]
        if file not in self.there:
            done = self.bed.server.run(argv, timeout=LOOK_S, check=False)
            self.there[file] = not done.exit_status
        if not self.there[file]:
            problem = f"fails: {system} needs it, and the kernel there is none of ours"
            raise CommandError(argv, CANNOT, host=self.bed.server.name, problem=problem)

    def _record(
        self, trial: Trial, point: dict[str, Any], runs: Mapping[str, _Run], source: _Run | None
    ) -> None:
        """Append to every run that wants the trial; all but the first refer to where it lies."""
        first = source
        for name in trial.experiments:
            run = runs[name]
            if trial.key in run.finished:
                continue
            line = dict(point)
            if first is None:
                first = run
            else:
                line["reference"] = {
                    "experiment": first.experiment.id,
                    "run": first.directory.name,
                    "log": line.pop("log", None),
                }
            run.directory.append(line)
            if line["status"] == "ok":
                run.finished[trial.key] = line

    def _use_cores(self, cores: int, receiving: int) -> None:
        """Confine the server's machine to its first `cores` CPUs, its packets to `receiving`."""
        if (cores, receiving) != self.cores:
            self.confine(self.bed, cores, receiving)
            self.cores = (cores, receiving)

    def _count(self, trial: Trial, point: Mapping[str, Any]) -> None:
        if point["status"] == "ok":
            self.outcome.ok += 1
            self.failures_in_a_row = 0
            return
        self.outcome.failed.append(f"{trial.key}: {point.get('reason', '')}")
        if point["status"] != "failed":
            return
        if point.get("exit_status") == CANNOT:
            # It ended by itself, and says nothing of the trials to come.
            self.outcome.cannot += 1
            return
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= FAILURES_IN_A_ROW:
            raise ExperimentError(
                f"{self.failures_in_a_row} trials in a row failed; the last: {point['reason']}",
                hint="the logs are beside points.jsonl; the same command goes on from here",
            )
        self._look_after(str(point["reason"]))

    def _look_after(self, reason: str) -> None:
        """After a failed trial: is everybody there, and nothing of the trial left running?"""
        gone = getattr(self.bed, "gone", None)
        why = gone() if gone is not None else ""
        if why:
            raise TestbedError(
                f"testbed {self.bed.name}: {why}\nthe trial that noticed: {reason}",
                hint="finished trials are on disk; mend it, and the same run command goes on "
                "from here",
            )
        for left in apps.sweep(self.bed):
            self.outcome.swept.append(left)


def open_rate(trial: Trial, finished: Iterable[Mapping[str, Any]]) -> float:
    """Transactions a second of an open loop: the cell's share of the slower system's saturation.

    That is the lowest of the systems' medians in the closed loop (load_percent = 100) so far, all
    else being equal; 0 for the closed loop itself. All systems get the same rate.
    """
    percent = float(trial.cell.get("load_percent", 100))
    if percent >= 100:
        return 0.0
    full = {k: v for k, v in {**trial.cell, "load_percent": 100}.items() if k != "system"}
    rates: dict[str, list[float]] = {}
    for point in finished:
        if {k: v for k, v in point["cell"].items() if k != "system"} == full:
            rates.setdefault(point["system"], []).append(point["metrics"]["throughput"]["value"])
    if not rates:
        raise ExperimentError(
            f"{trial.key}: no closed loop has been measured that this load is a share of",
            hint="load_percent = 100 comes first in the grid; --only must not leave it out",
        )
    return percent / 100 * min(statistics.median(values) for values in rates.values())


def instruction_plan(plan: Plan) -> Plan:
    """The second pass where KVM gave the throughput: every cell once, under emulation.

    Once is enough, since counts repeat within 1-2 %.
    """
    trials = [replace(trial, repeat=0) for trial in plan.trials if trial.repeat == 1]
    return replace(plan, trials=tuple(trials))


def only_instructions(measured: Measured) -> Measured:
    """Rates of the emulator say nothing where KVM gave better ones; errors still count."""
    kept = {
        k: v
        for k, v in measured.metrics.items()
        if k in (*INSTRUCTIONS, *EVENTS.values(), "errors")
    }
    return replace(measured, metrics=kept, histogram=[])


@contextmanager
def alone(testbed: str) -> Iterator[None]:
    """One session a testbed: two at once would measure each other."""
    path = paths.build() / "state" / f"{testbed}.session"
    with record.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TestbedError(
                    f"another session is measuring on testbed {testbed}",
                    hint="wait for its end, or use another testbed",
                ) from None
            yield


def describe(bed: Bed) -> dict[str, Any]:
    """The testbed as a run's meta.json keeps it."""
    facts: dict[str, Any] = getattr(bed, "facts", dict)()
    return {
        "name": bed.name,
        "kind": bed.kind,
        "cores": bed.cores,
        "is_virtual": bed.is_virtual,
        "accel": bed.accel,
        "can_scale": bed.can_scale,
        "why_not_scale": getattr(bed, "why_not_scale", ""),
        "facts": facts,
    }


def resumable(raw: Path, meta: Mapping[str, Any]) -> Path | None:
    """The newest run, if it was broken off and was doing just this on just that machine."""
    paths = record.run_paths(raw, meta["experiment"])
    if not paths:
        return None
    there = record.read_meta(paths[-1])
    if there.get("status") == "complete":
        return None
    same = ("commit", "dirty", "scale", "only", "definition")
    if any(there.get(key) != meta.get(key) for key in same) or metadata.unlike(there, meta):
        return None
    return paths[-1]


def log_folder(run: Path, number: int, trial: Trial) -> Path:
    """A folder of its own for every attempt: a second one never overwrites the first one's log."""
    stem = f"{number:04d}-{trial.system}"
    folder = run / "logs" / stem
    attempt = 2
    while folder.exists():
        folder = run / "logs" / f"{stem}.{attempt}"
        attempt += 1
    return folder


def spelled(bed: Bed, plan: Plan) -> list[str]:
    """Every command of a plan, in order, as a person would type it."""
    lines: list[str] = []
    cores: tuple[int, int] | None = None
    for number, trial in enumerate(plan.trials, start=1):
        if (trial.cores, trial.receiving) != cores:
            cores = (trial.cores, trial.receiving)
            fewer = f", packets on {trial.receiving}" if trial.receiving < trial.cores else ""
            lines.append(f"# serve on {trial.cores} cores{fewer}")
        lines.append(f"# {number}/{len(plan.trials)} {trial.key} ({', '.join(trial.experiments)})")
        server, loads = trial_commands(bed, trial, number, Path("logs"))
        lines.append(f"server: {shlex.join(server)}")
        lines += [f"client: {shlex.join(argv)}" for argv in loads]
    return lines
