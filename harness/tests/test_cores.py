# SPDX-License-Identifier: MIT
"""Confining a machine to its first CPUs."""

from typing import Any

import pytest
from fakes import FakeBed

from megabench import cores, tune
from megabench.errors import TestbedError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a machine of eight CPUs, all on line."""
    files = cores.online_files(8, 8)
    monkeypatch.setattr(
        tune, "read_back", lambda host, paths: {p: files[p] for p in paths if p in files}
    )
    monkeypatch.setattr(tune, "write", lambda host, values: files.update(values))
    return files


def test_confine__to_two_and_back(machine: dict[str, str]) -> None:
    cores.confine(FakeBed(), 2)
    assert list(machine.values()) == ["1", *["0"] * 6]
    cores.confine(FakeBed(), 8)
    assert set(machine.values()) == {"1"}


def test_confine__spreads_packets_over_those_left(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Any] = []
    monkeypatch.setattr(tune, "apply", lambda *arguments: applied.append(arguments))
    bed = FakeBed()
    bed.tunings = lambda: [("server", "tuning"), ("client", "other")]  # type: ignore[method-assign]
    cores.confine(bed, 4)
    assert applied == [("server", "tuning", 4)]


def test_confine__without_hotplug(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "write", lambda host, values: None)
    with pytest.raises(TestbedError, match="cannot confine it to 1 of 8 CPUs") as caught:
        cores.confine(FakeBed(), 1)
    assert "--only cores=8" in caught.value.hint
