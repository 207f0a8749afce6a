# SPDX-License-Identifier: MIT
"""Changes of writer of the kernel's cache lines, from the emulator's plugin liblines.so.

On real hardware a line that another core writes must travel there; the plugin counts how often that
is so, by line and by the function that wrote (harness/plugin/lines.h). Two readings of one run of
the emulator make a window. Only lines with at least so many writers count (LEVELS): two are also a
packet handed on from one CPU to another, four are a structure that all share.

A line has a name if it lies in a variable of the kernel. Most are in memory allocated on the way:
they are called after the functions that write there (harness/objects.toml), or else by those
functions' own names. What mostly the clock writes is apart, as ticks are where instructions are
counted: per transaction it depends on the rate alone. So are registers of devices, no memory.
"""

from __future__ import annotations

import bisect
import csv
import io
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megabench import paths, record
from megabench.definition import Table
from megabench.instructions import CLONE, CountersError
from megabench.layers import layers

if TYPE_CHECKING:
    from megabench.table import Raw

MAGIC = b"mpline\r\n"
VERSION = 1
# struct lines_header of harness/plugin/lines.h, in the host's byte order.
HEADER = struct.Struct("=8sIIII6Q")
LEVELS = (2, 4)
# In a trial's logs: what the window held.
LINES = "lines.json"
# Names that are kept for each level, the worst first.
WORST = 40
# Functions whose share of a line's changes is below this do not name it.
MINOR = 0.1
OTHERS = 0xFFFFFFFF


@dataclass(frozen=True)
class Lines:
    """One reading, or what was counted between two: a row a line that changed its writer."""

    path: Path
    run_id: int
    vcpus: int
    address: npt.NDArray[np.uint64]
    functions: npt.NDArray[np.uint32]  # line x place
    changes: npt.NDArray[np.uint32]  # line x place
    by_vcpu: npt.NDArray[np.uint32]  # line x vCPU
    lost: int


def is_lines(path: Path) -> bool:
    """Whether a file of counters is there, and of this kind."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> Lines:
    """The counts in `path`, the lines by their addresses."""
    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER.size:
        raise CountersError(f"{path}: not a file of lines", "give the file of liblines.so's out=")
    (_, version, header_size, vcpus, places, run_id, offset, size, lines, *lost) = (
        HEADER.unpack_from(data)
    )
    if version != VERSION or header_size != HEADER.size or len(data) < offset + lines * size:
        raise CountersError(
            f"{path}: format {version}, or cut off; this program reads format {VERSION}",
            "build plugin and harness from the same checkout: make plugin",
        )
    kind = np.dtype(
        {
            "names": ["address", "by_function", "by_vcpu"],
            "formats": ["<u8", ("<u4", (places, 2)), ("<u4", (vcpus,))],
            "offsets": [0, 8, 8 + places * 8],
            "itemsize": size,
        }
    )
    rows = np.frombuffer(data, dtype=kind, count=lines, offset=offset)
    rows = np.sort(rows[rows["address"] != 0], order="address")
    return Lines(
        path,
        run_id,
        vcpus,
        rows["address"].copy(),
        rows["by_function"][:, :, 0].copy(),
        rows["by_function"][:, :, 1].copy(),
        rows["by_vcpu"].copy(),
        sum(lost),
    )


def clear(path: Path) -> None:
    """Make room in a live file: forget all lines, which would fill it in an hour.

    A change that is being counted just then may be lost, or count for another line: before a
    window, that is nothing.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        header = HEADER.unpack_from(data)
        offset = header[6]
        data[offset:] = bytes(len(data) - offset)
        data[HEADER.size - 16 : HEADER.size] = bytes(16)


def diff(begin: Lines, end: Lines) -> Lines:
    """What was counted from one reading to another."""
    if begin.run_id != end.run_id:
        raise CountersError(
            f"{begin.path} and {end.path} are not of the same run of the emulator",
            "the testbed was restarted in between: measure again",
        )
    changes, by_vcpu = end.changes.copy(), end.by_vcpu.copy()
    # Lines never go, and a function keeps its place in a line.
    at = np.searchsorted(end.address, begin.address)
    if not np.array_equal(end.address[at], begin.address):
        raise CountersError(f"{end.path} was taken before {begin.path}", "measure again")
    changes[at] -= begin.changes
    by_vcpu[at] -= begin.by_vcpu
    some = by_vcpu.any(axis=1)
    return Lines(
        end.path,
        end.run_id,
        end.vcpus,
        end.address[some],
        end.functions[some],
        changes[some],
        by_vcpu[some],
        end.lost - begin.lost,
    )


