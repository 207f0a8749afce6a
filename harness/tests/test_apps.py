# SPDX-License-Identifier: MIT
"""Command lines, and programs that speak JSON lines."""

import os
import signal
from pathlib import Path

import pytest
from fakes import FakeBed, FakeHost, FakeProcess, final

from megabench import apps
from megabench.errors import CommandError, CommandTimeoutError, HarnessError
from megabench.experiment import Sampling
from megabench.host import LocalHost

CELL = {
    "system": "megapipe-P",
    "cores": 2,
    "connections": 10,
    "size": 64,
    "transactions_per_connection": 8,
}
SAMPLING = Sampling(3, 1.5, 4.0, "interleaved", "closed")


def test_server_argv__flags_of_the_system_then_of_the_cell() -> None:
    argv = apps.server_argv("pingpong", CELL, "198.18.0.2", 9001, "/there")
    assert " ".join(argv) == (
        "/there/pingpong-server --api megapipe --batch 1 --no-lwsocket --threads 2 "
        "--size 64 --address 198.18.0.2 --port 9001"
    )


@pytest.mark.parametrize(
    ("cell", "flags"),
    [
        ({"fin": "client-first"}, ""),
        ({"fin": "server-first"}, " --messages 8"),
        ({"fin": "with-data"}, " --fin-with-data --messages 8"),
        ({"batch": 16}, " --batch 16"),
        ({"slow_work": 500}, " --slow-work 500"),
    ],
)
def test_server_argv__of_cells_that_vary_it(cell: dict[str, int | str], flags: str) -> None:
    one = {**CELL, "system": "io_uring", **cell}
    argv = " ".join(apps.server_argv("pingpong", one, "198.18.0.2", 9001, "/there"))
    assert f"--size 64{flags} --address" in argv


def test_load_argv__windows_and_snapshots() -> None:
    argv = apps.load_argv(
        "pingpong",
        CELL,
        SAMPLING,
        "fd6d::2",
        9001,
        connections=10,
        threads=1,
        seed=7,
        snapshots={"/counters": "/logs/counters"},
        remote_dir="/there",
    )
    assert " ".join(argv) == (
        "/there/megabench-load --target [fd6d::2]:9001 --workload pingpong --transactions 8 "
        "--size 64 --connections 10 --threads 1 --warmup 1.5 --duration 4 --deadline 35.5 "
        "--seed 7 --snapshot /counters:/logs/counters"
    )


def test_app__unknown() -> None:
    with pytest.raises(HarnessError, match="unknown app: apache"):
        apps.app("apache")


@pytest.mark.parametrize(
    ("total", "parts", "shares"), [(10, 3, [4, 3, 3]), (8, 1, [8]), (2, 4, [1, 1])]
)
def test_share__evenly(total: int, parts: int, shares: list[int]) -> None:
    assert apps.share(total, parts) == shares


def program(lines: list[object], tmp_path: Path, status: int = 0) -> apps.Program:
    made = FakeProcess(["server"], lines, tmp_path / "log", status)
    return apps.Program(FakeHost("server", lambda argv: made), ["server"], tmp_path / "log")


def test_wait_for__skips_what_is_not_it(tmp_path: Path) -> None:
    with program(["hello", "{broken", "[1]", {"event": "ready", "port": 1}], tmp_path) as server:
        assert server.wait_for("ready", 1)["port"] == 1


def test_wait_for__silence_is_an_error(tmp_path: Path) -> None:
    with program(["silence"], tmp_path) as server, pytest.raises(CommandTimeoutError):
        server.wait_for("ready", 1)
    assert server.process.killed


def test_wait_for__ended_tells_its_status(tmp_path: Path) -> None:
    with (
        program([], tmp_path, 77) as server,
        pytest.raises(CommandError, match="ended with status 77") as caught,
    ):
        server.wait_for("ready", 1)
    assert caught.value.exit_status == 77
    assert "its last words" in caught.value.message


def test_stop__asks_first(tmp_path: Path) -> None:
    with program([final(2, 5)], tmp_path) as server:
        assert server.stop()["threads"][1]["transactions"] == 5
    assert server.process.signals == ["TERM"]
    assert not server.process.killed


def test_program__interrupted_is_killed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), program([KeyboardInterrupt], tmp_path) as server:
        server.wait_for("ready", 1)
    assert server.process.killed


def test_program__a_second_interrupt_waits_for_the_kill(tmp_path: Path) -> None:
    one = program([], tmp_path)
    with pytest.raises(KeyboardInterrupt), one:
        kill = one.process.kill

        def slow_kill() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            kill()

        one.process.kill = slow_kill  # type: ignore[method-assign]
    assert one.process.killed


def test_deploy__only_to_other_machines_and_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path))
    bed = FakeBed()
    bed.clients = [LocalHost("client")]  # type: ignore[list-item]
    with pytest.raises(HarnessError, match="pingpong-server") as caught:
        apps.deploy(bed, ["pingpong"])
    assert "make apps" in caught.value.hint
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pingpong-server").write_text("#!")
    assert apps.deploy(bed, ["pingpong"]) == ["server:/run/megabench/bin/pingpong-server"]
    assert bed.server.put_files == ["/run/megabench/bin/pingpong-server"]


def test_undeploy__real_machines_alone() -> None:
    bed = FakeBed()
    apps.undeploy(bed)
    assert bed.server.ran == []
    bed.kind = "ssh"
    apps.undeploy(bed)
    assert bed.server.ran == [["rm", "-rf", "/tmp/megabench"]]


def test_require_built__names_program_and_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path))
    with pytest.raises(HarnessError, match="bin/memcached-stock") as caught:
        apps.require_built(["memcached"])
    assert caught.value.hint == "make memcached"
    (tmp_path / "bin").mkdir()
    for program in ("memcached-stock", "memcached-megapipe", "megabench-load"):
        (tmp_path / "bin" / program).write_text("")
    apps.require_built(["memcached"])
