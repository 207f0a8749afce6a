# SPDX-License-Identifier: MIT
"""What a run was measured on, and which runs may be pooled.

Everything is read back from the machines; nothing is copied from a definition. Two runs are alike
when every fact that moves the numbers agrees; runs that are not alike are never put in one table.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabench import __version__, paths

# Facts that must agree before two runs are pooled (pyperf calls these checked metadata).
CHECKED = (
    "testbed.name",
    "testbed.accel",
    "testbed.cores",
    "binaries",
    "sampling.warmup_s",
    "sampling.measure_s",
    "sampling.loop",
)
# Of the testbed's own facts, those that change from one boot to the next and move no number.
VOLATILE = ("cmdline", "memory_kib")
# Facts that runs of earlier harnesses lack: that alone makes no difference.
ADDED = ("files_limit",)


def utc_now() -> str:
    """Now, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit(root: Path | None = None) -> tuple[str, bool]:
    """The checkout's commit, and whether anything but results differs from it."""
    where = root or paths.root()
    head = _git(where, "rev-parse", "HEAD")
    if not head:
        return "0" * 40, True
    changed = _git(where, "status", "--porcelain", "--", ".", ":(exclude)results")
    return head, bool(changed)


def _git(where: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(where), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def binaries(build: Path | None = None) -> dict[str, str]:
    """SHA-256 (12 digits) of every binary that takes part in a measurement."""
    folder = (build or paths.build()) / "bin"
    if not folder.is_dir():
        return {}
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def client_facts() -> dict[str, Any]:
    """The machine that this process, and on the local testbed the load generator, runs on."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
    }


def host_load() -> float:
    """Processes that wanted a CPU in the last minute, for each there is."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def software() -> dict[str, str]:
    """The harness's own versions."""
    return {"megabench": __version__, "python": platform.python_version()}


def kernel_source() -> dict[str, Any]:
    """Where the kernel's source came from, as the fetching noted it."""
    try:
        noted = json.loads((paths.build() / "cache" / "linux-source.json").read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in noted.items() if key != "path"}


def argv() -> list[str]:
    """The command line, its program by name: its path means nothing on another machine."""
    return ["megabench", *sys.argv[1:]]


def lookup(meta: Mapping[str, Any], dotted: str) -> Any:
    """The value of `a.b.c`, or None."""
    value: Any = meta
    for key in dotted.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def unlike(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """The names of the facts in which two runs differ so that they must not be pooled."""
    names = [name for name in CHECKED if lookup(left, name) != lookup(right, name)]
    facts = [dict(_flat(lookup(meta, "testbed.facts") or {}, "")) for meta in (left, right)]
    for name in sorted(facts[0].keys() | facts[1].keys()):
        both = name in facts[0] and name in facts[1]
        if not both and name.rpartition(".")[2] in ADDED:
            continue
        if facts[0].get(name) != facts[1].get(name):
            names.append(f"testbed.facts.{name}")
    return names


def _flat(facts: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Steady facts by dotted name."""
    if isinstance(facts, Mapping):
        for key, value in facts.items():
            if key not in VOLATILE:
                yield from _flat(value, f"{name}.{key}" if name else key)
    elif isinstance(facts, list):
        for index, value in enumerate(facts):
            yield from _flat(value, f"{name}.{index}")
    else:
        yield name, facts
