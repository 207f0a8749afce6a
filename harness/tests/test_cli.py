# SPDX-License-Identifier: MIT
"""The command line, from the outside: verbs, exit statuses, messages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
from fakes import FakeBed
from typer.testing import CliRunner

from megabench import apps, cli, figure, paths, profile, record, run, table
from megabench.errors import CommandError, TestbedError
from megabench.experiment import all_experiments, load_experiment
from megabench.measure import Measured
from megabench.plan import make_plan

NAME = "pingpong-contribution"
WRITE_FIGURES = figure.write_figures


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBed:
    """A fake testbed behind the command line; nothing is built and nothing confined."""
    made = FakeBed()
    monkeypatch.setattr(cli, "load_testbed", lambda name, accel=None: made)
    monkeypatch.setattr(apps, "deploy", lambda bed, names: [])
    monkeypatch.setattr(apps, "require_built", lambda names: None)
    # Drawing takes a second; those that want figures ask for them.
    monkeypatch.setattr(figure, "write_figures", lambda *arguments: [])
    monkeypatch.setattr(run.Session.__init__, "__kwdefaults__", {
        **(run.Session.__init__.__kwdefaults__ or {}),
        "measure_trial": synthetic.formula,
        "confine": lambda *confined: None,
    })  # fmt: skip
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path / "build"))
    for name in ("TESTBED", "SCALE", "ACCEL"):
        monkeypatch.delenv(name, raising=False)
    return made


def call(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words))


def measuring(monkeypatch: pytest.MonkeyPatch, measure: Any) -> None:
    defaults = dict(run.Session.__init__.__kwdefaults__ or {})
    monkeypatch.setattr(
        run.Session.__init__, "__kwdefaults__", {**defaults, "measure_trial": measure}
    )


# Looking


def test_list__for_people_and_programs() -> None:
    shown = call("list")
    assert shown.exit_code == 0
    assert NAME in shown.stdout
    listed = json.loads(call("list", "--json").stdout)
    assert {one["id"] for one in listed} >= {NAME, "pingpong-speedup"}
    assert all(one["seconds"]["smoke"] <= 30 for one in listed)


def test_show__the_plan() -> None:
    shown = call("show", NAME, "--scale", "full")
    assert shown.exit_code == 0
    assert "160 at scale full" in shown.stdout
    asked = json.loads(call("show", NAME, "--json", "--only", "system=epoll").stdout)
    assert {cell["system"] for cell in asked["cells"]} == {"epoll"}


def test_show__a_trace_is_synthetic() -> None:
    shown = call("show", "nginx-throughput")
    assert "yahoo (synthetic Yahoo-like)" in shown.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "pingpong-contributoin"], "did you mean pingpong-contribution"),
        (["show", "nothing-like-it"], "`megabench list` shows all"),
        (["run", NAME, "--only", "system"], "not of the form key=value"),
        (["run", NAME, "--only", "system=epol"], "values: epoll"),
        (["run", NAME, "--only", "length=1"], "no such parameter"),
        (["run", NAME, "--scale", "huge"], "none of smoke, quick, full"),
        (["measure"], "No such command"),
        (["run", NAME, "--fast"], "No such option"),
        (["table", "pingpong-x"], "unknown experiment"),
    ],
)
def test_wrong_usage__2(bed: FakeBed, tmp_path: Path, words: list[str], said: str) -> None:
    if words[0] == "table":
        words = [*words, "--results", str(tmp_path)]
    failed = call(*words)
    assert failed.exit_code == 2
    assert said in failed.stderr
    assert failed.stdout == ""
    assert "Traceback" not in failed.stderr
    assert bed.history == []


def test_no_arguments__help() -> None:
    shown = call()
    assert "report" in shown.output


def test_malformed_definition__file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    text = (paths.HARNESS / "experiments" / f"{NAME}.toml").read_text()
    (folder / f"{NAME}.toml").write_text(text.replace("repeats = 5", 'repeats = "five"'))
    monkeypatch.setattr(paths, "harness", lambda: tmp_path)
    failed = call("show", NAME)
    assert failed.exit_code == 1
    assert f"experiments/{NAME}.toml: sampling.repeats: must be a whole number" in failed.stderr


# Running


def test_run__up_measure_draw_down(
    bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "write_figures", WRITE_FIGURES)
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    assert bed.history == ["up", "down"]
    assert "4 trials" in done.stderr
    assert "[4/4] megapipe" in done.stderr
    assert "MegaPipe PBL" in done.stdout
    assert "×1." in done.stdout
    assert "same direction" in done.stdout
    assert (tmp_path / "local" / "tables" / f"{NAME}.csv").exists()
    assert (tmp_path / "local" / "figures" / f"{NAME}-throughput.svg").exists()


def test_run__leaves_a_testbed_up_that_was(bed: FakeBed, tmp_path: Path) -> None:
    bed.state = "up"
    assert call("run", NAME, "--scale", "smoke", "--results", str(tmp_path)).exit_code == 0
    assert "down" not in bed.history


def test_run__keep_up(bed: FakeBed, tmp_path: Path) -> None:
    words = ["run", NAME, "--scale", "smoke", "--results", str(tmp_path), "--keep-up"]
    assert call(*words).exit_code == 0
    assert bed.history == ["up"]


def test_run__remove_is_about_real_machines(bed: FakeBed, tmp_path: Path) -> None:
    words = ["run", NAME, "--scale", "smoke", "--results", str(tmp_path), "--remove"]
    bed.state = "up"
    assert call(*words).exit_code == 0
    assert bed.history == ["up"]
    bed.kind = "ssh"
    assert call(*words, "--fresh").exit_code == 0
    assert bed.history[-2:] == ["down", "remove"]


def test_run__what_is_left_out_on_real_machines_takes_no_time(bed: FakeBed) -> None:
    both = [NAME, "pingpong-contention"]
    assert "69 trials" in call("run", *both, "--dry-run").stderr
    bed.kind = "ssh"
    done = call("run", *both, "--dry-run")
    assert "48 trials" in done.stderr
    assert "left out: pingpong-contention: cache lines are counted" in done.stderr


def test_run__json(bed: FakeBed, tmp_path: Path) -> None:
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path), "--json")
    said = json.loads(done.stdout)
    assert said["ok"] == 4
    assert said["failed"] == []
    assert said["claims"][0]["verdict"] == "same direction"
    assert Path(said["runs"][NAME]).is_dir()


def test_run__only_one_point(bed: FakeBed, tmp_path: Path) -> None:
    words = ["--only", "system=megapipe", "--only", "transactions_per_connection=2"]
    done = call("run", NAME, "--results", str(tmp_path), "--json", *words)
    assert json.loads(done.stdout)["ok"] == 3


def test_run__all_when_none_is_named(bed: FakeBed, tmp_path: Path) -> None:
    done = call("run", "--scale", "smoke", "--results", str(tmp_path), "--json")
    assert set(json.loads(done.stdout)["runs"]) == {one.id for one in all_experiments()}


def test_run__dry_run_starts_nothing(bed: FakeBed, tmp_path: Path) -> None:
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path), "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.count("megabench-load --target 198.18.0.2:") == 4
    assert bed.history == []
    assert list(tmp_path.iterdir()) == []


def test_run__a_failed_point_is_1(
    bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(bed: Any, trial: Any, number: int, folder: Path) -> Measured:
        if trial.system == "megapipe":
            raise CommandError(["pingpong-server"], 1, "port 9001 is in use")
        return synthetic.formula(bed, trial, number, folder)

    measuring(monkeypatch, measure)
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path))
    assert done.exit_code == 1
    assert "failed: " in done.stderr
    assert bed.history == ["up", "down"]
    assert "MegaPipe PB" in done.stdout


def test_run__what_this_machine_cannot_is_77(
    bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(bed: Any, trial: Any, number: int, folder: Path) -> Measured:
        if trial.system != "epoll":
            raise CommandError(["pingpong-server"], 77, "no /dev/megapipe")
        return synthetic.formula(bed, trial, number, folder)

    measuring(monkeypatch, measure)
    assert call("run", NAME, "--scale", "smoke", "--results", str(tmp_path)).exit_code == 77


def test_run__testbed_does_not_come_up(
    bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def up() -> None:
        raise TestbedError("the virtual machine ended; the last its console said:\nKernel panic")

    monkeypatch.setattr(bed, "up", up)
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path))
    assert done.exit_code == 1
    assert "Kernel panic" in done.stderr
    assert bed.history == ["down"]
    assert not (tmp_path / "local").exists()


def test_run__no_kernel_says_which_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(apps, "require_built", lambda names: None)
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path))
    assert done.exit_code == 1
    assert "no kernel at" in done.stderr
    assert "make -C kernel-patch" in done.stderr


def test_run__unknown_testbed(tmp_path: Path) -> None:
    done = call("run", NAME, "--testbed", "clsuter", "--results", str(tmp_path))
    assert done.exit_code == 1
    assert "no testbed 'clsuter'" in done.stderr
    assert "cluster-example" in done.stderr


def test_run__no_space(bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("Usage", (), {"free": 0})
    monkeypatch.setattr(record.shutil, "disk_usage", lambda path: usage)
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path))
    assert done.exit_code == 1
    assert "no space left" in done.stderr
    assert bed.history == []


def test_run__interrupted_then_resumed(
    bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measure(bed: Any, trial: Any, number: int, folder: Path) -> Measured:
        seen.append(trial.key)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return synthetic.formula(bed, trial, number, folder)

    measuring(monkeypatch, measure)
    words = ["run", NAME, "--scale", "smoke", "--results", str(tmp_path)]
    broken = call(*words)
    assert broken.exit_code == 1
    assert "interrupted" in broken.stderr
    assert bed.history == ["up", "down"]
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    assert "2 of 4 trials are on disk already" in done.stderr
    assert len(seen) == 5
    assert len(list((tmp_path / "local" / "raw" / NAME).iterdir())) == 1


SLOW = """
import sys, time
sys.path[:0] = {path!r}
import synthetic
from fakes import FakeBed
from megabench import apps, cli, run
class Bed(FakeBed):
    def down(self):
        time.sleep(0.3)
        print("stopped", flush=True)
