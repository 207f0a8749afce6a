# SPDX-License-Identifier: MIT
"""What a session will measure, in which order, and how long that takes: all known in advance.

Several experiments of one session often want the same cell. It is measured once, and recorded in
each. The order is interleaved: every repeat visits every cell before the next repeat begins, with
the systems of one point side by side and their order turned from repeat to repeat, so that neither
a slow drift of the machine nor the place in the order favours one system.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from megabench.apps import app
from megabench.experiment import Cell, Experiment, Sampling, Value, cell_key

# Taking seven CPUs of the VM off line, or back, and spreading its packets anew.
CHANGE_S = 5.0


@dataclass(frozen=True)
class Trial:
    """One cell, once."""

    cell: Cell
    repeat: int
    sampling: Sampling
    app: str
    experiments: tuple[str, ...]
    # Open loop: transactions a second, known only when the closed loop's are. 0: closed.
    rate: float = 0.0
    # Measured once more with one client fewer, to see whether the clients were the bottleneck.
    twice: bool = False
    # The segments on the wire are counted meanwhile.
    capture: bool = False

    @property
    def key(self) -> str:
        return f"{cell_key(self.cell)}#{self.repeat}"

    @property
    def system(self) -> str:
        return str(self.cell["system"])

    @property
    def cores(self) -> int:
        return int(self.cell["cores"])

    @property
    def receiving(self) -> int:
        """Of these, the CPUs that packets are spread over."""
        return min(self.cores, int(self.cell.get("receiving_cpus", self.cores)))

    @property
    def seconds(self) -> float:
        once = self.sampling.warmup_s + self.sampling.measure_s + app(self.app).overhead_s
        return once * (1 + self.twice)


@dataclass(frozen=True)
class Plan:
    """All trials in order, and what was left out and why."""

    trials: tuple[Trial, ...]
    left_out: tuple[str, ...]
    whole: int | None = None
    # Experiments whose cores are not varied run on all that the testbed has, if these are fewer.
    fitted: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials) + CHANGE_S * self.changes

    @property
    def changes(self) -> int:
        """How often the number of cores, or of those that get packets, changes, from all of them
        and back to all."""
        if not self.trials:
            return 0
        cores = [(trial.cores, trial.receiving) for trial in self.trials]
        whole = self.whole or max(trial.cores for trial in self.trials)
        every = (whole, whole)
        return sum(one != next_ for one, next_ in pairwise([every, *cores, every]))

    def of(self, experiment: str) -> list[Trial]:
        return [trial for trial in self.trials if experiment in trial.experiments]

    @property
    def shared(self) -> int:
        """Trials that more than one experiment wants, counted once."""
        return sum(len(trial.experiments) > 1 for trial in self.trials)


def make_plan(
    experiments: Sequence[Experiment],
    scale: str,
    only: Mapping[str, tuple[Value, ...]] | None = None,
    cores: int | None = None,
    clients: int = 1,
) -> Plan:
    """The trials of `experiments`, the cells they share once; `cores` is what the server has."""
    wanted: dict[str, Trial] = {}
    left_out: list[str] = []
    fitted: list[str] = []
    for experiment in experiments:
        sampling = experiment.sampling_at(scale)
        varied = len(experiment.grid_at(scale).get("cores", ())) > 1
        for cell in experiment.cells(scale, only):
            if cores is not None and int(cell["cores"]) > cores and not varied:
                said = f"{experiment.id}: on {cores} cores, not {cell['cores']}"
                fitted += [said] if said not in fitted else []
                cell = {**cell, "cores": cores}
            elif cores is not None and int(cell["cores"]) > cores:
                left_out.append(f"{experiment.id}: {cell_key(cell)}: the testbed has {cores} cores")
                continue
            for repeat in range(1, sampling.repeats + 1):
                twice = clients > 1 and repeat == 1 and float(cell.get("load_percent", 100)) >= 100
                names = (experiment.id,)
                trial = Trial(cell, repeat, sampling, experiment.app, names, twice=twice)
                trial = replace(trial, capture=experiment.capture)
                _merge(wanted, trial)
    trials = tuple(_in_order(list(wanted.values())))
    return Plan(trials, tuple(left_out), cores, tuple(fitted))


def lacking(planned: Plan, measured: Collection[str]) -> Plan:
    """What is left of a plan where the cells in `measured` (cell_key) are: each point whole, all
    systems side by side, and with the closed loop that an open one takes its rate from."""

    def whole(trial: Trial) -> str:
        apart = ("system", "load_percent")
        return cell_key({name: v for name, v in trial.cell.items() if name not in apart})

    wanted = {whole(trial) for trial in planned.trials if cell_key(trial.cell) not in measured}
    left = tuple(trial for trial in planned.trials if whole(trial) in wanted)
    return replace(planned, trials=left)


def _merge(wanted: dict[str, Trial], trial: Trial) -> None:
    s = trial.sampling
    key = f"{trial.app}|{trial.key}|{s.warmup_s}|{s.measure_s}|{s.loop}"
    there = wanted.get(key)
    if there is None:
        wanted[key] = trial
    elif trial.experiments[0] not in there.experiments:
        both = (*there.experiments, *trial.experiments)
        capture = there.capture or trial.capture
        wanted[key] = replace(there, experiments=both, capture=capture)


def _in_order(trials: list[Trial]) -> list[Trial]:
    sequential = [trial for trial in trials if trial.sampling.order == "sequential"]
    interleaved = [trial for trial in trials if trial.sampling.order == "interleaved"]
    ordered: list[Trial] = []
    for repeat in sorted({trial.repeat for trial in interleaved}):
        points: dict[str, list[Trial]] = {}
        for trial in interleaved:
            if trial.repeat == repeat:
                points.setdefault(_point(trial), []).append(trial)
        # Fewest changes of the number of cores, each of which re-tunes the machine.
        groups = sorted(
            points.values(),
            key=lambda group: (group[0].cores, group[0].receiving),
            reverse=repeat % 2 == 0,
        )
        for group in groups:
            turn = (repeat - 1) % len(group)
            ordered += group[turn:] + group[:turn]
    return ordered + sequential


def _point(trial: Trial) -> str:
    return cell_key({key: value for key, value in trial.cell.items() if key != "system"})


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
