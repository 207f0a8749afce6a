# SPDX-License-Identifier: MIT
"""What the guest's kernel says that no test should make it say."""

import re

from megabench.host import Host

COMPLAINT = re.compile(
    r"BUG|WARNING|Oops|general protection|KASAN|UBSAN|possible circular|rcu.*stall|refcount_t|"
    r"unreferenced object|blocked for more than|Call Trace"
)


def complaints(guest: Host) -> list[str]:
    """The kernel's complaints since the last call."""
    said = guest.run(["dmesg", "--read-clear"], timeout=30).stdout
    return [line for line in said.splitlines() if COMPLAINT.search(line)]
