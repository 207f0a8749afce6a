# SPDX-License-Identifier: MIT
"""Definitions: what is read, and that every mistake names its file and key."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from megabench import paths
from megabench.errors import DefinitionError
from megabench.experiment import (
    SCALES,
    UsageError,
    all_experiments,
    cell_key,
    load_experiment,
    parse_experiment,
    read_experiment,
)

FILES = sorted((paths.HARNESS / "experiments").glob("*.toml"))
SAMPLE = paths.HARNESS / "experiments/pingpong-contribution.toml"


def content() -> dict[str, Any]:
    return copy.deepcopy(tomllib.loads(SAMPLE.read_text()))


def wrong(change: dict[str, Any]) -> str:
    """The message that a changed definition gives; `a.b` reaches inwards, None removes."""
    table = content()
    for dotted, value in change.items():
        *outer, last = dotted.split(".")
        inner: Any = table
        for key in outer:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    with pytest.raises(DefinitionError) as caught:
        parse_experiment(table, Path("some/file.toml"))
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_read_experiment__each_of_the_checkout(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.figures
    # Only a claim that is recalled may stand without a number to hold ours against.
    assert experiment.verdicts or experiment.mark == "R"
    for scale in SCALES:
        assert experiment.cells(scale)


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        ({"title": None}, "title", "is missing"),
        ({"title": 3}, "title", "must be a string"),
        ({"mark": "X"}, "mark", "must be one of A, T, F, R"),
        ({"colour": "red"}, "colour", "is not known here"),
        ({"grid.cores": [1]}, "fixed.cores", "is in the grid as well"),
        ({"grid.transactions_per_connection": []}, "grid.transactions_per_connection", "must be"),
        ({"grid.system": ["epol"]}, "grid.system", "unknown system 'epol'"),
        ({"fixed.size": [1]}, "fixed.size", "must be a number or a string"),
        ({"fixed.connections": None}, "fixed.connections", "is missing"),
        ({"x": "sizes"}, "x", "must be one of"),
        ({"sampling.repeats": 0}, "sampling.repeats", "must be at least 1"),
        ({"sampling.repeats": True}, "sampling.repeats", "must be a whole number"),
        ({"sampling.measure_s": -1}, "sampling.measure_s", "seconds above 0"),
        ({"sampling.order": "random"}, "sampling.order", "must be one of"),
        ({"scale.quick.sampling.repeat": 3}, "scale.quick.sampling.repeat", "is not known here"),
        ({"scale.quick.grid.size": [1]}, "scale.quick.grid.size", "is not in the grid"),
        ({"scale.smoke": None}, "scale.smoke", "is missing"),
        ({"derived.0.kind": "sum"}, "derived[0].kind", "must be one of"),
        ({"derived.0.over": {"core": 1}}, "derived[0].over.core", "is no parameter"),
        ({"figure.0.shape": "pie"}, "figure[0].shape", "must be one of"),
        ({"figure.0.instead": "none"}, "figure[0].instead", "no figure is called"),
        ({"verdict.0.paper": {"where": {}}}, "verdict[0].paper.file", "is missing"),
    ],
)
def test_parse_experiment__names_file_and_key(
    change: dict[str, Any], key: str, problem: str
) -> None:
    message = wrong(change)
    assert message.startswith(f"some/file.toml: {key}: ")
    assert problem in message


def test_parse_experiment__unknown_system_suggests() -> None:
    assert "did you mean epoll?" in wrong({"grid.system": ["epol"]})


def test_read_experiment__not_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("id = [1,\n")
    with pytest.raises(DefinitionError, match=r"broken\.toml: is not TOML"):
        read_experiment(path)


def test_read_experiment__id_is_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(SAMPLE.read_text())
    with pytest.raises(DefinitionError, match=r"id: .* is not the file's name"):
        read_experiment(path)


def test_load_experiment__unknown_suggests() -> None:
    with pytest.raises(UsageError) as caught:
        load_experiment("pingpong-contributions")
    assert "did you mean pingpong-contribution" in caught.value.hint


def test_cells__product_last_fastest() -> None:
    cells = load_experiment("pingpong-contribution").cells("full")
    assert len(cells) == 8 * 4
    assert [cell["system"] for cell in cells[:4]] == [
        "epoll",
        "megapipe-P",
        "megapipe-PB",
        "megapipe",
    ]
    assert {cell["transactions_per_connection"] for cell in cells[:4]} == {1}
    assert all(cell["cores"] == 8 for cell in cells)


def test_cells__only_reaches_beyond_the_scale() -> None:
    experiment = load_experiment("pingpong-contribution")
    length = "transactions_per_connection"
    assert 2 not in experiment.grid_at("quick")[length]
    cells = experiment.cells("quick", {length: (2,), "system": ("epoll",)})
    assert [(cell[length], cell["system"]) for cell in cells] == [(2, "epoll")]


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ({"core": (8,)}, "did you mean cores?"),
        ({"system": ("epol",)}, "values: epoll"),
        ({"cores": (4,)}, "values: 8"),
    ],
)
def test_cells__only_that_is_nothing(only: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_experiment("pingpong-contribution").cells("quick", only)
    assert said in str(caught.value)


def test_cell_key__order_does_not_matter() -> None:
    assert cell_key({"b": 1, "a": "x"}) == cell_key({"a": "x", "b": 1}) == "a=x,b=1"


def test_budgets__smoke_and_quick() -> None:
    from megabench.plan import make_plan

    for experiment in all_experiments():
        assert make_plan([experiment], "smoke").seconds <= 30
        assert make_plan([experiment], "quick").seconds <= 8 * 60
    # Those that count lines have a session of their own.
    lines = [one for one in all_experiments() if one.counter == "lines"]
    others = [one for one in all_experiments() if one.counter != "lines"]
    together = sum(make_plan(part, "quick").seconds for part in (lines, others))
    assert together <= 90 * 60
