# SPDX-License-Identifier: MIT
"""One slow worker, unequal flows: what each way to help it does, seen at the threads.

this machine: megabench-load --- tap, 8 queues --- guest: pingpong-server, 8 threads on 8 CPUs,
                                                   the first of them slow, or packets on two alone
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_ideas import CORES, bed, server

from megabench import cores
from megabench.testbed import Testbed

pytestmark = pytest.mark.vm
# Fixtures are found by their names in this module.
__all__ = ["bed"]

SLOW = "400000"
CONNECTIONS, COUNT = 256, 3000
HELP = {
    "shed": ("--api", "megapipe", "--shed", "32"),
    # Together they have room for all: none is refused.
    "mask": ("--api", "megapipe", "--mask", "8", "--accept", "4", "--backlog", "32"),
    "hand-on": ("--api", "megapipe", "--hand-on", "8"),
    "hand-on raw": ("--api", "megapipe-raw", "--hand-on", "8"),
    "hand-on descriptors": ("--api", "megapipe", "--hand-on", "8", "--no-lwsocket"),
    "steal": ("--api", "megapipe-steal"),
}


def serve(bed: Testbed, folder: Path, *flags: str) -> list[dict[str, Any]]:
    """The threads' counters after a load of short connections; nobody saw an error."""
    folder.mkdir()
    with server(bed, folder, *flags) as serving:
        result = serving.load(connections=CONNECTIONS, transactions=1, count=COUNT)
        assert result["transactions"] == COUNT
        threads = serving.counters()
    assert not any(thread["errors"] for thread in threads)
    assert sum(thread["transactions"] for thread in threads) >= COUNT
    return threads


def share_of_first(threads: list[dict[str, Any]]) -> float:
    """The share of the transactions that the first worker served: some, in any case."""
    served = [thread["transactions"] for thread in threads]
    assert served[0] > 0
    return served[0] / sum(served)


@pytest.fixture(scope="module")
def kept() -> dict[str, float]:
    """What the slow worker serves when nobody helps it: measured by the first test that asks."""
    return {}


@pytest.mark.parametrize("way", HELP)
def test_slow_worker__others_serve_what_waits_for_it(
    bed: Testbed, tmp_path: Path, way: str, kept: dict[str, float]
) -> None:
    slow = ("--slow-work", SLOW)
    if not kept:
        kept["share"] = share_of_first(serve(bed, tmp_path / "kept", "--api", "megapipe", *slow))
    # Its CPU gets an eighth, whether it keeps up or not; help leaves most of that to others.
    assert kept["share"] > 0.08
    assert share_of_first(serve(bed, tmp_path / "helped", *HELP[way], *slow)) < 0.7 * kept["share"]


@pytest.fixture
def two_receive(bed: Testbed) -> Iterator[Testbed]:
    """Packets come to the first two CPUs alone."""
    cores.confine(bed, CORES, 2)
    yield bed
    cores.confine(bed, CORES, CORES)


def test_unequal_flows__a_partition_each_leaves_the_others_idle(
    two_receive: Testbed, tmp_path: Path
) -> None:
    threads = serve(two_receive, tmp_path / "one", "--api", "megapipe")
    assert all(thread["connections"] for thread in threads[:2])
    assert not any(thread["connections"] for thread in threads[2:])


@pytest.mark.parametrize("way", ["hand-on", "steal"])
def test_unequal_flows__help_makes_all_serve(
    two_receive: Testbed, tmp_path: Path, way: str
) -> None:
    threads = serve(two_receive, tmp_path / way, *HELP[way])
    assert all(thread["transactions"] for thread in threads)


def test_mask__spreads_evenly(two_receive: Testbed, tmp_path: Path) -> None:
    """By the client's port, when no partition is full: each thread gets an eighth."""
    flags = ("--api", "megapipe", "--mask", "8")
    served = [one["connections"] for one in serve(two_receive, tmp_path / "mask", *flags)]
    assert min(served) > sum(served) / CORES / 2
