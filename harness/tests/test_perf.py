# SPDX-License-Identifier: MIT
"""perf's samples: read, added up, and taken of this machine where perf can."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeBed, FakeHost, final, result

from megabench import measure, perf
from megabench.experiment import load_experiment
from megabench.host import Completed, LocalHost
from megabench.plan import make_plan

SAID = """\
   1000003 instructions:k:  ffffffff81a8add4 tcp_ack
   1000003 instructions:u:      557bf41514dd main
   1000003 instructions:k:  ffffffff81a8adff tcp_ack.isra.0
   1000003 instructions:u:      7f3c5374fa43 [unknown]
   1000003 instructions:k:  ffffffff81797b05 native_queued_spin_lock_slowpath
   1000003 instructions:k:  ffffffffc0000000 [unknown]
"""


def can_sample() -> bool:
    """Whether perf may sample all CPUs here, be it by the clock."""
    argv = ["perf", "record", "-a", "-q", "-e", "cpu-clock:k", "-o", "/dev/null", "true"]
    return bool(shutil.which("perf")) and not subprocess.run(argv, check=False).returncode


def test_parse__by_function() -> None:
    samples = perf.parse(SAID)
    assert samples.user == 2 * 1000003
    assert samples.functions["tcp_ack"] == 2 * 1000003
    assert samples.functions["[other kernel]"] == 1000003


def test_parse__nothing() -> None:
    with pytest.raises(perf.PerfError, match="no samples"):
        perf.parse("\n")


def test_summary__waiting_is_apart() -> None:
    metrics, functions = perf.parse(SAID).summary(1000003)
    assert metrics["instructions"] == 5
    assert metrics["instructions_user"] == 2
    assert metrics["instructions_spin"] == 1
    assert functions == {"tcp_ack": 2, "[other kernel]": 1}


def test_measure__a_real_machine_is_sampled_when_asked_for(tmp_path: Path) -> None:
    bed = FakeBed()
    bed.kind, bed.sampled = "ssh", True  # type: ignore[attr-defined]

    def run(argv: list[str], **how: object) -> Completed:
        done = FakeHost.run(bed.server, argv, timeout=1)
        return replace(done, stdout=SAID) if argv[:2] == ["perf", "script"] else done

    bed.server.run = run  # type: ignore[assignment, method-assign]
    bed.server.program = lambda argv: [] if argv[0] == "perf" else [{"event": "ready"}, final()]
    bed.clients[0].program = lambda argv: [result(transactions=1000003)]
    trial = make_plan([load_experiment("pingpong-contribution")], "smoke").trials[0]
    got = measure.measure(bed, trial, 1, tmp_path)
    assert got.metrics["instructions"] == pytest.approx(5, rel=0.01)
    assert '"tcp_ack": 2.0' in (tmp_path / "functions.json").read_text()


@pytest.mark.skipif(not can_sample(), reason="perf cannot sample this machine")
def test_record__of_this_machine_by_the_clock(tmp_path: Path) -> None:
    host = LocalHost()
    sampler = perf.start(host, tmp_path / "perf.log", event="cpu-clock", period=100_000)
    host.run(["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"], timeout=60)
    samples = perf.stop(host, sampler)
    assert samples.user > 0
    assert samples.functions
    assert not Path(perf.FILE).exists()
