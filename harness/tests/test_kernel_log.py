# SPDX-License-Identifier: MIT
"""Reading the kernel's log: whose race is whose."""

import pytest
from kernel_log import COMPLAINT, is_our_race, without_foreign_races

RULE = "=" * 66


def race(first: str, second: str) -> str:
    """A report of the race detector as the kernel prints it."""
    lines = [
        RULE,
        f"BUG: KCSAN: data-race in {first} / {second}",
        "",
        "write to 0xffff888004a1c0e8 of 4 bytes by task 311 on cpu 1:",
        f" {first}+0x2f/0x90",
        " __x64_sys_ioctl+0xf9/0x130",
        " mp_channel_ioctl+0x1/0x2",
        "",
        "read to 0xffff888004a1c0e8 of 4 bytes by interrupt on cpu 0:",
        f" {second}+0x11/0x60",
        " tcp_data_queue+0x7ab/0x1e20",
        "",
        "Reported by Kernel Concurrency Sanitizer on:",
        "CPU: 0 UID: 0 PID: 311 Comm: fuzz Not tainted",
        RULE,
    ]
    return "".join(f"[   12.3456{number:02}] {line}\n" for number, line in enumerate(lines))


@pytest.mark.parametrize(
    ("line", "complains"),
    [
        ("BUG: KASAN: slab-use-after-free in mp_queue_pass+0x5b/0x1f0", True),
        # A network namespace that somebody still holds a reference to
        ("unregister_netdevice: waiting for lo to become free. Usage count = 2", True),
        ("megapipe: loading out-of-tree module taints kernel.", False),
    ],
)
def test_complaint__is_what_no_test_should_cause(line: str, complains: bool) -> None:
    assert bool(COMPLAINT.search(f"[   12.345678] {line}")) == complains


@pytest.mark.parametrize(
    ("first", "second", "ours"),
    [
        ("mp_queue_run", "mp_handle_ready", True),
        ("tcp_ack", "megapipe_select", True),
        # Far down a stack is who called, not who raced.
        ("tcp_ack", "tcp_poll", False),
    ],
)
def test_is_our_race__by_the_accesses(first: str, second: str, ours: bool) -> None:
    assert is_our_race(race(first, second)) == ours


def test_without_foreign_races__keeps_the_rest() -> None:
    warning = "[   13.000000] WARNING: CPU: 0 PID: 1 at net/core/sock.c:1\n"
    said = race("tcp_ack", "tcp_poll") + warning + race("mp_queue_run", "tcp_poll")
    kept = without_foreign_races(said)
    assert "tcp_ack" not in kept
    assert warning in kept
    assert "data-race in mp_queue_run" in kept
