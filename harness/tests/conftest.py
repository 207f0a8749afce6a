# SPDX-License-Identifier: MIT
"""The local testbed, booted once for all tests that need it."""

import os
from collections.abc import Iterator

import pytest

from megabench.testbed import Testbed


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Booted, and taken down again, unless it was up already."""
    bed = Testbed.load(os.environ.get("MEGABENCH_TESTBED", "local"))
    was_up = bed.is_up()
    bed.up()
    try:
        yield bed
    finally:
        if not was_up:
            bed.down()
