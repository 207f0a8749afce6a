# SPDX-License-Identifier: MIT
"""What all tests share: Ctrl-C and SIGTERM that work, and the local testbed, booted once."""

import os
import signal
from collections.abc import Iterator

import pytest

from megabench.testbed import Testbed

# A shell's background job ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# `timeout` sends this one: what was started is taken down then too.
signal.signal(signal.SIGTERM, signal.default_int_handler)


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
