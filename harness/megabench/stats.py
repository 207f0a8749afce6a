# SPDX-License-Identifier: MIT
"""Medians, ratios of medians, and bootstrap intervals of both.

The interval is that of the bootstrap: draw n of the n trials with replacement, take the median,
10,000 times, and cut off the same share at either end. Of two medians each is drawn by itself. The
draws come from a fixed seed, so that the same trials have the same interval wherever it is drawn.

Percentiles, not BCa: its correction needs the jackknife, which is no estimate of a median's
variance, and a percentile of medians never leaves what was measured. But plain percentiles are too
narrow for few trials (of 7, a "95 %" interval holds the median 88 times of 100), so the share that
is cut off is that of Student's t, sqrt(n / (n - 1)) times as far out (Hesterberg 2015, "expanded
percentile"). Simulated, medians of 6 to 20 trials are then held 95 to 98 times of 100, ratios 98 or
more (test_stats.py).

No method makes 95 % of fewer than ENOUGH trials: even their whole range holds the median only with
1 - 2^(1-n), 75 % of three. It is what such a draw comes to, and the note says how sure it is. Of a
ratio it is the widest that both ranges allow: sure where both are, 56 % of three and three, and 75
to 90 % as one is much noisier than the other or just as noisy. Below three trials there is no
interval at all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist, median

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# The fewest trials with an interval, and with one of CONFIDENCE.
FEWEST, ENOUGH = 3, 6
DRAWS = 10_000
SEED = 2012

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """What n trials say of one number."""

    n: int
    median: float
    lo: float | None
    hi: float | None
    note: str
    # The trials themselves, where the number is a median of them.
    values: tuple[float, ...] = field(default=(), repr=False)

    @property
    def has_interval(self) -> bool:
        return self.lo is not None and self.hi is not None


def summarise(values: Sequence[float]) -> Summary:
    """Median and interval of `values`, at least one."""
    kept = tuple(float(value) for value in values)
    n, middle = len(kept), float(median(kept))
    if n < FEWEST:
        return Summary(n, middle, None, None, f"n={n}: no interval", kept)
    if n < ENOUGH:
        note = f"range of {n}: {surety(n):.0%} interval"
        return Summary(n, middle, min(kept), max(kept), note, kept)
    return Summary(n, middle, *_cut(_medians(kept, 0), n), "", kept)


def surety(*counts: int) -> float:
    """How surely intervals of so many trials, all of them, hold their medians."""
    return math.prod(CONFIDENCE if n >= ENOUGH else 1 - 2.0 ** (1 - n) for n in counts)


def chance(one: int, other: int) -> float:
    """How often so many trials of two systems do not overlap, although the systems are alike."""
    return 2 / math.comb(one + other, one)


@cache
def _drawn(n: int, stream: int) -> NDArray[np.intp]:
    """Which trials each draw consists of; two streams have nothing to do with each other."""
    return np.random.default_rng([SEED, n, stream]).integers(0, n, (DRAWS, n))


def _medians(values: Sequence[float], stream: int) -> Draws:
    n = len(values)
    drawn = np.sort(np.asarray(values)[_drawn(n, stream)], axis=1)
    low, high = drawn[:, (n - 1) // 2], drawn[:, n // 2]
    # Of an odd number the middle one itself, to the last digit.
    return low if n % 2 else (low + high) / 2


def _cut(draws: Draws, n: int) -> tuple[float, float]:
    """Where the interval of so many trials ends."""
    share = _share(n)
    lo, hi = np.quantile(draws, [share, 1 - share], method="inverted_cdf")
    return float(lo), float(hi)


@cache
def _share(n: int) -> float:
    """What is cut off at either end."""
    z, df = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), n - 1
    # Student's t by Cornish and Fisher: to three digits from five degrees of freedom on.
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    return NormalDist().cdf(-math.sqrt(n / df) * t)


def ratio(above: Summary, below: Summary) -> Summary:
    """`above` over `below`: the medians', and the bootstrap's interval or the widest there is."""
    lo = hi = None
    if _both_drawn(above, below) and min(below.values) > 0:
        lo, hi = _apart(above, below, lambda one, other: one / other)
    elif above.lo is not None and above.hi is not None and below.lo and below.hi:
        lo, hi = above.lo / below.hi, above.hi / below.lo
    return _of_two(above, below, above.median / below.median, lo, hi)


def difference(above: Summary, below: Summary) -> Summary:
    """`above` less `below`, in the same way."""
    lo = hi = None
    if _both_drawn(above, below):
        lo, hi = _apart(above, below, lambda one, other: one - other)
    else:
        if above.lo is not None and below.hi is not None:
            lo = above.lo - below.hi
        if above.hi is not None and below.lo is not None:
            hi = above.hi - below.lo
    return _of_two(above, below, above.median - below.median, lo, hi)


def _both_drawn(one: Summary, other: Summary) -> bool:
    return min(len(one.values), len(other.values)) >= ENOUGH


def _apart(
    above: Summary, below: Summary, combine: Callable[[Draws, Draws], Draws]
) -> tuple[float, float]:
    draws = combine(_medians(above.values, 0), _medians(below.values, 1))
    return _cut(draws, min(above.n, below.n))


def _of_two(
    one: Summary, other: Summary, middle: float, lo: float | None, hi: float | None
) -> Summary:
    notes = dict.fromkeys(part for s in (one, other) for part in s.note.split("; ") if part)
    if one.values and other.values and lo is not None and min(one.n, other.n) < ENOUGH:
        # What holds of each median is not how sure the ratio is.
        ranges = {summarise(s.values).note for s in (one, other)}
        counts = " and ".join(str(n) for n in dict.fromkeys((one.n, other.n)))
        said = f"of {counts} trials: at least {surety(one.n, other.n):.0%} interval"
        notes = dict.fromkeys([said, *(part for part in notes if part not in ranges)])
    return Summary(min(one.n, other.n), middle, lo, hi, "; ".join(notes))


def scaled(value: Summary, factor: float, offset: float) -> Summary:
    """A rising straight line through a summary."""
    if value.lo is None or value.hi is None:
        return Summary(value.n, value.median * factor + offset, None, None, value.note)
    return Summary(
        value.n,
        value.median * factor + offset,
        value.lo * factor + offset,
        value.hi * factor + offset,
        value.note,
    )
