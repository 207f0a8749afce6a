# SPDX-License-Identifier: MIT
"""What the guest's kernel says that no test should make it say."""

import re

from megabench.host import Host

COMPLAINT = re.compile(
    r"BUG|WARNING|Oops|general protection|KASAN|UBSAN|possible circular|rcu.*stall|refcount_t|"
    r"unreferenced object|blocked for more than|unregister_netdevice: waiting|Call Trace"
)

# A report of the race detector: a title between two lines, the two sides, a line.
RACE = re.compile(r"=====\n(?:(?!=====).)*?BUG: KCSAN: .*?\n[^\n]*=====", re.S)
SIDE = re.compile(r"(?:read|write|race|assert)[^\n]* (?:by|at|on) ")
OURS = re.compile(r"\b(?:mp|megapipe)_\w+\+0x")
# The access itself may be in a helper out of line, such as llist_add_batch().
FRAMES_OF_ACCESS = 2

KMEMLEAK = "/sys/kernel/debug/kmemleak"
DEBUGFS = "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug"


def complaints(guest: Host) -> list[str]:
    """The kernel's complaints since the last call."""
    said = guest.run(["dmesg", "--read-clear"], timeout=60).stdout
    return [line for line in without_foreign_races(said).splitlines() if COMPLAINT.search(line)]


def without_foreign_races(said: str) -> str:
    """By its strictest rules KCSAN finds races all over the kernel: only ours are for us."""
    return RACE.sub(lambda report: report[0] if is_our_race(report[0]) else "", said)


def is_our_race(report: str) -> bool:
    """Whether either of the two accesses is in net/megapipe."""
    lines = [re.sub(r"^\[[^]]*\] ?(?:\[[^]]*\] ?)?", "", line) for line in report.splitlines()]
    for number, line in enumerate(lines):
        if SIDE.match(line) and any(
            OURS.search(frame) for frame in lines[number + 1 : number + 1 + FRAMES_OF_ACCESS]
        ):
            return True
    return False


def has_kmemleak(guest: Host) -> bool:
    """Whether the guest's kernel looks for lost memory."""
    script = f"{DEBUGFS}; test -w {KMEMLEAK}"
    return guest.run(["sh", "-c", script], timeout=60, check=False).exit_status == 0


def forget_leaks(guest: Host) -> None:
    """What was lost before now is not for the next leaks()."""
    guest.run(["sh", "-c", f"echo clear >{KMEMLEAK}"], timeout=300)


def leaks(guest: Host) -> str:
    """What kmemleak finds, empty if nothing: by two scans, for objects that were just on their way
    (the first only suspects, and what is younger than five seconds it lets pass)."""
    script = f"sleep 6; echo scan >{KMEMLEAK}; sleep 6; echo scan >{KMEMLEAK}; cat {KMEMLEAK}"
    return guest.run(["sh", "-c", script], timeout=1200).stdout