class Symbols:
    """The kernel's own names, from System.map."""

    def __init__(self, path: Path) -> None:
        rows = []
        for line in path.read_text().splitlines():
            address, kind, name = line.split(maxsplit=2)
            rows.append((int(address, 16), kind, name))
        data = sorted((a, name) for a, kind, name in rows if kind in "dDbBrR")
        self._at = [a for a, _ in data]
        self._names = [name for _, name in data]
        self._functions = {
            a & 0xFFFFFFFF: CLONE.sub("", name) for a, kind, name in rows if kind in "tTwW"
        }
        self._begin = next((a for a, _, name in rows if name == "_text"), 0)
        self._end = max((a for a, _, _ in rows), default=0)

    def function(self, low: int) -> str:
        """The function whose address has this low half."""
        return self._functions.get(low, "[other kernel]")

    def variable(self, line: int) -> str | None:
        """The variable that a line lies in, if it is one of the kernel's image."""
        if not self._begin <= line <= self._end:
            return None
        place = bisect.bisect_right(self._at, line + 63) - 1
        return self._names[place] if place >= 0 else None


@cache
def symbols(config: str = "vm") -> Symbols:
    """Those of a kernel of this checkout."""
    return Symbols(paths.build() / f"kernel-{config}" / "System.map")


@dataclass(frozen=True)
class Object:
    """A kind of structure, known by the functions that write to it."""

    label: str
    interface: bool
    apart: bool
    functions: tuple[str, ...]


@cache
def objects() -> tuple[Object, ...]:
    """harness/objects.toml."""
    table = Table.load(paths.harness() / "objects.toml")
    made = []
    for name in table.values:
        row = table.table(name)
        functions = row.values.get("functions", [])
        row.read.add("functions")
        flags = row.boolean("interface", False), row.boolean("apart", False)
        made.append(Object(row.text("label"), *flags, tuple(map(str, functions))))
        row.finish()
    return tuple(made)


def matches(function: str, pattern: str) -> bool:
    """A function's name, or its beginning when the pattern ends with a star."""
    return function.startswith(pattern[:-1]) if pattern.endswith("*") else function == pattern


def apart(functions: Mapping[str, int]) -> Object | None:
    """The row of objects.toml that most of a line's changes fit and that is told apart, if any."""
    total = sum(functions.values())
    for one in objects():
        if one.apart:
            fits = sum(
                count
                for name, count in functions.items()
                if any(matches(name, pattern) for pattern in one.functions)
            )
            if 2 * fits > total:
                return one
    return None


def name_of(variable: str | None, functions: Mapping[str, int]) -> tuple[str, bool]:
    """What a line is called, and whether it is the interface's.

    A kernel's variable has its own name. Otherwise the first row of objects.toml counts that one
    of the line's main writers fits; else the line is called after those writers.
    """
    total = sum(functions.values())
    main = [name for name, count in functions.items() if count >= MINOR * total]
    for one in objects():
        if one.apart:
            continue
        if any(matches(name, pattern) for name in main for pattern in one.functions):
            return one.label, one.interface
    if variable is not None:
        return variable, any(layers().of(name).interface for name in main)
    main = sorted(main, key=lambda name: -functions[name])[:2]
    return "written by " + ", ".join(main), any(layers().of(name).interface for name in main)


@dataclass(frozen=True)
class Row:
    """One line of memory in a window."""

    name: str
    interface: bool
    apart: bool
    writers: int
    changes: int
    functions: Mapping[str, int]


def rows(window: Lines, symbols: Symbols) -> Iterator[Row]:
    """The lines with at least two writers, each with its name."""
    writers = (window.by_vcpu > 0).sum(axis=1)
    for i in np.flatnonzero(writers >= min(LEVELS)):
        functions: dict[str, int] = {}
        pairs = zip(window.functions[i].tolist(), window.changes[i].tolist(), strict=True)
        for low, count in pairs:
            if count:
                name = "others" if low == OTHERS else symbols.function(low)
                functions[name] = functions.get(name, 0) + count
        changes = int(window.by_vcpu[i].sum())
        other = apart(functions)
        if other is not None:
            yield Row(other.label, False, True, int(writers[i]), changes, functions)
            continue
        name, interface = name_of(symbols.variable(int(window.address[i])), functions)
        yield Row(name, interface, False, int(writers[i]), changes, functions)


