# SPDX-License-Identifier: MIT
"""The terminal: data on stdout, progress on stderr, both readable without colours."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table as RichTable
from rich.text import Text

from megabench.compare import Judged
from megabench.experiment import says
from megabench.measure import Watch
from megabench.plan import Trial, duration
from megabench.profile import Account
from megabench.summary import Grid, claim_rows, number


def out() -> Console:
    """Data. Piped, it is as wide as it likes."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)


def err() -> Console:
    """Everything else."""
    return Console(file=sys.stderr, width=None if sys.stderr.isatty() else 160, highlight=False)


def say(text: str) -> None:
    """One line of what is going on."""
    err().print(text, markup=False, soft_wrap=True)


def rows(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Group:
    """A plain table: first column left, the rest as they come."""
    table = RichTable(box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=index == 0)
    for line in lines:
        table.add_row(*[Text(cell) for cell in line])
    return Group(Text(title, style="bold"), table) if title else Group(table)


def grid_table(grid: Grid) -> Group:
    """System by system, with ratios."""
    title = f"{grid.experiment}: {grid.title} (× {grid.baseline})"
    table = RichTable(box=None, pad_edge=False)
    for name in grid.parameters:
        table.add_column(name.replace("_", " "), justify="right")
    for name in grid.headings:
        table.add_column(name, justify="right", no_wrap=True)
    for point, entries in grid.rows:
        cells = [f"{entry.text} {entry.times:>6}".rstrip() for entry in entries]
        table.add_row(*point, *cells)
    return Group(Text(title, style="bold"), table)


def account_table(account: Account) -> Group:
    """Where one point's instructions go: a row a layer, a column a system."""
    table = RichTable(box=None, pad_edge=False)
    table.add_column("per transaction", no_wrap=True)
    for name in account.systems:
        table.add_column(name, justify="right", no_wrap=True)
    for name, cells, kind in account.rows:
        table.add_row(name, *cells, style="bold" if kind == "sum" else None)
    return Group(Text(account.title, style="bold"), table)


def claims_table(judged: Sequence[Judged]) -> Group:
    """The paper's claims beside ours."""
    lines = []
    for row in claim_rows(judged):
        lines.append(
            [row["experiment"], row["claim"], row["by"], row["paper"], row["ours"], row["verdict"]]
        )
    headings = ["experiment", "claim", "by", "paper", "ours", "verdict"]
    return rows("Claims (ratios)", headings, lines)


class Bar:
    """A progress bar with an ETA, or a line a trial where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = err()
        self.progress: Progress | None = None
        self.total = self.done = 0
        self.begun = self.planned = self.left = 0.0

    def begin(self, trials: int, seconds: float, done: int) -> None:
        self.total, self.done = trials, done
        self.planned = self.left = seconds
        self.begun = time.monotonic()
        if done:
            say(f"{done} of {trials} trials are on disk already and are kept")
        if self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[eta]}"),
                TextColumn("{task.fields[rate]}"),
                console=self.console,
            )
            self.progress.start()
            self.task = self.progress.add_task(
                "", total=trials, completed=done, eta=self.eta(), rate=""
            )

    def trial(self, trial: Trial, number: int) -> None:
        if self.progress is not None:
            self.progress.update(self.task, description=described(trial))

    def result(self, trial: Trial, point: Mapping[str, Any], seconds_left: float) -> None:
        self.done += 1
        self.left = seconds_left
        line = f"[{self.done}/{self.total}] {described(trial)}: {outcome(point)}"
        if self.progress is not None:
            rate = f"last: {trial.system} {outcome(point)}"
            self.progress.update(self.task, advance=1, eta=self.eta(), rate=rate)
            if point["status"] != "ok":
                self.progress.console.print(line, markup=False, soft_wrap=True)
        else:
            say(f"{line} ({self.eta()})")

    @property
    def watch(self) -> Watch | None:
        """A terminal shows the rate of the trial under way; a log has no use for it."""
        return self.rate if self.console.is_terminal else None

    def rate(self, txn_s: float) -> None:
        if self.progress is not None:
            self.progress.update(self.task, rate=f"now: {number(txn_s)} txn/s")

    def end(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def eta(self) -> str:
        """What is left by the plan, corrected by how the plan has held so far."""
        spent = self.planned - self.left
        pace = (time.monotonic() - self.begun) / spent if spent > 0 else 1.0
        return f"{duration(self.left * pace)} left"


def described(trial: Trial) -> str:
    """A trial in a few words."""
    cell = trial.cell
    words = [trial.system, f"{trial.cores} core{'s' * (trial.cores > 1)}"]
    if "transactions_per_connection" in cell:
        length = says("transactions_per_connection", cell["transactions_per_connection"])
        words.append(f"{length} txn/connection")
    if "workload" in cell:
        words.append(says("workload", cell["workload"]))
    return f"{', '.join(words)}, trial {trial.repeat}"


def outcome(point: Mapping[str, Any]) -> str:
    """What became of a trial."""
    if point["status"] != "ok":
        return f"{point['status']}: {str(point.get('reason', '')).splitlines()[0]}"
    metrics = point["metrics"]
    words = []
    if "throughput" in metrics:
        words.append(f"{number(metrics['throughput']['value'])} txn/s")
    if "instructions" in metrics:
        words.append(f"{number(metrics['instructions']['value'])} instructions/txn")
    return ", ".join(words)
