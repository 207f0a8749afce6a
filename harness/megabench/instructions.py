# SPDX-License-Identifier: MIT
"""Reads the instruction counters that the emulator's plugin keeps (harness/plugin).

The plugin's file may be read live or as a copy taken earlier. Two readings of one run of the
emulator make a difference; a difference and a number of transactions make the metrics. What counts
as what, and how sure it is, stands in docs/counting.md.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from megabench.errors import HarnessError

MAGIC = b"mpinsn\r\n"
VERSION = 1
# struct counters_header of harness/plugin/counters.h, in the host's byte order.
HEADER = struct.Struct("=8sIIII5Q")

KINDS = {"u": "user", "k": "kernel", "s": "spin", "t": "tick", "i": "idle", "e": "event"}

# The compiler's clones of a function: the outlined cold half, specialised copies.
CLONE = re.compile(r"\.(cold|part|isra|constprop)(\.\d+)?")


class CountersError(HarnessError):
    """A file of counters that cannot be used."""


@dataclass(frozen=True)
class Slot:
    """What one column counts: a kernel function, a context, or an event."""

    name: str
    kind: str  # one of KINDS' values


@dataclass(frozen=True)
class Counters:
    """Counts by vCPU (row) and slot (column): so far, or between two readings."""

    path: Path
    run_id: int
    slots: tuple[Slot, ...]
    values: npt.NDArray[np.uint64]

    @property
    def vcpus(self) -> int:
        return int(self.values.shape[0])

    def of_kind(self, kind: str) -> int:
        """The sum over all vCPUs of all slots of one kind."""
        columns = [column for column, slot in enumerate(self.slots) if slot.kind == kind]
        return int(self.values[:, columns].sum())

    def by_vcpu(self) -> list[int]:
        """Instructions of work, user and kernel, of each vCPU."""
        kinds = ("user", "kernel")
        columns = [column for column, slot in enumerate(self.slots) if slot.kind in kinds]
        return [int(total) for total in self.values[:, columns].sum(axis=1)]

    def by_name(self, *kinds: str) -> dict[str, int]:
        """Counts by name, clones joined with their function, largest first, none of zero."""
        totals: dict[str, int] = {}
        for slot, total in zip(self.slots, self.values.sum(axis=0).tolist(), strict=True):
            if total and slot.kind in kinds:
                name = CLONE.sub("", slot.name)
                totals[name] = totals.get(name, 0) + total
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))


class Summary(TypedDict):
    """Everything per transaction; `instructions` is user + kernel: no spin, tick or idle."""

    instructions: float
    instructions_user: float
    instructions_kernel: float
    instructions_spin: float
    instructions_tick: float
    instructions_idle: float
    by_function: dict[str, float]
    spin_by_function: dict[str, float]
    events: dict[str, float]


def read(path: str | Path) -> Counters:
    """The counts in `path` at this moment, or at that of the copy it is."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CountersError(
            f"{path}: {error.strerror}",
            "is the emulator running with the plugin libinsn.so and out= this file?",
        ) from error
    return _parse(path, data)


def diff(begin: Counters, end: Counters) -> Counters:
    """What was counted from one reading to another."""
    if begin.run_id != end.run_id or begin.slots != end.slots or begin.vcpus != end.vcpus:
        raise CountersError(
            f"{begin.path} and {end.path} are not of the same run of the emulator",
            "the testbed was restarted in between: measure again",
        )
    if (end.values < begin.values).any():
        raise CountersError(
            f"{end.path} was taken before {begin.path}",
            "give the reading of the window's begin first",
        )
    return Counters(end.path, end.run_id, end.slots, end.values - begin.values)


def summary(counters: Counters, transactions: int) -> Summary:
    """The metrics of a difference in which so many transactions were served."""
    if transactions <= 0:
        raise CountersError(
            f"{counters.path}: no transaction to divide the instructions by",
            "measure longer, or see why the server answered nothing",
        )

    def share(total: int) -> float:
        return total / transactions

    def shares(*kinds: str) -> dict[str, float]:
        return {name: share(total) for name, total in counters.by_name(*kinds).items()}

    user, kernel = counters.of_kind("user"), counters.of_kind("kernel")
    return Summary(
        instructions=share(user + kernel),
        instructions_user=share(user),
        instructions_kernel=share(kernel),
        instructions_spin=share(counters.of_kind("spin")),
        instructions_tick=share(counters.of_kind("tick")),
        instructions_idle=share(counters.of_kind("idle")),
        by_function=shares("kernel"),
        spin_by_function=shares("spin"),
        events=_events(counters, transactions),
    )


def _events(counters: Counters, transactions: int) -> dict[str, float]:
    totals = counters.values.sum(axis=0).tolist()
    return {
        slot.name: total / transactions
        for slot, total in zip(counters.slots, totals, strict=True)
        if slot.kind == "event"
    }


def _parse(path: Path, data: bytes) -> Counters:
    if data[: len(MAGIC)] != MAGIC:
        raise CountersError(
            f"{path}: not a file of instruction counters",
            "give the file named by the plugin's out=",
        )
    if len(data) < HEADER.size:
        raise _truncated(path, len(data), HEADER.size)
    (_, version, header_size, vcpus, slots, run_id, rows, stride, names, names_size) = (
        HEADER.unpack_from(data)
    )
    if version != VERSION or header_size != HEADER.size:
        raise CountersError(
            f"{path}: format {version} of the counters; this program reads format {VERSION}",
            "build plugin and harness from the same checkout: make -C harness/plugin",
        )
    needed = max(rows + vcpus * stride, names + names_size)
    if len(data) < needed:
        raise _truncated(path, len(data), needed)
    if not vcpus or stride % 8 or stride < slots * 8:
        raise CountersError(f"{path}: damaged header", "measure again")
    table = np.frombuffer(data, dtype=np.uint64, count=vcpus * stride // 8, offset=rows)
    values = table.reshape(vcpus, stride // 8)[:, :slots].copy()
    return Counters(
        path, run_id, _parse_slots(path, data[names : names + names_size], slots), values
    )


def _parse_slots(path: Path, text: bytes, count: int) -> tuple[Slot, ...]:
    entries = text.decode("ascii", "replace").split("\0")[:-1]
    if len(entries) != count or any(entry[:1] not in KINDS for entry in entries):
        raise CountersError(f"{path}: damaged table of names", "measure again")
    return tuple(Slot(entry[1:], KINDS[entry[0]]) for entry in entries)


def _truncated(path: Path, size: int, needed: int) -> CountersError:
    return CountersError(
        f"{path}: cut off: {size} of {needed} bytes",
        "the copy was not finished (disk full?): measure again",
    )
