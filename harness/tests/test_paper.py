# SPDX-License-Identifier: MIT
"""The published numbers, as they are known."""

from pathlib import Path

import pytest

from megabench import paper, paths
from megabench.record import ResultsError

LENGTHS = [1, 2, 4, 8, 16, 32, 64, 128]


def values(name: str, metric: str, system: str) -> dict[int, float]:
    rows = paper.rows(name, {"metric": metric, "system": system})
    return dict(zip(rows["transactions_per_connection"], rows["value"], strict=True))


def test_read__every_file_has_marks() -> None:
    files = sorted((paths.HARNESS.parent / "results" / "paper").glob("*.csv"))
    assert len(files) == 4
    for path in files:
        assert len(paper.read(path.name))


def test_speedup__as_read_off_the_figure() -> None:
    epoll = values("speedup.csv", "speedup", "epoll")
    assert list(epoll.values()) == [1.30, 1.60, 2.08, 3.65, 5.13, 5.72, 6.25, 6.72]
    ours = values("speedup.csv", "speedup", "megapipe")
    assert ours == {1: 6.37, 4: 6.69, 16: 6.83, 32: 6.92, 64: 7.06, 128: 6.51}
    rows = paper.rows("speedup.csv", {})
    assert set(rows["mark"]) == {"F"}
    assert set(rows["reading_error"]) == {0.05}


def test_contribution__is_recalled_and_adds_up() -> None:
    name = "contribution-recalled.csv"
    total = values(name, "gain", "megapipe")
    steps = [values(name, "contribution", s) for s in ("megapipe-P", "megapipe-PB", "megapipe")]
    for length in LENGTHS:
        assert sum(step[length] for step in steps) == pytest.approx(total[length], abs=0.15)
    assert set(paper.rows(name, {})["mark"]) == {"R"}


def test_number__per_cent_is_a_ratio() -> None:
    claim = paper.number("claims.csv", {"claim": "pingpong-short"})
    assert claim.mark == "A"
    assert claim.ratio == pytest.approx(6.82)


def test_mtcp__the_modern_comparison() -> None:
    at = {"cores": 8, "metric": "throughput"}
    ours = paper.number("mtcp.csv", {**at, "system": "megapipe"})
    reuseport = paper.number("mtcp.csv", {**at, "system": "reuseport"})
    assert ours.value / reuseport.value == pytest.approx(1.89, abs=0.005)
    assert ours.reading_error == 0.1


def test_number__must_be_one() -> None:
    with pytest.raises(ResultsError, match="names 14 rows, not 1"):
        paper.number("speedup.csv", {"metric": "speedup"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("value\n1\n", "no column metric"),
        ("metric,value,unit,mark,reading_error,note\na,1,x,Z,,\n", "mark 'Z' is none of"),
    ],
)
def test_read__names_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ResultsError, match=said):
        paper.read("x.csv", tmp_path)


def test_read__not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"none\.csv"):
        paper.read("none.csv", tmp_path)
