# SPDX-License-Identifier: MIT
"""The cost ledger: what it compares, and that nothing here has become dearer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megabench import apps, ledger
from megabench.ledger import Compared, Cost, Ledger
from megabench.testbed import Testbed

POINT = "connections=256,cores=8,size=64,system=megapipe,transactions_per_connection=1"
KEPT = Ledger(
    "pingpong-contribution",
    {"transactions_per_connection": (1,), "system": ("megapipe",)},
    {POINT: Cost(1000, 50_000)},
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Cost]]:
    """Fill it with what trials shall cost; it holds what was not measured."""
    costs: list[Cost] = []
    monkeypatch.setattr(ledger, "measure_once", lambda *_: costs.pop(0))
    return costs  # type: ignore[return-value]


def compare(**how: Any) -> Compared:
    (one,) = ledger.compare(None, KEPT, Path(), **how)  # type: ignore[arg-type]
    return one


def test_compare__within_at_once(measured: list[Cost]) -> None:
    measured += [Cost(1019, 53_000), Cost(1, 1)]
    one = compare()
    assert not one.risen
    assert one.trials == 1
    assert ledger.complaint([one]) == ""


def test_compare__the_lowest_of_a_few_counts(measured: list[Cost]) -> None:
    measured += [Cost(1030, 50_000), Cost(1015, 60_000), Cost(1, 1)]
    one = compare()
    assert one.now == Cost(1015, 50_000)
    assert not one.risen
    assert one.trials == 2


def test_compare__a_rise_is_found_and_told(measured: list[Cost]) -> None:
    measured += [Cost(1021, 50_000)] * ledger.MOST_TRIALS
    one = compare()
    assert one.risen
    assert one.trials == ledger.MOST_TRIALS
    assert "megabench ledger --write" in ledger.complaint([one])
    assert "+2.1%" in ledger.complaint([one])


def test_compare__a_rise_outside_of_the_interface(measured: list[Cost]) -> None:
    measured += [Cost(1000, 54_001)] * ledger.MOST_TRIALS
    assert compare().risen


def test_compare__a_point_without_an_entry(measured: list[Cost]) -> None:
    measured += [Cost(900, 50_000)] * 9
    (one,) = ledger.compare(None, Ledger(KEPT.experiment, KEPT.only, {}), Path())  # type: ignore[arg-type]
    assert one.risen


def test_write_ledger__is_read_again(measured: list[Cost], tmp_path: Path) -> None:
    measured += [Cost(1100, 50_500), Cost(1098, 50_600), Cost(1099.6, 50_400)]
    there = tmp_path / "ledger.toml"
    there.write_text(ledger.path().read_text())
    ledger.write_ledger(KEPT, [compare(anew=True)], there)
    again = ledger.read_ledger(there)
    assert again.entries == {POINT: Cost(1100, 50_500)}
    assert again.only == ledger.read_ledger().only


def test_cost__of_the_interface_by_symbol() -> None:
    functions = {"mp_io_read": 20.0, "tcp_ack": 400.0, "sock_sendmsg": 50.0}
    metrics = {"instructions": 700.0, "instructions_user": 140.0}
    assert ledger.cost(metrics, functions) == Cost(210, 700)


def test_ledger__has_an_entry_for_each_point() -> None:
    kept = ledger.read_ledger()
    assert {ledger.cell_key(trial.cell) for trial in kept.trials()} == set(kept.entries)


@pytest.mark.vm
def test_ledger__no_transaction_costs_more_than_stated(testbed: Testbed, tmp_path: Path) -> None:
    if testbed.counter_file is None:
        pytest.skip("instructions are counted only under emulation: ACCEL=tcg, make plugin")
    apps.deploy(testbed, ["pingpong"])
    said = ledger.complaint(ledger.compare(testbed, ledger.read_ledger(), tmp_path))
    assert not said, said
