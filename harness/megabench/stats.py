# SPDX-License-Identifier: MIT
"""Medians and intervals of few trials.

The interval of the median comes from order statistics, since nothing is known of the distribution:
the narrowest pair of ranks around the median that holds it with 95 % (binomial) confidence. Five
trials or fewer cannot give 95 %; then the interval is the whole range, which holds the median with
1 - 2^(1-n), and the note says how sure that is. Below three trials there is no interval at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95
FEWEST = 3


@dataclass(frozen=True)
class Summary:
    """What n trials say of one number."""

    n: int
    median: float
    lo: float | None
    hi: float | None
    note: str

    @property
    def has_interval(self) -> bool:
        return self.lo is not None and self.hi is not None


def summarise(values: Sequence[float]) -> Summary:
    """Median and interval of `values`, at least one."""
    ordered = sorted(values)
    n = len(ordered)
    middle = float(median(ordered))
    if n < FEWEST:
        return Summary(n, middle, None, None, f"n={n}: no interval")
    drop = _ranks_to_drop(n)
    coverage = _coverage(n, drop)
    note = "" if coverage >= CONFIDENCE else f"range of {n}: {coverage:.0%} interval"
    return Summary(n, middle, float(ordered[drop]), float(ordered[n - 1 - drop]), note)


def _coverage(n: int, drop: int) -> float:
    """How surely the median lies between the values left when `drop` are cut at each end."""
    tail = sum(math.comb(n, k) for k in range(drop + 1))
    return 1 - 2 * tail / 2**n


def _ranks_to_drop(n: int) -> int:
    drop = 0
    while 2 * (drop + 1) < n and _coverage(n, drop + 1) >= CONFIDENCE:
        drop += 1
    return drop


def ratio(above: Summary, below: Summary) -> Summary:
    """`above` over `below`: ratio of the medians, and the widest ratio that the intervals allow.

    Wider than need be, but a reader can check it from the table with a pocket calculator.
    """
    lo = hi = None
    if above.lo is not None and above.hi is not None and below.lo and below.hi:
        lo, hi = above.lo / below.hi, above.hi / below.lo
    return Summary(
        min(above.n, below.n), above.median / below.median, lo, hi, _both_notes(above, below)
    )


def difference(above: Summary, below: Summary) -> Summary:
    """`above` less `below`: difference of the medians, and the widest that the intervals allow."""
    lo = hi = None
    if above.lo is not None and below.hi is not None:
        lo = above.lo - below.hi
    if above.hi is not None and below.lo is not None:
        hi = above.hi - below.lo
    return Summary(
        min(above.n, below.n), above.median - below.median, lo, hi, _both_notes(above, below)
    )


def _both_notes(one: Summary, other: Summary) -> str:
    notes = dict.fromkeys(part for s in (one, other) for part in s.note.split("; ") if part)
    return "; ".join(notes)


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
