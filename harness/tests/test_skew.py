# SPDX-License-Identifier: MIT
"""One slow worker: with --shed it keeps no more connections waiting than it can serve."""

from pathlib import Path

import pytest
from test_ideas import bed, server

from megabench.testbed import Testbed

pytestmark = pytest.mark.vm
# Fixtures are found by their names in this module.
__all__ = ["bed"]

SLOW = "400000"
CONNECTIONS, COUNT = 256, 3000


def share_of_slow(bed: Testbed, folder: Path, *flags: str) -> float:
    """The share of the connections that the slow worker served; nobody saw an error."""
    with server(bed, folder, "--api", "megapipe", "--slow-work", SLOW, *flags) as serving:
        result = serving.load(connections=CONNECTIONS, transactions=1, count=COUNT)
        assert result["transactions"] == COUNT
        threads = serving.counters()
    assert not any(thread["errors"] for thread in threads)
    served = [thread["connections"] for thread in threads]
    assert served[0] > 0
    return served[0] / sum(served)


def test_shed__others_serve_what_waits_for_the_slow_one(bed: Testbed, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "shed").mkdir()
    kept = share_of_slow(bed, tmp_path / "kept")
    shed = share_of_slow(bed, tmp_path / "shed", "--shed", "32")
    # Its CPU gets an eighth, whether it keeps up or not; shedding leaves most of that to others.
    assert kept > 0.08
    assert shed < 0.7 * kept
