# SPDX-License-Identifier: MIT
"""The table of systems."""

from pathlib import Path

import pytest

from megabench.errors import DefinitionError, ExperimentError
from megabench.system import load_systems, look, order, systems


def test_load_systems__looks_are_told_apart() -> None:
    rows = systems().values()
    for feature in ("label", "colour", "marker"):
        values = [getattr(row, feature) for row in rows]
        assert len(set(values)) == len(values)


def test_flags__the_ablations_differ_by_their_switch_alone() -> None:
    whole = systems()["megapipe"].flags("pingpong")
    assert systems()["megapipe-PB"].flags("pingpong") == (*whole, "--no-lwsocket")
    assert set(systems()["megapipe-P"].flags("pingpong")) > set(whole)


def test_flags__not_for_this_app() -> None:
    with pytest.raises(ExperimentError, match="does not run nginx"):
        systems()["epoll"].flags("nginx")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 3", "x: a table is expected"),
        ('[x]\nlabel="x"\ncolour="c"\nmarker="o"', "x.server: missing"),
        ('[x]\nlabel="x"\ncolour="c"\nmarker="o"\nserver.a=3', "x.server.a: a list of strings"),
        ("[x", "systems.toml"),
    ],
)
def test_load_systems__names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "systems.toml"
    path.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_systems(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_order__of_the_table_then_the_unknown() -> None:
    assert order({"mtcp", "megapipe", "epoll"}) == ["epoll", "megapipe", "mtcp"]


def test_look__a_system_of_the_paper_alone() -> None:
    assert look("mtcp").label == "mtcp"
