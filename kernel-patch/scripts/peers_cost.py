#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does a program that does not use MegaPipe pay for it? Instructions, patched and untouched kernel.

 patched guest    pingpong-server <-- loopback --> megabench-load
 untouched guest  pingpong-server <-- loopback --> megabench-load

Both guests are up at the same time and take turns, so that whatever disturbs the machine disturbs
both alike. A guest has one processor: nobody spins, nothing depends on who runs where, and counts
repeat within some tenths of a percent even on a busy machine. A value is the difference of two runs
of the load, of N and of 3 N transactions, over 2 N: starting and ending the load drops out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabench import apps, instructions, paths
from megabench.testbed import Testbed

KERNELS = {"patched": "selftests", "untouched": "stock"}
BIN = "/run/megabench/bin"
RUN_S = 300.0
# The bound on the difference of the medians.
BOUND = 0.005


@dataclass(frozen=True)
class Cell:
    """What is asked of the server: connections, transactions of each (0: endless), N."""

    connections: int
    transactions: int
    count: int

    def __str__(self) -> str:
        length = f"{self.transactions} each" if self.transactions else "endless"
        return f"{self.connections} connections, {length}"


CELLS = (Cell(16, 1, 2000), Cell(16, 8, 4000), Cell(16, 0, 8000))


def testbed(kernel: str, config: str, folder: Path, cores: int) -> Testbed:
    """A testbed like the local one, but for its kernel and its processors."""
    text = (paths.harness() / "testbeds/local.toml").read_text()
    changes = {
        'name = "local"': f'name = "cost-{kernel}"',
        'kernel = "vm" ': f'kernel = "{config}" ',
        'accel = "auto"': 'accel = "tcg"',
        "cores = 8": f"cores = {cores}",
        "boot_timeout_s = 180": "boot_timeout_s = 900",
    }
    for old, new in changes.items():
        if old not in text:
            sys.exit(f"error: no '{old}' in local.toml")
        text = text.replace(old, new)
    path = folder / f"{kernel}.toml"
    path.write_text(text)
    return Testbed.load(str(path))


@contextmanager
def up(bed: Any) -> Iterator[Any]:
    """A booted guest with the programs in it."""
    bed.up()
    try:
        if bed.counter_file is None:
            sys.exit("error: instructions are not counted (make -C harness/plugin)")
        for program in ("pingpong-server", "megabench-load"):
            bed.server.put(paths.build() / "bin" / program, f"{BIN}/{program}")
        yield bed
    finally:
        bed.down()


def load(bed: Any, port: int, cell: Cell, count: int) -> None:
    argv = [
        *(f"{BIN}/megabench-load", "--target", f"127.0.0.1:{port}", "--workload", "pingpong"),
        *("--connections", str(cell.connections), "--transactions", str(cell.transactions)),
        *("--count", str(count), "--deadline", f"{RUN_S:g}"),
    ]
    said = bed.server.run(argv, timeout=RUN_S).stdout
    result = json.loads(said.strip().splitlines()[-1])
    errors = sum(result["errors"].values()) + sum(result["errors_outside"].values())
    if errors or not result.get("complete", True):
        sys.exit(f"error: the load failed: {said[-500:]}")


def cost(bed: Any, port: int, cell: Cell) -> float:
    """Instructions of the whole guest per transaction."""
    readings = [instructions.read(bed.counter_file)]
    for count in (cell.count, 3 * cell.count):
        load(bed, port, cell, count)
        readings.append(instructions.read(bed.counter_file))
    short, long = (
        instructions.summary(instructions.diff(begin, end), 1)["instructions"]
        for begin, end in itertools.pairwise(readings)
    )
    return float(long - short) / (2 * cell.count)


def measure(
    beds: dict[str, Any], systems: list[str], repeats: int, logs: Path
) -> dict[tuple[str, Cell], dict[str, list[float]]]:
    """All values, by system and cell, and kernel."""
    values: dict[tuple[str, Cell], dict[str, list[float]]] = {}
    with ExitStack() as stack:
        ports = {}
        for number, system in enumerate(systems):
            for kernel, bed in beds.items():
                port = apps.port_of(number)
                argv = [f"{BIN}/pingpong-server", "--api", system, "--port", str(port)]
                log = logs / f"{kernel}-{system}.log"
                stack.enter_context(apps.Program(bed.server, argv, log)).wait_for("ready", RUN_S)
                ports[system] = port
        for repeat in range(-1, repeats):
            for system in systems:
                for cell in CELLS:
                    row = values.setdefault((system, cell), {kernel: [] for kernel in beds})
                    order = list(beds) if repeat % 2 else list(beds)[::-1]
                    for kernel in order:
                        value = cost(beds[kernel], ports[system], cell)
                        # The first time warms up: slabs, routes, metrics.
                        if repeat >= 0:
                            row[kernel].append(value)
                    if repeat >= 0:
                        shown = ", ".join(f"{k} {row[k][-1]:,.0f}" for k in beds)
                        print(f"{repeat}: {system}, {cell}: {shown}", file=sys.stderr, flush=True)
    return values


def span(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} - {max(values):,.0f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--systems", default="epoll,reuseport,io_uring")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--table", type=Path, help="write the table into this file")
    args = parser.parse_args()
    folder = paths.build() / "peers-cost"
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with ExitStack() as stack:
        beds = {}
        for kernel, config in KERNELS.items():
            beds[kernel] = stack.enter_context(up(testbed(kernel, config, folder, args.cores)))
        values = measure(beds, args.systems.split(","), args.repeats, folder)
    lines = [
        "| system | load | patched | untouched | difference |",
        "|---|---|---|---|---|",
    ]
    worst = 0.0
    for (system, cell), row in values.items():
        patched, untouched = (statistics.median(row[kernel]) for kernel in KERNELS)
        difference = patched / untouched - 1
        worst = max(worst, abs(difference))
        lines.append(
            f"| {system} | {cell} | {span(row['patched'])} | {span(row['untouched'])} "
            f"| {difference:+.2%} |"
        )
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.table:
        args.table.write_text(text)
    (folder / "values.json").write_text(
        json.dumps({f"{system}, {cell}": row for (system, cell), row in values.items()}, indent=1)
    )
    verdict = "ok" if worst <= BOUND else "failed"
    print(
        f"{verdict}: the largest difference of medians is {worst:.2%} (bound {BOUND:.1%}); "
        f"{args.repeats} values each, {time.monotonic() - begin:.0f} s"
    )
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
