# SPDX-License-Identifier: MIT
"""Confining a machine to its first CPUs."""

from typing import Any

import pytest
from fakes import FakeBed

from megabench import cores, tune
from megabench.errors import TestbedError
from megabench.knobs import Tuning


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a machine of eight CPUs, all on line."""
    files = {cores.online_file(cpu): "1" for cpu in range(1, 8)}
    monkeypatch.setattr(
        tune, "read_back", lambda host, paths: {p: files[p] for p in paths if p in files}
    )
    monkeypatch.setattr(tune, "write", lambda host, values: files.update(values))
    return files


def a_bed(whole: int, present: str = "0-7") -> FakeBed:
    bed = FakeBed()
    bed.cores = whole
    bed.server.files = {cores.PRESENT: f"{present}\n"}
    return bed


def on_line(files: dict[str, str]) -> list[int]:
    return [cpu for cpu in range(1, 8) if files[cores.online_file(cpu)] == "1"]


def test_confine__to_two_and_back(machine: dict[str, str]) -> None:
    bed = a_bed(8)
    cores.confine(bed, 2, 2)
    assert on_line(machine) == [1]
    cores.confine(bed, 8, 8)
    assert on_line(machine) == [1, 2, 3, 4, 5, 6, 7]


def test_confine__what_a_killed_run_left_off_line_comes_back(machine: dict[str, str]) -> None:
    machine |= {cores.online_file(cpu): "0" for cpu in range(3, 8)}
    cores.confine(a_bed(8), 6, 6)
    assert on_line(machine) == [1, 2, 3, 4, 5]


def test_confine__one_thread_of_each_core(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four cores whose threads are 0 and 1, 2 and 3 ...: smt = "off" has left the even ones."""

    def write(host: Any, values: dict[str, str]) -> None:
        machine.update({p: text for p, text in values.items() if p not in refusing})

    refusing = [cores.online_file(cpu) for cpu in (1, 3, 5, 7)]
    machine |= dict.fromkeys(refusing, "0")
    monkeypatch.setattr(tune, "write", write)
    bed = a_bed(4)
    cores.confine(bed, 4, 4)
    assert on_line(machine) == [2, 4, 6]
    cores.confine(bed, 3, 3)
    assert on_line(machine) == [2, 4]
    cores.confine(bed, 4, 4)
    assert on_line(machine) == [2, 4, 6]


def test_confine__fewer_than_the_testbed_says(machine: dict[str, str]) -> None:
    with pytest.raises(TestbedError, match="to 8 of 8 CPUs: only 4 can be on line"):
        cores.confine(a_bed(8, "0-3"), 8, 8)


def test_confine__spreads_packets_over_those_left(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Any] = []
    monkeypatch.setattr(
        tune,
        "apply",
        lambda server, tuning, cores, receiving: applied.append((server, tuning, cores, receiving)),
    )
    bed = a_bed(8)
    spread = Tuning(rps="all")
    bed.tunings = lambda: [("server", spread), ("client", "other")]  # type: ignore[method-assign]
    cores.confine(bed, 4, 4)
    cores.confine(bed, 8, 2)
    assert applied == [("server", spread, 4, 4), ("server", spread, 8, 2)]


def test_confine__packets_that_nobody_steers(machine: dict[str, str]) -> None:
    bed = a_bed(8)
    bed.tunings = lambda: [("server", Tuning(rps="off"))]  # type: ignore[method-assign]
    with pytest.raises(TestbedError, match="cannot be spread over 2 of 8 CPUs") as caught:
        cores.confine(bed, 8, 2)
    assert "--only receiving_cpus=8" in caught.value.hint


def test_confine__without_hotplug(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "write", lambda host, values: None)
    with pytest.raises(TestbedError, match="cannot confine it to 1 of 8 CPUs") as caught:
        cores.confine(a_bed(8), 1, 1)
    assert "--only cores=8" in caught.value.hint