def summary(window: Lines, symbols: Symbols, transactions: int) -> dict[str, Any]:
    """Changes of writer per transaction: in all, of the interface's lines, by name and function."""
    if transactions <= 0:
        raise CountersError(f"{window.path}: no transaction to divide by", "measure longer")
    if window.lost:
        raise CountersError(
            f"{window.path}: {window.lost} changes found no room in the plugin's tables",
            "start the testbed anew before so many lines were written",
        )
    found = list(rows(window, symbols))
    return {
        "transactions": transactions,
        "hottest": _hottest(found, transactions),
        "levels": {str(n): _level(found, n, transactions) for n in LEVELS},
    }


def _hottest(found: Sequence[Row], transactions: int) -> dict[str, Any]:
    """The one line that changes its writer most often."""
    shared = [row for row in found if not row.apart]
    if not shared:
        return {"changes": 0.0, "name": "", "functions": {}}
    row = max(shared, key=lambda row: row.changes)
    main = sorted(row.functions.items(), key=lambda item: -item[1])[:6]
    return {
        "changes": row.changes / transactions,
        "name": row.name,
        "functions": {name: round(count / transactions, 4) for name, count in main},
    }


def _level(found: Sequence[Row], least: int, transactions: int) -> dict[str, Any]:
    chosen = [row for row in found if row.writers >= least and not row.apart]
    apart: dict[str, float] = {}
    for row in found:
        if row.writers >= least and row.apart:
            apart[row.name] = apart.get(row.name, 0.0) + row.changes / transactions
    names: dict[str, dict[str, Any]] = {}
    functions: dict[str, float] = {}
    for row in chosen:
        one = names.setdefault(
            row.name, {"changes": 0.0, "lines": 0, "interface": row.interface, "functions": {}}
        )
        one["changes"] += row.changes / transactions
        one["lines"] += 1
        for function, count in row.functions.items():
            share = count / transactions
            one["functions"][function] = one["functions"].get(function, 0.0) + share
            functions[function] = functions.get(function, 0.0) + share
    worst = sorted(names.items(), key=lambda item: -item[1]["changes"])[:WORST]
    for _, one in worst:
        main = sorted(one["functions"].items(), key=lambda item: -item[1])[:6]
        one["functions"] = {name: round(share, 4) for name, share in main}
        one["changes"] = round(one["changes"], 4)
    by_function = sorted(functions.items(), key=lambda item: -item[1])[:WORST]
    return {
        "changes": sum(row.changes for row in chosen) / transactions,
        "interface": sum(row.changes for row in chosen if row.interface) / transactions,
        "lines": len(chosen),
        "apart": {name: round(share, 4) for name, share in apart.items()},
        "names": dict(worst),
        "functions": {name: round(share, 4) for name, share in by_function},
    }


def worst(
    points: Sequence[Mapping[str, Any]], folder: Path, level: int, least: int = 10
) -> list[list[Any]]:
    """Rows for a table, with the columns of HEADINGS.

    Of each point that was counted, the names of most changes of writer, from its first trial.
    """
    made = []
    seen = set()
    for point in points:
        if "log" not in point or point["status"] != "ok":
            continue
        path = folder / point["run"] / str(point["log"]) / LINES
        cell = point["cell"]
        key = tuple(sorted((k, v) for k, v in cell.items()))
        if key in seen or not path.exists():
            continue
        seen.add(key)
        names = json.loads(path.read_text())["levels"][str(level)]["names"]
        for name, one in list(names.items())[:least]:
            made.append(
                [
                    cell["system"],
                    cell.get("transactions_per_connection", ""),
                    cell["cores"],
                    name,
                    f"{one['changes']:.3f}",
                    one["lines"],
                    "yes" if one["interface"] else "no",
                    " ".join(one["functions"]),
                ]
            )
    return made


HEADINGS = [
    "system",
    "transactions",
    "cores",
    "line",
    "changes",
    "lines",
    "interface",
    "written by",
]


def write_table(results: Path, testbed: str, raw: Raw) -> Path | None:
    """tables/<experiment>-lines.csv: the worst lines of each point, for each level."""
    folder = results / testbed / "raw" / raw.experiment.id
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["writers", *HEADINGS])
    written = 0
    for level in LEVELS:
        for row in worst(raw.points, folder, level, WORST):
            writer.writerow([level, *row])
            written += 1
    if not written:
        return None
    path = results / testbed / "tables" / f"{raw.experiment.id}-lines.csv"
    record.write_whole(path, out.getvalue())
    return path


def metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a trial."""
    made = {"contention_hottest": float(found["hottest"]["changes"])}
    for level, one in found["levels"].items():
        made[f"contention_{level}"] = float(one["changes"])
        made[f"contention_interface_{level}"] = float(one["interface"])
        made[f"contention_apart_{level}"] = math.fsum(one["apart"].values())
    return made
