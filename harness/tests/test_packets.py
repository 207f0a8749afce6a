# SPDX-License-Identifier: MIT
"""Segments counted on the loopback, where every one is known.

megabench-load --- lo (megabench-packets) --- pingpong-server
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBed, load
from programs import BIN, Load, Program, Server, build, has_ipv6, server

from megabench import measure, packets
from megabench.errors import CommandError
from megabench.experiment import load_experiment
from megabench.plan import Trial, make_plan

COUNT = 400
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="captures need root")


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    build("harness/load", "apps/pingpong")


@contextmanager
def capture(running: Server, file: Path) -> Iterator[None]:
    argv = [str(BIN / packets.PROGRAM), "lo", str(running.ready["port"]), str(file)]
    program = Program(argv)
    try:
        program.event("ready")
        yield
        program.signal(signal.SIGTERM)
        assert program.event("final") == {"event": "final", "lost": 0}
        assert program.end() == (0, "")
    finally:
        program.process.kill()
        program.process.wait()


def counted(tmp_path: Path, *options: str, transactions: int = 1, size: int = 64) -> dict[str, Any]:
    """Segments per connection of a server with `options`."""
    file = tmp_path / "packets"
    with server("--size", str(size), *options) as running, capture(running, file):
        done = Load(
            *("--target", running.target, "--connections", "1", "--size", str(size)),
            *("--transactions", str(transactions), "--count", str(COUNT * transactions)),
        )
        assert done.errors == {}
        connections = done.result["connections"]
    return packets.by_name(list(packets.read(file)), connections)


@pytest.fixture(params=["epoll", "io_uring"])
def api(request: pytest.FixtureRequest) -> tuple[str, ...]:
    try:
        Server("--api", request.param).process.kill()
    except AssertionError:
        pytest.skip(f"this machine has no {request.param}")
    return ("--api", request.param)


@as_root
def test_capture__of_a_connection_that_the_client_ends(
    api: tuple[str, ...], tmp_path: Path
) -> None:
    each = counted(tmp_path, *api)
    for side in packets.DIRECTIONS:
        assert each[f"segments_{side}_syn"] == 1
        assert each[f"segments_{side}_data"] == each[f"segments_{side}_psh"] == 1
        assert each[f"segments_{side}_fin"] == 1
        assert each[f"segments_{side}_data_fin"] == each[f"segments_{side}_rst"] == 0
    assert each["segments"] == each["segments_out"] + each["segments_in"]


@as_root
@pytest.mark.parametrize("transactions", [1, 5])
def test_capture__fin_with_the_last_data(
    api: tuple[str, ...], transactions: int, tmp_path: Path
) -> None:
    ends = ("--messages", str(transactions))
    apart = counted(tmp_path, *api, *ends, transactions=transactions)
    assert apart["segments_out_data"] == transactions
    assert apart["segments_out_fin"] == 1
    assert apart["segments_out_data_fin"] == 0
    with_data = counted(tmp_path, *api, *ends, "--fin-with-data", transactions=transactions)
    assert with_data["segments_out_data"] == transactions
    assert with_data["segments_out_fin"] == 0
    assert with_data["segments_out_data_fin"] == 1
    assert with_data["segments"] < apart["segments"]


@as_root
@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
def test_capture__ipv6(tmp_path: Path) -> None:
    each = counted(tmp_path, "--address", "::1", size=100)
    assert each["segments_out_data"] == each["segments_in_data"] == 1
    assert each["segments_out_syn"] == 1


@as_root
def test_capture__of_no_other_port(tmp_path: Path) -> None:
    file = tmp_path / "packets"
    with server() as watched, server() as other, capture(watched, file):
        Load("--target", other.target, "--count", "50")
    assert set(packets.read(file)) == {0}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["lo", "0", "x"], 2), (["lo", "9000"], 2), (["no-such-interface", "9000", "x"], 1)],
)
def test_usage(arguments: list[str], status: int, tmp_path: Path) -> None:
    said, text = Program([str(BIN / packets.PROGRAM), *arguments]).end()
    assert said == status
    assert text


# What a trial makes of it


@pytest.fixture
def trial() -> Trial:
    return make_plan([load_experiment("pingpong-packets")], "smoke").trials[0]


WORDS = packets.WORDS.size // 8


def capturing(logs: Path, lost: int = 0) -> FakeBed:
    """A bed whose capture sees 16 segments of each kind in the window of 4,000 transactions."""
    bed = FakeBed()
    bed.capture_on = "mb0"

    def program(argv: Any) -> list[Any]:
        if argv[0].endswith(packets.PROGRAM):
            assert argv[1:3] == ["mb0", "9001"]
            Path(argv[3]).write_bytes(bytes(packets.WORDS.size))
            return [{"event": "ready"}, {"event": "final", "lost": lost}]
        assert f"{logs / packets.LIVE}:{logs / packets.COPIES}" in argv
        (logs / "packets.begin").write_bytes(packets.WORDS.pack(*[5] * WORDS))
        (logs / "packets.end").write_bytes(packets.WORDS.pack(*[21] * WORDS))
        return list(load(argv))

    bed.clients[0].program = program
    return bed


def test_measure__captures(trial: Trial, tmp_path: Path) -> None:
    assert trial.capture
    got = measure.measure(capturing(tmp_path), trial, 1, tmp_path)
    served = sum(result["transactions"] for result in got.load)
    assert got.metrics["segments_out_psh"] == 16 / served
    assert got.metrics["segments"] == 160 / served
    assert got.with_units()["segments_in_fin"]["unit"] == "per transaction"
    assert not list(tmp_path.glob("packets.[!l]*"))
    assert got.notes == []


def test_measure__capture_that_missed_some(trial: Trial, tmp_path: Path) -> None:
    got = measure.measure(capturing(tmp_path, lost=3), trial, 1, tmp_path)
    assert got.notes == ["the capture missed 3 segments"]


def test_measure__no_capture_where_none_is_wanted_or_possible(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    assert "segments" not in measure.measure(bed, trial, 1, tmp_path / "1").metrics
    bed.capture_on = "mb0"
    plain = replace(trial, capture=False)
    assert "segments" not in measure.measure(bed, plain, 1, tmp_path / "2").metrics
    assert len(bed.clients[0].started) == 2


def test_plan__a_shared_trial_is_captured_if_one_wants_it() -> None:
    names = ["pingpong-peers", "pingpong-packets"]
    trials = make_plan([load_experiment(name) for name in names], "smoke").trials
    shared = [trial for trial in trials if len(trial.experiments) == 2]
    assert shared
    assert all(trial.capture == ("pingpong-packets" in trial.experiments) for trial in trials)


def test_read__cut_off(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123")
    with pytest.raises(CommandError, match="3 bytes"):
        packets.read(tmp_path / "x")
