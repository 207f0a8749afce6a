# SPDX-License-Identifier: MIT
"""The kernel settings a measurement depends on: apply, read back, restore.

Every setting is one file of /proc or /sys and the text it should hold, so there is one way to set,
check and undo them all, whatever they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .errors import TestbedError
from .host import Host

TIMEOUT_S = 60.0
RPS_MODES = ("all", "off", "leave")
XPS_MODES = ("one-to-one", "off", "leave")

# One round trip and one process for all files, either way: forks are slow in an emulated machine.
READ = ["grep", "-sH", ""]
WRITE = """\
while IFS="$(printf '\\t')" read -r file text; do
	printf '%s\\n' "$text" >"$file" || echo "$file" >&2
done"""
QUEUES = 'ls -d /sys/class/net/"$1"/queues/*'


@dataclass(frozen=True)
class Tuning:
    interface: str = ""
    rps: str = "leave"
    xps: str = "leave"
    sysctl: Mapping[str, str] = field(default_factory=dict)


def sysctl_path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def cpu_mask(cpus: Iterable[int]) -> str:
    """As the kernel writes it: hexadecimal, a comma between every 32 bits."""
    value = sum(1 << cpu for cpu in set(cpus))
    words = []
    while True:
        words.append(value & 0xFFFFFFFF)
        value >>= 32
        if not value:
            break
    first, *rest = reversed(words)
    return ",".join([f"{first:x}", *(f"{word:08x}" for word in rest)])


def settings(tuning: Tuning, queues: Iterable[str], cores: int) -> dict[str, str]:
    """Each file and the text it is to hold. `queues` are the interface's queue directories."""
    wanted = {sysctl_path(name): value for name, value in tuning.sysctl.items()}
    for queue in sorted(queues):
        kind, _, number = queue.rpartition("/")[2].partition("-")
        if kind == "rx" and tuning.rps != "leave":
            cpus = range(cores) if tuning.rps == "all" else ()
            wanted[f"{queue}/rps_cpus"] = cpu_mask(cpus)
        if kind == "tx" and tuning.xps != "leave":
            one = [int(number) % cores] if tuning.xps == "one-to-one" else ()
            wanted[f"{queue}/xps_cpus"] = cpu_mask(one)
    return wanted


def same(wanted: str, have: str) -> bool:
    """Equal but for spacing, and for the commas and leading zeros of a mask."""
    return normal(wanted) == normal(have)


def normal(text: str) -> str:
    text = " ".join(text.split())
    if re.fullmatch(r"[0-9a-f]+(,[0-9a-f]{8})*", text):
        return text.replace(",", "").lstrip("0") or "0"
    return text


def list_queues(host: Host, tuning: Tuning) -> list[str]:
    """The queue directories of the interface; none if its queues are to be left alone."""
    if tuning.rps == tuning.xps == "leave":
        return []
    list_them = ["sh", "-c", QUEUES, "sh", tuning.interface]
    return host.run(list_them, timeout=TIMEOUT_S).stdout.split()


def read_back(host: Host, paths: Iterable[str]) -> dict[str, str]:
    """What the files hold now; those that are not there are left out."""
    files = list(paths)
    if not files:
        return {}
    out = host.run([*READ, "--", *files], timeout=TIMEOUT_S, check=False).stdout
    held: dict[str, list[str]] = {}
    for line in out.splitlines():
        path, _, text = line.partition(":")
        held.setdefault(path, []).extend(text.split())
    return {path: " ".join(words) for path, words in held.items()}


def write(host: Host, values: Mapping[str, str]) -> None:
    if not values:
        return
    lines = "".join(f"{path}\t{text}\n" for path, text in values.items())
    host.run(["sh", "-c", WRITE], timeout=TIMEOUT_S, input=lines, check=False)


@dataclass
class Applied:
    """Settings in force, and what was there before them."""

    host: Host
    values: dict[str, str]
    before: dict[str, str]

    def read_back(self) -> dict[str, str]:
        return read_back(self.host, self.values)

    def restore(self) -> None:
        write(self.host, self.before)


def apply(host: Host, tuning: Tuning, cores: int) -> Applied:
    """Set everything and make sure of it; what was changed is undone if anything would not hold."""
    wanted = settings(tuning, list_queues(host, tuning), cores)
    before = read_back(host, wanted)
    applied = Applied(host, wanted, {p: t for p, t in before.items() if not same(wanted[p], t)})
    write(host, {path: wanted[path] for path in applied.before})
    have = applied.read_back()
    wrong = [path for path, text in wanted.items() if not same(text, have.get(path, ""))]
    if wrong:
        applied.restore()
        path = wrong[0]
        is_there = f"it holds {have[path]!r}" if path in have else "there is no such file"
        raise TestbedError(
            f"{host.name}: {path} could not be set to {wanted[path]!r}: {is_there}",
            "it needs root and a kernel that has it; else take it out of the testbed's [tune]",
        )
    return applied