def measure(bed, trial, number, folder):
    print("measuring", flush=True)
    time.sleep(0.2 if number < 3 else 60)
    return synthetic.formula(bed, trial, number, folder)
cli.load_testbed = lambda name, accel=None: Bed()
apps.deploy = lambda bed, names: []
apps.require_built = lambda names: None
run.Session.__init__.__kwdefaults__.update(measure_trial=measure, confine=lambda *confined: None)
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run__a_real_signal(tmp_path: Path, number: signal.Signals) -> None:
    here = [str(Path(__file__).parent), str(paths.HARNESS)]
    words = ["run", NAME, "--scale", "smoke", "--results", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(path=here), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MEGABENCH_BUILD": str(tmp_path / "build")},
    )
    assert process.stdout is not None
    try:
        for _ in range(3):
            assert process.stdout.readline() == "measuring\n"
        process.send_signal(number)
        # Impatient: the second one comes while the testbed is being stopped.
        time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "stopped" in out
    assert "interrupted" in err
    assert "Traceback" not in err
    (path,) = (tmp_path / "local" / "raw" / NAME).iterdir()
    assert len(record.read_points(path)) == 2
    assert record.read_meta(path)["status"] == "interrupted"


def test_run__kvm_counts_in_a_second_pass(
    bed: FakeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = FakeBed()
    emulated.counter_file = tmp_path / "counters"
    bed.accel = "kvm"
    monkeypatch.setattr(
        cli, "load_testbed", lambda name, accel=None: emulated if accel == "tcg" else bed
    )
    done = call("run", NAME, "--scale", "smoke", "--results", str(tmp_path), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 8
    assert emulated.history == ["up", "down"]
    (path,) = (tmp_path / "local" / "raw" / NAME).iterdir()
    assert {point["pass"] for point in record.read_points(path)} == {"main", "instructions"}


# Testbed


def test_up_deploy_shell_down(bed: FakeBed) -> None:
    for verb in ("up", "deploy", "shell", "down"):
        assert call(verb).exit_code == 0
    assert bed.history == ["up", "attach", "attach", "down"]


@pytest.mark.parametrize("verb", ["up", "deploy", "down"])
def test_dry_run__touches_nothing(bed: FakeBed, verb: str) -> None:
    done = call(verb, "--dry-run")
    assert done.exit_code == 0
    assert done.stdout
    assert bed.history == []


def test_check__says_what_is_missing(bed: FakeBed) -> None:
    done = call("check")
    assert done.exit_code == 1
    assert "make apps" in done.stdout
    found = json.loads(call("check", "--json").stdout)
    assert {"what", "ok", "said", "level"} == set(found[0])


def test_check__all_is_there(bed: FakeBed) -> None:
    folder = paths.build() / "bin"
    folder.mkdir(parents=True)
    for name, app in apps.APPS.items():
        for program in (*app.programs(name), app.load):
            (folder / program).write_text("")
    assert call("check").exit_code == 0


# Results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    synthetic.write(folder, [NAME, "pingpong-speedup"], "smoke")
    return folder


def test_table__prints_one(results: Path) -> None:
    done = call("table", NAME, "--results", str(results))
    assert done.exit_code == 0
    assert done.stdout.startswith("experiment,system,")
    assert done.stdout == (results / "local" / "tables" / f"{NAME}.csv").read_text()
    rows = json.loads(call("table", NAME, "--results", str(results), "--json").stdout)[NAME]
    assert rows[0]["metric"] == "throughput"


def test_plot__names_its_files(results: Path) -> None:
    done = call("plot", "--results", str(results))
    assert done.exit_code == 0
    assert all(Path(line).exists() for line in done.stdout.split())


def test_report__ends_with_its_path(results: Path) -> None:
    done = call("report", "--results", str(results))
    assert done.exit_code == 0
    assert Path(done.stdout.strip()) == results / "local" / "report.html"
    assert (results / "README.md").exists()


@pytest.fixture
def measured_later(bed: FakeBed, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that `contention` and `profile` would have carried out."""
    plans: list[Any] = []

    def lines(request: run.Request, planned: Any, testbed: str) -> run.Outcome:
        plans.append(planned)
        return run.Outcome()

    def everything(bed: Any, request: Any, planned: Any, testbed: str, up: bool) -> run.Outcome:
        plans.append(planned)
        return run.Outcome()

    monkeypatch.setattr(cli, "measure_lines", lines)
    monkeypatch.setattr(cli, "measure_all", everything)
    monkeypatch.setattr(cli, "show_lines", lambda *given: None)
    return plans


def cells_of(planned: Any) -> set[tuple[Any, ...]]:
    names = ("transactions_per_connection", "system")
    return {tuple(trial.cell[name] for name in names) for trial in planned.trials}


def without(run_path: Path, length: int) -> None:
    """A run without the points of one length."""
    path = run_path / record.POINTS
    lines = path.read_text().splitlines(keepends=True)
    kept = [
        one for one in lines if json.loads(one)["cell"]["transactions_per_connection"] != length
    ]
    assert len(kept) < len(lines)
    path.write_text("".join(kept))


def test_contention__measures_what_is_not_measured(
    measured_later: list[Any], tmp_path: Path
) -> None:
    name = "pingpong-contention"
    outcome = synthetic.write(tmp_path, [name], "quick")
    assert call("contention", name, "--results", str(tmp_path)).exit_code == 0
    assert measured_later == []
    without(outcome.runs[name], 8)
    for words in (["--only", "transactions_per_connection=1"], []):
        done = call("contention", name, "--results", str(tmp_path), *words)
        assert done.exit_code == 0, done.output
    (planned,) = measured_later
    whole = make_plan([load_experiment(name)], "quick")
    assert cells_of(planned) == {cell for cell in cells_of(whole) if cell[0] == 8}


def test_contention__a_longer_only_is_measured(measured_later: list[Any], tmp_path: Path) -> None:
    name = "pingpong-contention"
    synthetic.write(tmp_path, [name], "quick")
    argv = ["contention", name, "--results", str(tmp_path)]
    assert call(*argv, "--only", "transactions_per_connection=2").exit_code == 0
    (planned,) = measured_later
    assert {length for length, _ in cells_of(planned)} == {2}


@pytest.mark.parametrize("key", ["binaries", "sampling"])
def test_contention__not_beside_what_is_unlike(
    measured_later: list[Any], tmp_path: Path, key: str
) -> None:
    """A table of the new points alone would hide those of before."""
    name = "pingpong-contention"
    outcome = synthetic.write(tmp_path, [name], "quick")
    without(outcome.runs[name], 8)
    meta = record.read_meta(outcome.runs[name])
    other = {"binaries": {"a": "1"}, "sampling": {**meta["sampling"], "measure_s": 60.0}}
    record.write_json(outcome.runs[name] / record.META, {**meta, key: other[key]})
    done = call("contention", name, "--results", str(tmp_path))
    assert f"what is measured differs in {key}" in done.stderr
    whole = make_plan([load_experiment(name)], "quick")
    assert cells_of(measured_later[0]) == cells_of(whole)


def test_profile__measures_the_points_that_are_missing(
    measured_later: list[Any], tmp_path: Path
) -> None:
    name = "pingpong-peers"
    outcome = synthetic.write(tmp_path, [name], "quick")
    raw = table.load_raw(tmp_path, "local", name)
    for point in raw.points:
        record.write_json(profile.functions_path(point, raw, tmp_path, "local"), {"tcp_ack": 10.0})
    argv = ["profile", name, "--results", str(tmp_path), "--json"]
    assert call(*argv).exit_code == 0
    assert measured_later == []
    without(outcome.runs[name], 128)
    assert call(*argv).exit_code == 0
    (planned,) = measured_later
    whole = make_plan([load_experiment(name)], "quick", cores=8)
    assert cells_of(planned) == {cell for cell in cells_of(whole) if cell[0] == 128}


def test_report__of_nothing(tmp_path: Path) -> None:
    done = call("report", "--results", str(tmp_path))
    assert done.exit_code == 1
    assert "measure first: megabench run" in done.stderr


def test_compare__with_the_paper_and_with_others(results: Path, tmp_path: Path) -> None:
    done = call("compare", NAME, "--results", str(results))
    assert done.exit_code == 0
    assert "6.82 [A]" in done.stdout
    synthetic.write(tmp_path, [NAME], "smoke")
    done = call("compare", NAME, "--results", str(results), "--with", str(tmp_path))
    assert done.exit_code == 0
    assert "~" in done.stdout


def test_compare__two_runs(bed: FakeBed, tmp_path: Path) -> None:
    folders = []
    for name, can_scale in (("a", False), ("b", True)):
        where = tmp_path / name
        synthetic.write(
            where, ["pingpong-contribution"], "quick", synthetic.SyntheticBed(can_scale=can_scale)
        )
        folders += [str(path) for path in where.glob("local/raw/*/*")]
    done = call("compare", *folders)
    assert done.exit_code == 0, done.output
    assert "b / a" in done.stdout
    assert "likely" in done.stdout
    found = json.loads(call("compare", folders[0], folders[0], "--json").stdout)
    assert not any(row["more_than_noise"] for row in found)
    assert {row["ratio"]["median"] for row in found} == {1.0}


def test_compare__unlike_runs_are_refused(bed: FakeBed, tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-contribution", "pingpong-speedup"], "quick")
    folders = sorted(str(path) for path in tmp_path.glob("local/raw/*/*"))
    done = call("compare", *folders)
    assert done.exit_code == 2
    assert "cannot be compared" in done.output
