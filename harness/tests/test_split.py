# SPDX-License-Identifier: MIT
"""One machine, its cores split between server and load, each in a network namespace.

here: megabench --> server (core 0) eth0 --veth-- mb0 load (core 1)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import lab
import pytest
from test_lab import root, whole  # noqa: F401 - fixtures

from megabench import paths
from megabench.errors import DefinitionError
from megabench.knobs import Tuning
from megabench.split import SplitTestbed
from megabench.state import processes_with
from megabench.testbed import Testbed

EXAMPLE = paths.HARNESS / "testbeds/namespaces-example.toml"
lab_only = [
    pytest.mark.lab,
    pytest.mark.skipif(bool(lab.available()), reason=lab.available() or "-"),
    pytest.mark.skipif(lab.CORES < 2, reason="needs two cores"),
]


def on_host(test):  # type: ignore[no-untyped-def]
    for mark in lab_only:
        test = mark(test)
    return test


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.usefixtures("eight_cores")
def test_load__the_example() -> None:
    bed = Testbed.load(str(EXAMPLE))
    assert isinstance(bed, SplitTestbed)
    assert (bed.cores, bed.client_threads, bed.can_scale) == (4, [4], True)
    assert bed.server_address == "198.18.0.2"
    assert bed.tuning["client"].cpus == (4, 5, 6, 7)
    assert isinstance(bed.tuning["server"], Tuning)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"4-7"', '"3-7"', r"client\.host_cores: core 3 is the server's too"),
        ('host_cores = "4-7"', "", r"client\.host_cores: is missing"),
        ('"0-3"', '"1-3"', r"server\.host_cores: must be the machine's first"),
    ],
)
def test_load__cores_that_cannot_be(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(EXAMPLE.read_text().replace(old, new, 1))
    with pytest.raises(DefinitionError, match=problem):
        Testbed.load(str(path))


def megabench(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "megabench", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def bed(whole: Path) -> Path:  # noqa: F811
    """The example, scaled to two cores."""
    text = EXAMPLE.read_text()
    for old, new in (
        ('"0-3"', '"0"'),
        ('"4-7"', '"1"'),
        ('name = "namespaces-example"', 'name = "split-test"'),
    ):
        assert old in text
        text = text.replace(old, new)
    path = whole / "split-test.toml"
    path.write_text(text)
    return path


@on_host
def test_run__from_check_to_report(whole: Path, bed: Path) -> None:  # noqa: F811
    checked = megabench("check", "--testbed", str(bed))
    assert checked.returncode == 0, checked.stdout
    assert "network namespaces are to be had" in " ".join(checked.stdout.split())
    names = ["memcached-throughput", "nginx-throughput"]
    only = ["--only", "system=stock", "--scale", "smoke", "--report"]
    done = megabench("run", *names, *only, "--testbed", str(bed))
    assert done.returncode == 0, done.stderr
    for name in names:
        (raw,) = whole.glob(f"results/split-test/raw/{name}/*/points.jsonl")
        (point,) = [json.loads(line) for line in raw.read_text().splitlines()]
        assert point["status"] == "ok", point
        assert point["metrics"]["throughput"]["value"] > 0
        # Of one core, and not of the load's.
        served = point["metrics"]["throughput"]["value"]
        assert point["metrics"]["server_cpu"]["value"] * served < 1.5e6
    facts = json.loads((raw.parent / "meta.json").read_text())["testbed"]["facts"]
    assert facts["host_cores"] == {"server": [0], "client": [1]}
    queues = "/sys/class/net/eth0/queues"
    assert facts["tuning"]["server"][f"{queues}/rx-0/rps_cpus"] == "1"
    assert facts["tuning"]["client"]["/sys/class/net/mb0/queues/rx-0/rps_cpus"] == "2"
    assert "half of them the server's" in (whole / "results/split-test/report.html").read_text()
    assert not (paths.build() / "state/split-test.json").exists()


@on_host
def test_up__stays_until_down(bed: Path) -> None:
    assert megabench("up", "--testbed", str(bed)).returncode == 0
    token = json.loads((paths.build() / "state/split-test.json").read_text())["token"]
    assert len(processes_with(token)) == 2
    assert megabench("down", "--testbed", str(bed)).returncode == 0
    assert processes_with(token) == []
