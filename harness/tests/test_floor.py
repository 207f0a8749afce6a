# SPDX-License-Identifier: MIT
"""The echo server inside the kernel: it serves, it counts, and it ends with its file."""

import signal
from pathlib import Path

import pytest
from test_ideas import Server, bed, server

from megabench.host import wait_until
from megabench.testbed import Testbed

pytestmark = pytest.mark.vm
# Fixtures are found by their names in this module.
__all__ = ["bed"]


def threads(bed: Testbed) -> int:
    """Kernel threads that echo."""
    said = bed.server.run(["pgrep", "-c", "megapipe-floor"], check=False, timeout=30).stdout
    return int(said.split()[0])


def loads(floor: Server) -> None:
    for connections, transactions, count in ((64, 1, 1500), (64, 8, 3000), (16, 0, 3000)):
        result = floor.load(connections=connections, transactions=transactions, count=count)
        assert result["transactions"] == count


def test_floor__echoes_on_each_core_what_its_cpu_received(bed: Testbed, tmp_path: Path) -> None:
    with server(bed, tmp_path, "--api", "floor") as floor:
        assert threads(bed) == 8
        loads(floor)
        counted = floor.counters()
        assert min(thread["connections"] for thread in counted) > 0
        # The warm-up's transactions are counted as well.
        assert sum(thread["transactions"] for thread in counted) >= 7500
        assert not any(thread["errors"] for thread in counted)
    assert threads(bed) == 0


def test_floor__ends_with_its_file(bed: Testbed, tmp_path: Path) -> None:
    with server(bed, tmp_path, "--api", "floor") as floor:
        loading = bed.clients[0].start(
            floor.load_argv(connections=64, transactions=4, count=100_000, timeout=2, deadline=20),
            log=tmp_path / "load.log",
        )
        assert wait_until(lambda: sum(t["connections"] for t in floor.counters()) > 500, timeout=60)
        bed.server.run(["kill", f"-{signal.SIGKILL.value}", str(floor.pid)], timeout=30)
        loading.wait(60)
        assert wait_until(lambda: threads(bed) == 0, timeout=30)


def test_floor__says_what_is_wrong(bed: Testbed) -> None:
    """Orders that cannot be: no descriptor, no socket, no size, no CPU."""
    for order in ("x", "0", "99 64 0", "0 64 0", "0 0 0", "0 64 none", "0 64 4096", "0 99999999 0"):
        written = bed.server.run(
            ["sh", "-c", f"printf '%s' '{order}' >/dev/megapipe-floor"], check=False, timeout=30
        )
        assert written.exit_status != 0, order
    assert threads(bed) == 0
