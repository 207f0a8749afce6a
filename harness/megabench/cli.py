# SPDX-License-Identifier: MIT
"""The command line. Verbs only: what they do is in the module of the same noun.

Exit status: 0 done, 1 failed (or interrupted), 2 wrong usage, 77 this machine lacks what is needed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from megabench import (
    apps,
    checks,
    compare,
    console,
    contention,
    contention_figure,
    deploy,
    figure,
    ledger,
    metadata,
    model,
    paths,
    plan,
    profile,
    profile_figure,
    record,
    report,
    run,
    stats,
    summary,
    table,
    until,
)
from megabench.errors import HarnessError
from megabench.experiment import (
    SCALES,
    Experiment,
    UsageError,
    Value,
    all_experiments,
    cell_key,
    experiment_files,
    load_experiment,
    worded,
)
from megabench.interrupts import held_back, terminate_as_interrupt
from megabench.table import Raw, Table
from megabench.testbed import Testbed

OK, FAILED, USAGE, SKIPPED = 0, 1, 2, 77
LINES_PLUGIN = "liblines.so"
ONLY_EMULATED = "cache lines are counted in an emulated machine only"


class Verbs(TyperGroup):
    """Turns every error that a user can understand into a message, a hint and an exit status."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            give_up(error)
        except KeyboardInterrupt:
            console.say("interrupted: what was started is stopped, finished trials are kept")
            raise typer.Exit(FAILED) from None


def give_up(error: HarnessError) -> NoReturn:
    """Say what is wrong and what to do about it."""
    console.say(f"megabench: {error.message}")
    if error.hint:
        console.say(f"hint: {error.hint}")
    raise typer.Exit(USAGE if isinstance(error, UsageError) else FAILED)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Experiment definition -> testbed -> load -> raw results -> table -> figure beside the "
    "paper.",
)


def load_testbed(name: str, accel: str | None = None) -> Any:
    """The testbed called `name`; the tests put a fake here."""
    return Testbed.load(name, accel=accel)


def main() -> None:
    """The console script."""
    terminate_as_interrupt()
    app()


# Options


def _scale(value: str) -> str:
    if value not in SCALES:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(SCALES)}")
    return value


def _maybe_scale(value: str | None) -> str | None:
    return None if value is None else _scale(value)


