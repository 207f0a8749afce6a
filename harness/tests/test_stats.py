# SPDX-License-Identifier: MIT
"""Medians and intervals."""

import pytest

from megabench.stats import Summary, difference, ratio, scaled, summarise


def test_summarise__fewer_than_three_have_no_interval() -> None:
    one = summarise([5.0])
    assert (one.n, one.median, one.lo, one.hi, one.note) == (1, 5, None, None, "n=1: no interval")
    assert summarise([4.0, 6.0]).note == "n=2: no interval"


@pytest.mark.parametrize(
    ("n", "lo", "hi", "note"),
    [
        (3, 1, 3, "range of 3: 75% interval"),
        (5, 1, 5, "range of 5: 94% interval"),
        (6, 1, 6, ""),
        (9, 2, 8, ""),
        (20, 6, 15, ""),
    ],
)
def test_summarise__order_statistics(n: int, lo: float, hi: float, note: str) -> None:
    summary = summarise([float(value) for value in range(n, 0, -1)])
    assert (summary.lo, summary.hi, summary.note) == (lo, hi, note)


def test_ratio__of_medians_with_the_widest_interval() -> None:
    got = ratio(Summary(3, 20, 18, 24, "a"), Summary(5, 10, 8, 12, "a"))
    assert (got.n, got.median, got.lo, got.hi, got.note) == (3, 2, 1.5, 3, "a")


def test_ratio__without_an_interval_on_one_side() -> None:
    assert not ratio(Summary(1, 2, None, None, ""), Summary(3, 1, 1, 1, "")).has_interval


def test_scaled__as_per_cent() -> None:
    got = scaled(Summary(3, 1.5, 1.25, 2, ""), 100, -100)
    assert (got.median, got.lo, got.hi) == (50, 25, 100)


def test_difference__the_widest_that_the_intervals_allow() -> None:
    above, below = Summary(3, 10.0, 9.0, 12.0, "a"), Summary(5, 4.0, 3.0, 5.0, "a; b")
    assert difference(above, below) == Summary(3, 6.0, 4.0, 9.0, "a; b")
    assert difference(above, Summary(1, 4.0, None, None, "")) == Summary(1, 6.0, None, None, "a")
