# SPDX-License-Identifier: MIT
"""Instructions by function on a real machine, by sampling: `perf record` on the server.

Where there is no emulator to count every instruction, a performance counter interrupts after each
PERIOD of them and perf notes where. That tells the same table, less surely: functions of a few
instructions come and go, and warm-up is in it, so it is divided by all that was served. User and
kernel are sampled apart. Waiting and idling are known by name, as far as they run at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megabench.errors import HarnessError
from megabench.host import Host, Process
from megabench.instructions import CLONE

EVENT = "instructions"
PERIOD = 1_000_003
FILE = "/tmp/megabench.perf"
START_S, STOP_S = 20.0, 300.0
LONGEST_S = "86400"

SPIN = ("native_queued_spin_lock_slowpath", "queued_spin_lock_slowpath", "osq_lock")
IDLE = ("poll_idle", "intel_idle", "acpi_idle", "mwait_idle", "default_idle", "cpu_idle_poll")
TICK = ("asm_sysvec_apic_timer_interrupt", "sysvec_apic_timer_interrupt", "hrtimer_interrupt")


class PerfError(HarnessError):
    """No samples."""


@dataclass(frozen=True)
class Samples:
    """Instructions: of user space, and by function of the kernel."""

    user: int
    functions: Mapping[str, int]

    def summary(self, transactions: int) -> tuple[dict[str, float], dict[str, float]]:
        """The metrics, and instructions per transaction of each function that works."""

        def share(counts: Mapping[str, int]) -> float:
            return sum(counts.values()) / transactions

        apart = {"spin": SPIN, "idle": IDLE, "tick": TICK}
        work = dict(self.functions)
        metrics = {}
        for kind, names in apart.items():
            taken = {name: work.pop(name) for name in list(work) if name.startswith(names)}
            metrics[f"instructions_{kind}"] = share(taken)
        metrics["instructions_user"] = self.user / transactions
        metrics["instructions_kernel"] = share(work)
        whole = metrics["instructions_user"] + metrics["instructions_kernel"]
        return {"instructions": whole, **metrics}, {n: c / transactions for n, c in work.items()}


def start(host: Host, log: Path, event: str = EVENT, period: int = PERIOD) -> Process:
    """Begin to sample all CPUs of a host."""
    argv = ["perf", "record", "-a", "-q", "-e", f"{event}:u", "-e", f"{event}:k"]
    return host.start([*argv, "-c", str(period), "-o", FILE, "--", "sleep", LONGEST_S], log=log)


def stop(host: Host, process: Process) -> Samples:
    """End sampling, and add up what was noted."""
    process.signal("INT")
    process.wait(STOP_S)
    argv = ["perf", "script", "-i", FILE, "-F", "event,period,ip,sym"]
    try:
        return parse(host.run(argv, timeout=STOP_S).stdout)
    finally:
        host.run(["rm", "-f", FILE], timeout=START_S, check=False)


def parse(text: str) -> Samples:
    """Lines of `period event:u: address symbol`."""
    user = 0
    functions: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split(maxsplit=3)
        if len(words) < 3 or not words[0].isdigit():
            continue
        count, event = int(words[0]), words[1].rstrip(":")
        if event.endswith(":u"):
            user += count
            continue
        name = words[3].strip() if len(words) > 3 else "[other kernel]"
        name = CLONE.sub("", name.replace("[unknown]", "[other kernel]"))
        functions[name] = functions.get(name, 0) + count
    if not user and not functions:
        raise PerfError(
            "perf has no samples",
            hint="does this machine have a performance counter for instructions? perf stat -e "
            "instructions true; kernel.perf_event_paranoid must allow it",
        )
    return Samples(user, functions)
