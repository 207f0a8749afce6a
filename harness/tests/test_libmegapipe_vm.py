# SPDX-License-Identifier: MIT
"""libmegapipe on the real kernel: its test programs in the guest, dmesg read after each.

this machine --- SSH ---> guest: vm_*.c, both ends of their connections over the guest's loopback
"""

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from programs import BIN, ROOT

from megabench.host import Host
from megabench.testbed import Testbed

PROGRAMS = sorted(path.stem for path in (ROOT / "libmegapipe" / "test").glob("vm_*.c"))
GUEST = "/run/megabench/libmegapipe"
TIMEOUT_S = 300.0
COMPLAINT = re.compile(
    r"BUG|WARNING|Oops|general protection|KASAN|UBSAN|possible circular|rcu.*stall|refcount_t|"
    r"unreferenced object|blocked for more than|Call Trace"
)

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def guest() -> Iterator[Host]:
    """The server of the testbed; booted, and taken down again, unless it was up already."""
    subprocess.run(
        ["make", "-s", "-C", str(ROOT / "libmegapipe"), "lib", "vm-tests"], check=True, timeout=300
    )
    testbed = Testbed.load(os.environ.get("MEGABENCH_TESTBED", "local"))
    was_up = testbed.is_up()
    testbed.up()
    try:
        testbed.server.run(["mkdir", "-p", GUEST], timeout=30)
        yield testbed.server
    finally:
        if not was_up:
            testbed.down()


def complaints(guest: Host) -> list[str]:
    """The kernel's messages since the last call that no test should cause."""
    said = guest.run(["dmesg", "--read-clear"], timeout=30).stdout
    return [line for line in said.splitlines() if COMPLAINT.search(line)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_guest(guest: Host, name: str) -> None:
    guest.put(BIN / "libmegapipe" / "test" / name, f"{GUEST}/{name}")
    complaints(guest)
    done = guest.run([f"{GUEST}/{name}"], timeout=TIMEOUT_S, check=False)
    assert not complaints(guest)
    if done.exit_status == 77:
        pytest.skip(done.stdout.strip().removeprefix("# skipped: "))
    assert done.exit_status == 0, done.stdout + done.stderr
