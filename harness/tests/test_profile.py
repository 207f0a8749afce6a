# SPDX-License-Identifier: MIT
"""Profiles of raw results that are made up."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import synthetic

from megabench import profile, profile_figure, record, table
from megabench.layers import UNKNOWN
from megabench.record import ResultsError
from megabench.table import Raw

FUNCTIONS = {"tcp_ack": 1000.0, "sock_sendmsg": 100.0, "mp_queue_post": 60.0, "odd_one": 7.0}


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    """A smoke run whose trials have functions; those of epoll's spend one instruction more."""
    synthetic.write(tmp_path, ["pingpong-peers"], "smoke")
    found = table.load_raw(tmp_path, "local", "pingpong-peers")
    for point in found.points:
        path = profile.functions_path(point, found, tmp_path, "local")
        extra = {"sock_sendmsg": 101.0} if point["system"] == "epoll" else {}
        record.write_json(path, FUNCTIONS | extra)
    return found


def of_system(found: list[profile.Profile], name: str) -> profile.Profile:
    (one,) = [one for one in found if one.system == name]
    return one


def test_profiles__by_layer(raw: Raw, tmp_path: Path) -> None:
    found = profile.profiles(raw, tmp_path, "local")
    assert [one.system for one in found] == ["epoll", "reuseport", "io_uring", "megapipe", "floor"]
    one = of_system(found, "megapipe")
    shares = one.by_layer()
    assert shares["tcp"] == 1000
    assert shares["megapipe"] == 60
    assert shares["socket"] == 100
    assert one.interface() == pytest.approx(160 + shares["user"])
    # What the list leaves out is nobody's, so that all layers add up.
    assert sum(shares.values()) == pytest.approx(one.instructions)
    assert shares[UNKNOWN] > 7
    assert one.covered() == pytest.approx(1 - shares[UNKNOWN] / one.instructions)


def test_profiles__means_of_trials_add_up(raw: Raw, tmp_path: Path) -> None:
    point = dict(raw.points[0])
    twice = [{**point, "trial": f"{point['trial']}x", "log": "logs/again"}, *raw.points]
    path = tmp_path / "local/raw/pingpong-peers" / point["run"] / "logs/again/functions.json"
    record.write_json(path, {"tcp_ack": 2000.0})
    more = Raw(raw.experiment, raw.meta, raw.runs, raw.left_out, tuple(twice))
    one = of_system(profile.profiles(more, tmp_path, "local"), point["system"])
    assert one.trials == 2
    assert one.functions["tcp_ack"] == 1500
    assert one.functions["odd_one"] == 3.5


def test_profiles__only(raw: Raw, tmp_path: Path) -> None:
    found = profile.profiles(raw, tmp_path, "local", {"system": ("floor", "epoll")})
    assert [one.system for one in found] == ["epoll", "floor"]


def test_profiles__nothing_counted(raw: Raw, tmp_path: Path) -> None:
    for path in tmp_path.glob("**/functions.json"):
        path.unlink()
    with pytest.raises(ResultsError, match="no instructions of pingpong-peers"):
        profile.profiles(raw, tmp_path, "local")


def test_functions_path__of_a_trial_that_experiments_share(raw: Raw, tmp_path: Path) -> None:
    there = {"experiment": "other", "run": "r", "log": "logs/0001-epoll"}
    point: dict[str, Any] = {"run": "mine", "reference": there}
    path = profile.functions_path(point, raw, tmp_path, "local")
    assert path == tmp_path / "local/raw/other/r/logs/0001-epoll/functions.json"


def test_accounts__rows(raw: Raw, tmp_path: Path) -> None:
    found = profile.profiles(raw, tmp_path, "local")
    (account,) = profile.accounts(found, profile.base_of(raw.experiment))
    rows = {name: cells for name, cells, _ in account.rows}
    assert rows["MegaPipe"] == ["60"] * 5
    assert rows["socket layer"] == ["101", "100", "100", "100", "100"]
    assert rows["beyond floor"][-1] == "0"
    assert rows["trials, of which all this is the mean"] == [str(one.trials) for one in found]
    assert "wake-ups" not in rows  # not counted in these results


def test_write_tables__csv_and_folded(raw: Raw, tmp_path: Path) -> None:
    found = profile.profiles(raw, tmp_path, "local")
    layers, functions, folded = profile.write_tables(tmp_path, "local", "pingpong-peers", found)
    assert "pingpong-peers,megapipe,256,1,8,64,tcp,no,1000.0" in layers.read_text()
    assert "pingpong-peers,epoll,256,1,8,64,socket,sock_sendmsg,101.0" in functions.read_text()
    assert "floor;all;TCP;tcp_ack 1000" in folded.read_text().splitlines()


def test_write_figures(raw: Raw, tmp_path: Path) -> None:
    found = profile.profiles(raw, tmp_path, "local")
    paths = profile_figure.write_figures(tmp_path, "local", table.make_table(raw), found)
    assert [path.name for path in paths] == [
        "pingpong-peers-layers.svg",
        "pingpong-peers-layers.png",
        "pingpong-peers-profile.svg",
    ]
    boxes = ET.fromstring(paths[-1].read_text()).iter("{http://www.w3.org/2000/svg}title")
    said = [box.text for box in boxes]
    assert "sock_sendmsg: 101.0" in said
    assert "TCP: 1,000.0" in said
