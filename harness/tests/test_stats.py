# SPDX-License-Identifier: MIT
"""Medians and intervals."""

import math
import random
from collections.abc import Callable

import pytest

from megabench import stats
from megabench.stats import Summary, chance, difference, ratio, scaled, summarise, surety


def test_summarise__fewer_than_three_have_no_interval() -> None:
    one = summarise([5.0])
    assert (one.n, one.median, one.lo, one.hi, one.note) == (1, 5, None, None, "n=1: no interval")
    assert summarise([4.0, 6.0]).note == "n=2: no interval"


@pytest.mark.parametrize(
    ("n", "lo", "hi", "note"),
    [
        (3, 1, 3, "range of 3: 75% interval"),
        (4, 1, 4, "range of 4: 88% interval"),
        (5, 1, 5, "range of 5: 94% interval"),
        (6, 1, 6, ""),
        (9, 2, 8, ""),
        (20, 6, 15, ""),
    ],
)
def test_summarise__of_trials_a_step_apart(n: int, lo: float, hi: float, note: str) -> None:
    """Of an odd number the ends are trials; of an even one they may lie between two."""
    summary = summarise([float(value) for value in range(n, 0, -1)])
    assert summary.lo == pytest.approx(lo, abs=0 if n % 2 or n < 8 else 1)
    assert summary.hi == pytest.approx(hi, abs=0 if n % 2 or n < 8 else 1)
    assert summary.note == note
    assert summary.median == (n + 1) / 2


def test_summarise__the_same_whenever_and_in_whatever_order_of_calls() -> None:
    chance_of = random.Random(1)
    values = [chance_of.gauss(10, 1) for _ in range(8)]
    first = summarise(values)
    summarise([chance_of.gauss(0, 1) for _ in range(8)])
    ratio(first, summarise(values[:7]))
    assert summarise(values) == first


NOISE: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda chance_of: math.exp(chance_of.gauss(0, 0.3)),
    "one-sided": lambda chance_of: 1 + chance_of.expovariate(1) - math.log(2),
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [6, 7, 10])
def test_intervals__hold_what_they_say(n: int, noise: str) -> None:
    """The true median is 1, and so is the ratio of two. Plain percentiles of 7 hold it 88 times of
    100; 300 times of 300 cannot be told from 95 % by less than 3 %."""
    chance_of = random.Random(n)
    tries, held, of_ratio = 300, 0, 0
    for _ in range(tries):
        one, other = (summarise([NOISE[noise](chance_of) for _ in range(n)]) for _ in range(2))
        assert one.lo is not None
        assert one.hi is not None
        held += one.lo <= 1 <= one.hi
        both = ratio(one, other)
        assert both.lo is not None
        assert both.hi is not None
        of_ratio += both.lo <= 1 <= both.hi
    assert held / tries > 0.92
    assert of_ratio / tries > 0.95


def test_ratio__narrower_than_the_widest_where_there_are_trials_enough() -> None:
    chance_of = random.Random(3)
    above, below = (summarise([chance_of.gauss(10, 1) for _ in range(9)]) for _ in range(2))
    got = ratio(above, below)
    assert above.lo is not None
    assert below.hi is not None
    assert got.lo is not None
    assert got.median == above.median / below.median
    assert above.lo / below.hi < got.lo < got.median
    assert got.note == ""
    less = difference(above, below)
    assert less.lo is not None
    assert above.lo - below.hi < less.lo < above.median - below.median


def test_ratio__of_few_trials_is_the_widest_and_says_how_sure() -> None:
    above, below = summarise([18.0, 20.0, 24.0]), summarise([8.0, 10.0, 12.0])
    got = ratio(above, below)
    assert (got.n, got.median, got.lo, got.hi) == (3, 2, 1.5, 3)
    assert got.note == "of 3 trials: at least 56% interval"
    noted = Summary(3, 10.0, 8.0, 12.0, f"{below.note}; client-bound", below.values)
    assert ratio(above, noted).note == "of 3 trials: at least 56% interval; client-bound"
    more = ratio(above, summarise([8.0, 9.0, 10.0, 10.0, 11.0, 12.0]))
    assert more.note == "of 3 and 6 trials: at least 71% interval"
    assert (more.lo, more.hi) == (1.5, 3)


def test_ratio__of_numbers_that_are_no_medians_themselves() -> None:
    got = ratio(Summary(3, 20, 18, 24, "a"), Summary(5, 10, 8, 12, "a"))
    assert (got.n, got.median, got.lo, got.hi, got.note) == (3, 2, 1.5, 3, "a")


def test_ratio__without_an_interval_on_one_side() -> None:
    assert not ratio(Summary(1, 2, None, None, ""), Summary(3, 1, 1, 1, "")).has_interval
    assert ratio(summarise([1.0]), summarise([1.0, 2.0, 3.0])).note == (
        "n=1: no interval; range of 3: 75% interval"
    )


def test_surety__of_ranges_and_of_both() -> None:
    assert [surety(n) for n in (3, 4, 5, 6, 20)] == [0.75, 0.875, 0.9375, 0.95, 0.95]
    assert surety(3, 3) == 0.5625


def test_chance__that_two_do_not_overlap() -> None:
    assert chance(3, 3) == 0.1
    assert chance(4, 4) < 0.05


def test_share__is_student_s() -> None:
    """t of 5 degrees of freedom is 2.571, of 19 it is 2.093."""
    for n, t in ((6, 2.571), (20, 2.093)):
        z = -stats.NormalDist().inv_cdf(stats._share(n)) / math.sqrt(n / (n - 1))
        assert z == pytest.approx(t, abs=0.004)


def test_scaled__as_per_cent() -> None:
    got = scaled(Summary(3, 1.5, 1.25, 2, ""), 100, -100)
    assert (got.median, got.lo, got.hi) == (50, 25, 100)


def test_difference__the_widest_that_the_intervals_allow() -> None:
    above, below = Summary(3, 10.0, 9.0, 12.0, "a"), Summary(5, 4.0, 3.0, 5.0, "a; b")
    assert difference(above, below) == Summary(3, 6.0, 4.0, 9.0, "a; b")
    assert difference(above, Summary(1, 4.0, None, None, "")) == Summary(1, 6.0, None, None, "a")