Names = Annotated[list[str] | None, typer.Argument(help="Experiments; all when left out.")]
Bed = Annotated[
    str,
    typer.Option("--testbed", envvar="TESTBED", help="A name in harness/testbeds, or a TOML file."),
]
Scale = Annotated[str, typer.Option(envvar="SCALE", callback=_scale, help="smoke, quick or full.")]
AnyScale = Annotated[
    str | None,
    typer.Option("--scale", callback=_maybe_scale, help="Only results of this scale."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="key=value[,value…]: only these points; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Results = Annotated[
    Path | None, typer.Option("--results", help="Where results lie (the checkout's results/).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print each command; run none.")]


def chosen(names: list[str] | None) -> list[Experiment]:
    """The experiments asked for, each once."""
    if not names:
        return all_experiments()
    return [load_experiment(name) for name in dict.fromkeys(names)]


def parse_only(words: list[str] | None) -> dict[str, tuple[Value, ...]]:
    """`key=value,value` as a parameter's values; numbers are numbers."""
    only: dict[str, tuple[Value, ...]] = {}
    for word in words or []:
        key, equals, values = word.partition("=")
        if not equals or not key or not values:
            raise UsageError(f"--only {word}: not of the form key=value[,value…]")
        only[key] = (*only.get(key, ()), *(_value(text) for text in values.split(",")))
    return only


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def only_for(experiment: Experiment, only: dict[str, tuple[Value, ...]]) -> bool:
    """Whether `only` leaves anything of an experiment, when several are asked for."""
    return all(key in experiment.grid or key in experiment.fixed for key in only)


def show_json(content: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(content, indent=1, ensure_ascii=False, default=str))


def where_results(results: Path | None) -> Path:
    """results/ of the checkout, unless told otherwise."""
    return results or paths.results()


def bed_name(name: str) -> str:
    """The name under which a testbed's results lie."""
    return load_testbed(name).name if name.endswith(".toml") or "/" in name else name


# Looking


def keyed(name: str, value: Value) -> str:
    """A parameter's value as --only takes it, and as results say it where that is more."""
    said = worded(name, value)
    return f"{value} ({said})" if said != value else str(value)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The experiments, what they claim, and how long they take."""
    experiments = all_experiments()
    listed: list[dict[str, Any]] = []
    for experiment in experiments:
        plans = {scale: plan.make_plan([experiment], scale) for scale in SCALES}
        listed.append(
            {
                "id": experiment.id,
                "title": experiment.title,
                "claim": experiment.claim,
                "mark": experiment.mark,
                "systems": list(experiment.grid.get("system", ())),
                "trials": {scale: len(one.trials) for scale, one in plans.items()},
                "seconds": {scale: round(one.seconds) for scale, one in plans.items()},
            }
        )
    if as_json:
        show_json(listed)
        return
    lines = [
        [
            str(one["id"]),
            str(one["title"]),
            *(f"{plan.duration(one['seconds'][scale])}" for scale in SCALES),
        ]
        for one in listed
    ]
    console.out().print(console.rows("", ["experiment", "title", *SCALES], lines))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT")],
    scale: Scale = "quick",
    only: Only = None,
    as_json: Json = False,
) -> None:
    """One experiment: claim, points, figures, and what a scale measures of it."""
    experiment = load_experiment(name)
    one = plan.make_plan([experiment], scale, parse_only(only))
    sampling = experiment.sampling_at(scale)
    if as_json:
        show_json(
            {
                "definition": experiment.source,
                "scale": scale,
                "sampling": asdict(sampling),
                "cells": experiment.cells(scale, parse_only(only)),
                "trials": len(one.trials),
                "seconds": round(one.seconds),
            }
        )
        return
    lines = [
        ["claim", f"{experiment.claim} [{experiment.mark}]"],
        ["metric", f"{experiment.metric} ({experiment.unit})"],
        *(
            [name, ", ".join(keyed(name, value) for value in values)]
            for name, values in experiment.grid_at(scale).items()
        ),
        *([name, keyed(name, value)] for name, value in experiment.fixed_at(scale).items()),
        [
            "sampling",
            f"{sampling.repeats} x ({sampling.warmup_s:g} s + {sampling.measure_s:g} s), "
            f"{sampling.order}, {sampling.loop} loop",
        ],
        ["trials", f"{len(one.trials)} at scale {scale}, about {plan.duration(one.seconds)}"],
        *(["figure", f"{fig.id}: {fig.title}"] for fig in experiment.figures),
        *(["verdict", verdict.text] for verdict in experiment.verdicts),
    ]
    console.out().print(console.rows(f"{name}: {experiment.title}", ["", ""], lines))


@app.command()
def check(testbed: Bed = "local", as_json: Json = False) -> None:
    """Whether everything is there that a run needs, and what to do about what is not."""
    found = checks.check(testbed, load_testbed)
    if as_json:
        show_json([asdict(one) for one in found])
    else:
        lines = [
            [one.what, one.level or ("ok" if one.ok else "missing"), one.said] for one in found
        ]
        console.out().print(console.rows("", ["what", "", ""], lines))
    if not all(one.ok for one in found):
        raise typer.Exit(FAILED)


# Testbed


@app.command()
def up(testbed: Bed = "local", dry_run: DryRun = False) -> None:
    """Start the testbed and leave it running."""
    bed = load_testbed(testbed)
    if dry_run:
        print(f"# start testbed {bed.name}; copy the programs to it")
        return
    bed.up()
    apps.deploy(bed, apps.built())
    console.say(f"testbed {bed.name} is up")


@app.command("deploy")
def deploy_(testbed: Bed = "local", dry_run: DryRun = False) -> None:
    """Bring kernel (real machines: built, installed, booted once), servers and load generator."""
    bed = load_testbed(testbed)
    if dry_run:
        if bed.kind == "ssh":
            where = bed.builder.name if bed.builder else "here"
            for line in deploy.commands(["server"], bed.options, where):
                print(line)
        for name, row in apps.APPS.items():
            for program in row.programs(name):
                print(f"put build/bin/{program} server:{apps.remote_dir(bed.kind)}/{program}")
        return
    if bed.kind == "ssh":
        bed.bring_kernel()
    else:
        bed.attach()
    for line in apps.deploy(bed, apps.built()):
        console.say(line)
    console.say(bed.verify(apps.remote_dir(bed.kind)).rstrip() or "all is there")


@app.command("run")
def run_(
    names: Names = None,
    testbed: Bed = "local",
    scale: Scale = "quick",
    only: Only = None,
    results: Results = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="A new run, even where one was broken off.")
    ] = False,
    until_share: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="5%",
            help=f"Repeat beyond the plan, {stats.ENOUGH} times at least, until every median's "
            "interval is within this share of it.",
        ),
    ] = None,
    keep_up: Annotated[
        bool, typer.Option("--keep-up", help="Leave a testbed up that this command started.")
    ] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Real machines: at the end, as `megabench down --remove`."),
    ] = False,
    with_report: Annotated[
        bool, typer.Option("--report", help="Write the report too, also if points failed.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure; go on where a broken-off run stopped."""
    experiments = chosen(names)
    wanted = parse_only(only)
    share = None if until_share is None else until.parse(until_share)
    if not names:
        experiments = [one for one in experiments if only_for(one, wanted)] or experiments
    bed = load_testbed(testbed)
    of_lines = [one for one in experiments if one.counter == "lines"]
    experiments = [one for one in experiments if one.counter != "lines"]
    if bed.kind != "vm":
        for one in of_lines:
            console.say(f"left out: {one.id}: {ONLY_EMULATED}")
        of_lines = []
    planned = plan.make_plan(experiments, scale, wanted, bed.cores, len(bed.clients))
    lines = plan.make_plan(of_lines, scale, wanted, bed.cores)
    for line in planned.fitted:
        console.say(line)
    for line in (*planned.left_out, *lines.left_out):
        console.say(f"left out: {line}")
    shared = f", {planned.shared} of them shared" if planned.shared else ""
    console.say(
        f"{len(planned.trials) + len(lines.trials)} trials{shared}, about "
        f"{plan.duration(planned.seconds + lines.seconds)} on {bed.name}, once it is up"
    )
    if dry_run:
        print("\n".join(run.spelled(bed, planned) + run.spelled(bed, lines)))
        return
    if not planned.trials and not lines.trials:
        raise UsageError("no trial is left to run", hint="less of --only, or a larger testbed")
    if bed.is_virtual and (busy := metadata.host_load()) > 0.5:
        console.say(f"this machine is busy ({busy:.1f} runnable a core): rates will suffer")
    where = where_results(results)
    record.check_space(where)
    outcome = run.Outcome()
    if planned.trials:
        request = run.Request(experiments, scale, where, wanted, fresh, share)
        outcome = measure_all(bed, request, planned, testbed, keep_up)
    if lines.trials:
        request = run.Request(of_lines, scale, where, wanted, fresh)
        outcome.add(measure_lines(request, lines, testbed))
    if remove and bed.kind == "ssh":
        take_down(bed, True)
    finish(bed.name, where, outcome, scale, as_json, with_report)


def measure_all(
    bed: Any, request: run.Request, planned: plan.Plan, testbed: str, keep_up: bool
) -> run.Outcome:
    """The session's passes, each with the testbed as it needs it."""
    kvm = bed.kind == "vm"
    with brought_up(bed, request, keep_up):
        kvm = kvm and bed.accel == "kvm"
        session = run.Session(bed, request, planned, last=not kvm, progress=console.Bar())
        outcome = session.run()
    if not kvm:
        return outcome
    console.say("instructions are counted under emulation: the testbed starts again without KVM")
    bed.down()
    emulated = load_testbed(testbed, "tcg")
    request.into = outcome.runs
    with brought_up(emulated, request, False):
        if emulated.counter_file is None:
            console.say("instructions are not counted: no build/bin/libinsn.so (make plugin)")
            return outcome
        counted = run.Session(
            emulated,
            request,
            run.instruction_plan(planned),
            pass_name=run.COUNTING,
            progress=console.Bar(),
        ).run()
    outcome.ok += counted.ok
    outcome.failed += counted.failed
    return outcome


def measure_lines(request: run.Request, planned: plan.Plan, testbed: str) -> run.Outcome:
    """Experiments for which the emulator counts changes of writer, in a machine of their own."""
    bed = load_testbed(testbed)
    if bed.kind != "vm":
        names = ", ".join(one.id for one in request.experiments)
        console.say(f"left out: {names}: {ONLY_EMULATED}")
        return run.Outcome()
    bed = load_testbed(testbed, "tcg")
    if bed.is_up():
        console.say("cache lines are counted by another plugin: the testbed starts again")
        bed.down()
    bed.plugin = LINES_PLUGIN
    with brought_up(bed, request, False):
        return run.Session(bed, request, planned, progress=console.Bar()).run()


@contextmanager
def brought_up(bed: Any, request: run.Request, keep_up: bool) -> Iterator[None]:
    """A testbed that is up with the programs on it; stopped again if this is who started it."""
    with run.alone(bed.name):
        was_up = bed.is_up()
        names = sorted({one.app for one in request.experiments})
        apps.require_built(names)
        try:
            bed.up()
            apps.deploy(bed, names)
            bed.verify(apps.remote_dir(bed.kind))
            yield
        except BaseException:
            if not was_up and not keep_up:
                end_after_error(bed)
            raise
        if not was_up and not keep_up:
            with held_back():
                bed.down()


def end_after_error(bed: Any) -> None:
    """Put back what can be; the first error is the one to be seen."""
    # Real machines that did not come up have put back by themselves what they had begun.
    if bed.kind != "vm" and not bed.is_up():
        return
    with held_back():
        try:
            apps.sweep(bed)
            bed.down()
        except HarnessError as error:
            console.say(f"and besides: {error}")


def finish(
    name: str,
    results: Path,
    outcome: run.Outcome,
    scale: str,
    as_json: bool,
    with_report: bool,
) -> None:
    """Draw what was measured, say what came out, and end with the right status."""
    tables, unmeasured = [], []
    for experiment in outcome.runs:
        try:
            tables.append(table.make_table(table.load_raw(results, name, experiment, scale)))
        except record.ResultsError:
            unmeasured.append(experiment)
    judged = [row for one in tables for row in compare.compare(one)]
    for one in tables:
        table.write_table(results, name, one)
        figure.write_figures(results, name, one)
    if as_json:
        show_json(
            {
                "testbed": name,
                "runs": {key: str(path) for key, path in outcome.runs.items()},
                "ok": outcome.ok,
                "skipped": outcome.skipped,
                "failed": outcome.failed,
                "wide": outcome.wide,
                "claims": summary.claim_rows(judged),
            }
        )
    else:
        show_summary(tables, judged)
    for line in outcome.wide:
        console.say(f"still wider than asked for, after {until.MOST} repeats: {line}")
    for line in outcome.swept:
        console.say(f"left running by a failed trial, and ended: {line}")
    for line in outcome.failed:
        console.say(f"failed: {line.splitlines()[0]}")
    for experiment in unmeasured:
        console.say(f"{experiment}: no valid trial; logs in {outcome.runs[experiment]}/logs")
    if with_report:
        draw_report(results, name, scale)
    if outcome.failed:
        raise typer.Exit(SKIPPED if outcome.cannot == len(outcome.failed) else FAILED)


def show_summary(tables: list[Table], judged: list[compare.Judged]) -> None:
    """System by system, then the claims."""
    out = console.out()
    for one in tables:
        for grid in summary.grids(one):
            out.print(console.grid_table(grid))
            out.print()
    if judged:
        out.print(console.claims_table(judged))


# Results


def tables_of(names: list[str] | None, bed: str, results: Path, scale: str | None) -> list[Table]:
    """The tables asked for, or all there are."""
    for name in names or []:
        if name not in experiment_files() and name not in table.measured_experiments(results, bed):
            load_experiment(name)
    if names:
        found = [table.load_raw(results, bed, name, scale) for name in names]
        return [table.make_table(one) for one in found]
    return report.load_tables(results, bed, scale)


@app.command("table")
def table_(
    names: Names = None,
    testbed: Bed = "local",
    scale: AnyScale = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Redraw the tables from raw results; with one experiment, print it as well."""
    where, bed = where_results(results), bed_name(testbed)
    tables = tables_of(names, bed, where, scale)
    for one in tables:
        path = table.write_table(where, bed, one)
        console.say(f"wrote {path}")
    if as_json:
        show_json({t.raw.experiment.id: t.tidy.to_dict(orient="records") for t in tables})
    elif names:
        for one in tables:
            print(table.to_csv(one), end="")


@app.command()
def plot(
    names: Names = None, testbed: Bed = "local", scale: AnyScale = None, results: Results = None
) -> None:
    """Redraw the figures from raw results."""
    where, bed = where_results(results), bed_name(testbed)
    for one in tables_of(names, bed, where, scale):
        for path in figure.write_figures(where, bed, one):
            print(path)


@app.command("profile")
def profile_(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT")],
    testbed: Bed = "local",
    scale: Scale = "quick",
    only: Only = None,
    results: Results = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure, even where there are results.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Where the instructions go, by layer and function; measures what is not measured yet."""
    experiment, wanted = load_experiment(name), parse_only(only)
    where, bed = where_results(results), bed_name(testbed)
    raw: Raw | None = None
    found: list[profile.Profile] = []
    if not fresh:
        with suppress(record.ResultsError):
            raw = table.load_raw(where, bed, name)
            found = profile.profiles(raw, where, bed, wanted)
    have = {cell_key({"system": one.system, **one.at}) for one in found}
    if left_to_measure(plan.make_plan([experiment], scale, wanted), have, raw).trials:
        machine = load_testbed(testbed)
        machine.sampled = machine.kind != "vm"
        planned = plan.make_plan([experiment], scale, wanted, machine.cores)
        planned = left_to_measure(planned, have, raw)
        if planned.trials:
            request = run.Request([experiment], scale, where, wanted, fresh, None)
            outcome = measure_all(machine, request, planned, testbed, False)
            for line in outcome.failed:
                console.say(f"failed: {line.splitlines()[0]}")
    one = table.make_table(table.load_raw(where, bed, name))
    found = profile.profiles(one.raw, where, bed, wanted)
    if as_json:
        show_json(
            [{**asdict(p), "layers": p.by_layer(), "interface": p.interface()} for p in found]
        )
        return
    for account in profile.accounts(found, profile.base_of(one.raw.experiment)):
        console.out().print(console.account_table(account))
        console.out().print()
    for path in profile.write_tables(where, bed, name, found):
        console.say(f"wrote {path}")
    for path in profile_figure.write_figures(where, bed, one, found):
        console.say(f"wrote {path}")


@app.command("contention")
def contention_(
    names: Names = None,
    testbed: Bed = "local",
    scale: Scale = "quick",
    only: Only = None,
    results: Results = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure, even where there are results.")
    ] = False,
) -> None:
    """Which cache lines go from core to core; measures what is not measured yet."""
    chosen_ones = [one for one in chosen(names) if one.counter == "lines"]
    if not chosen_ones:
        raise UsageError("none of these experiments counts cache lines", hint="counter = lines")
    where, bed, wanted = where_results(results), bed_name(testbed), parse_only(only)
    for experiment in chosen_ones:
        raw: Raw | None = None
        if not fresh:
            with suppress(record.ResultsError):
                raw = table.load_raw(where, bed, experiment.id)
        points = raw.points if raw is not None else ()
        have = {cell_key(point["cell"]) for point in points if point["status"] == "ok"}
        planned = left_to_measure(plan.make_plan([experiment], scale, wanted), have, raw)
        if planned.trials:
            request = run.Request([experiment], scale, where, wanted, fresh)
            outcome = measure_lines(request, planned, testbed)
            for line in outcome.failed:
                console.say(f"failed: {line.splitlines()[0]}")
        show_lines(where, bed, experiment.id)


def left_to_measure(planned: plan.Plan, have: set[str], raw: Raw | None) -> plan.Plan:
    """The points that are not measured yet; all of them, if they could not stand in one table
    with those that are."""
    left = plan.lacking(planned, have)
    if not left.trials or raw is None:
        return left
    new = {"binaries": metadata.binaries(), "sampling": asdict(left.trials[0].sampling)}
    names = [name for name in metadata.CHECKED if not name.startswith("testbed.")]
    why = [name for name in names if metadata.lookup(new, name) != metadata.lookup(raw.meta, name)]
    if why:
        console.say(f"what is measured differs in {', '.join(why)}: all is measured again")
    return planned if why else left


def show_lines(results: Path, bed: str, name: str) -> None:
    """One experiment's counts, and the ten worst lines of each point by name."""
    one = table.make_table(table.load_raw(results, bed, name))
    table.write_table(results, bed, one)
    figure.write_figures(results, bed, one)
    show_summary([one], [])
    folder = results / bed / "raw" / name
    level = max(contention.LEVELS)
    rows = [[str(cell) for cell in row] for row in contention.worst(one.raw.points, folder, level)]
    title = f"Lines that at least {level} CPUs write: changes of writer per transaction"
    console.out().print(console.rows(title, contention.HEADINGS, rows))
    contention_figure.write_figures(results, bed, one)
    if path := contention.write_table(results, bed, one.raw):
        console.say(f"wrote {path}")


@app.command("ledger")
def ledger_(
    testbed: Bed = "local",
    write: Annotated[
        bool, typer.Option("--write", help="Make what is measured the ledger's new entries.")
    ] = False,
) -> None:
    """What a transaction costs at a few fixed points, against the ledger."""
    kept = ledger.read_ledger()
    bed = load_testbed(testbed, "tcg")
    request = run.Request([load_experiment(kept.experiment)], ledger.SCALE, where_results(None), {})
    with brought_up(bed, request, False), tempfile.TemporaryDirectory() as folder:
        compared = ledger.compare(bed, kept, Path(folder), anew=write)
    console.out().print(console.rows("", ledger.HEADINGS, ledger.rows(compared)))
    if write:
        ledger.write_ledger(kept, compared)
        console.say(f"wrote {ledger.path()}")
    elif said := ledger.complaint(compared):
        console.say(said)
        raise typer.Exit(FAILED)


@app.command("report")
def report_(testbed: Bed = "local", scale: AnyScale = None, results: Results = None) -> None:
    """Tables, figures, report.html and the README's results, from raw results alone."""
    draw_report(where_results(results), bed_name(testbed), scale)


def draw_report(results: Path, bed: str, scale: str | None) -> None:
    """All that is drawn from raw results; prints the report's path."""
    tables = report.load_tables(results, bed, scale)
    for one in tables:
        table.write_table(results, bed, one)
        figure.write_figures(results, bed, one)
        contention.write_table(results, bed, one.raw)
        contention_figure.write_figures(results, bed, one)
        with suppress(record.ResultsError):
            found = profile.profiles(one.raw, results, bed)
            profile.write_tables(results, bed, one.raw.experiment.id, found)
            profile_figure.write_figures(results, bed, one, found)
    model.write(results, bed)
    path = report.write_report(results, bed, tables)
    for readme in report.write_readmes(results, scale):
        console.say(f"wrote {readme}")
    print(path)


@app.command("compare")
def compare_(
    names: Names = None,
    testbed: Bed = "local",
    other: Annotated[
        str | None,
        typer.Option("--with", help="Another testbed, or another results folder: not the paper."),
    ] = None,
    scale: AnyScale = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Ours beside the paper's; or beside ours of another testbed or results folder.

    With two folders of raw results, megabench compare RUN_A RUN_B: the second beside the first.
    """
    if names and len(names) == 2 and all((Path(name) / record.META).is_file() for name in names):
        compare_two(Path(names[0]), Path(names[1]), as_json)
        return
    where, bed = where_results(results), bed_name(testbed)
    tables = tables_of(names, bed, where, scale)
    if other is None:
        judged = [row for one in tables for row in compare.compare(one)]
        if as_json:
            show_json(summary.claim_rows(judged))
        else:
            show_summary(tables, judged)
        return
    there, old_bed = (Path(other), bed) if Path(other).is_dir() else (where, other)
    lines = []
    for one in tables:
        old = table.make_table(table.load_raw(there, old_bed, one.raw.experiment.id, scale))
        metrics = [one.raw.experiment.metric, *summary.BESIDE]
        for row in compare.differences(old, one, metrics):
            doubt = "" if row.proven else "?"
            ratio = f"{row.ratio.median:.2f}{doubt}" if row.clear else "~"
            values = [summary.number(row.old.median), summary.number(row.new.median)]
            lines.append([one.raw.experiment.id, row.metric, row.cell, *values, ratio])
    headings = ["experiment", "metric", "point", "theirs", "ours", "ratio (~: noise, ?: likely)"]
    if as_json:
        show_json([dict(zip(headings, line, strict=True)) for line in lines])
    else:
        console.out().print(console.rows(f"{bed} beside {other}", headings, lines))


def compare_two(old_path: Path, new_path: Path, as_json: bool) -> None:
    """Run beside run: ratio, its interval, and whether it is more than noise."""
    old, new = (table.make_table(table.load_run(path)) for path in (old_path, new_path))
    why = compare.unlike_runs(old.raw.meta, new.raw.meta)
    if why:
        raise UsageError(
            f"{old_path.name} and {new_path.name} cannot be compared: they differ in "
            + ", ".join(why[:6]),
            hint="compare runs of one experiment, on one testbed, with one set-up",
        )
    metrics = dict.fromkeys([new.raw.experiment.metric, *summary.BESIDE])
    found = compare.differences(old, new, list(metrics))
    if as_json:
        show_json(
            [
                {
                    "metric": row.metric,
                    "cell": row.cell,
                    "a": asdict(row.old),
                    "b": asdict(row.new),
                    "ratio": asdict(row.ratio),
                    "more_than_noise": row.proven,
                }
                for row in found
            ]
        )
        return
    lines = []
    for row in found:
        interval = "no interval"
        if row.ratio.lo is not None and row.ratio.hi is not None:
            interval = f"{row.ratio.lo:.2f} – {row.ratio.hi:.2f}"
        values = [summary.number(row.old.median), summary.number(row.new.median)]
        lines.append([row.metric, row.cell, *values, f"{row.ratio.median:.2f}", interval, row.said])
    headings = ["metric", "point", "a", "b", "b / a", "interval", "more than noise"]
    title = f"{new.raw.experiment.id}: a = {old_path.name}, b = {new_path.name}"
    console.out().print(console.rows(title, headings, lines))
    changed = compare.changed_between(old.raw.meta, new.raw.meta)
    console.say(f"they differ in: {', '.join(changed) or 'nothing that is recorded'}")


@app.command()
def down(
    testbed: Bed = "local",
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Real machines: boot the old kernel and purge ours, too."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Stop the testbed and put back what it changed."""
    bed = load_testbed(testbed)
    if dry_run:
        print(f"# stop testbed {bed.name}, and put back what it changed")
        if remove:
            print(f"# boot the kernel that testbed {bed.name} had, and purge ours")
        return
    take_down(bed, remove)
    console.say(f"testbed {bed.name} is down")


def take_down(bed: Any, remove: bool) -> None:
    """End what runs, put settings back, remove programs and, if asked, the kernel."""
    with held_back():
        if bed.kind != "vm":
            apps.sweep(bed)
            apps.undeploy(bed)
        bed.down()
    if remove:
        # Not held back: it waits for a machine to boot, and can be given again.
        bed.remove()


@app.command()
def restore(testbed: Bed = "local") -> None:
    """Put back the settings that a crashed or cut-off run left on the testbed's machines."""
    bed = load_testbed(testbed)
    with held_back():
        counts = bed.restore()
    for name, count in counts.items():
        console.say(f"{name}: {count} settings as they were" if count else f"{name}: nothing left")
    if not counts:
        console.say(f"testbed {bed.name} keeps no settings: `megabench down` ends it")


@app.command()
def shell(testbed: Bed = "local") -> None:
    """Log in to the running testbed's server and play."""
    bed = load_testbed(testbed)
    bed.attach()
    sys.stdout.flush()
    raise typer.Exit(subprocess.run(bed.shell_argv(), env=dict(os.environ), check=False).returncode)
