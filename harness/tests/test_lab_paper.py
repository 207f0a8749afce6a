# SPDX-License-Identifier: MIT
"""Every experiment of the paper over SSH (lab.py), from one command to the report.

Slow, so in `make test-deploy`. The kernel here is none of ours: MegaPipe's systems must be refused
by name, and cost nobody else anything.
"""

import json
import os
from pathlib import Path

import lab
import pytest
from test_lab import inventory, machines, root, untouched, whole  # noqa: F401 - fixtures

from megabench.experiment import load_experiment
from megabench.plan import make_plan
from megabench.system import look

pytestmark = [
    pytest.mark.lab,
    pytest.mark.deploy,
    pytest.mark.skipif(not os.environ.get("TEST_DEPLOY"), reason="slow: make test-deploy"),
    pytest.mark.skipif(bool(lab.available()), reason=lab.available() or "-"),
]

PAPER = (
    "motivation-cores", "motivation-length", "motivation-size", "pingpong-speedup",
    "pingpong-improvement", "pingpong-contribution", "accept-rate", "memcached-cores",
    "memcached-throughput", "memcached-latency", "nginx-connlen", "nginx-throughput",
)  # fmt: skip


def test_run__every_experiment_of_the_paper(
    machines: lab.Lab,  # noqa: F811
    whole: Path,  # noqa: F811
) -> None:
    path = inventory(machines, whole)
    options = ["--scale", "smoke", "--report", "--testbed", str(path)]
    done = machines.megabench("run", *PAPER, *options, timeout=1500)
    # 77: all that failed needs what this kernel has not.
    assert done.returncode == 77, done.stderr[-5000:]
    assert "trials" in done.stderr
    assert "on lab, once it is up" in done.stderr
    page = (whole / "results/lab/report.html").read_text()
    for name in PAPER:
        experiment = load_experiment(name)
        due = {t.key: t.system for t in make_plan([experiment], "smoke", cores=lab.CORES).trials}
        assert due
        (raw,) = whole.glob(f"results/lab/raw/{name}/*/points.jsonl")
        points = {p["trial"]: p for p in map(json.loads, raw.read_text().splitlines())}
        assert points.keys() == due.keys()
        for key, system in due.items():
            if look(system).needs and not Path("/dev/megapipe").exists():
                assert points[key]["status"] == "failed"
                said = "`test -e /dev/megapipe` on server fails"
                assert f"{said}: {system} needs it" in points[key]["reason"]
            else:
                assert points[key]["status"] == "ok", points[key]
                assert points[key]["metrics"]["throughput"]["value"] > 0
        assert experiment.title in page
    assert machines.megabench("down", "--testbed", str(path)).returncode == 0
    assert untouched(machines)
