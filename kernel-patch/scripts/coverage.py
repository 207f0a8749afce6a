#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which lines of net/megapipe ran: a table from the counters of a coverage kernel.

    coverage.py --objects build/kernel-coverage/net/megapipe --counters DIRECTORY [--least 90]

DIRECTORY holds the *.gcda of /sys/kernel/debug/gcov/.../net/megapipe, copied while that kernel ran
(a booted kernel counts from its start). Lines are those that the compiler made code for. Tests that
are built into the kernel are not counted. Exit status 1: fewer lines ran than --least per cent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# file name -> line -> times it ran
Counts = dict[str, dict[int, int]]


def read(objects: Path, counters: Path) -> Counts:
    """Counts of all lines, added up over the objects that a header is part of."""
    counts: Counts = defaultdict(lambda: defaultdict(int))
    with tempfile.TemporaryDirectory() as scratch:
        for notes in sorted(objects.glob("*.gcno")):
            data = counters / f"{notes.stem}.gcda"
            if data.exists():
                shutil.copy(data, scratch)
            shutil.copy(notes, scratch)
            said = subprocess.run(
                ["gcov", "--json-format", "--stdout", notes.name],
                cwd=scratch, capture_output=True, text=True, check=True,
            )  # fmt: skip
            for report in map(json.loads, said.stdout.splitlines()):
                for file in report["files"]:
                    path = Path(file["file"])
                    if path.parent.name != "megapipe" or "kunit" in path.name:
                        continue
                    for line in file["lines"]:
                        counts[path.name][line["line_number"]] += line["count"]
    return counts


def ranges(lines: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    pieces: list[list[int]] = []
    for line in lines:
        if pieces and line == pieces[-1][-1] + 1:
            pieces[-1] = [pieces[-1][0], line]
        else:
            pieces.append([line])
    return ", ".join("-".join(map(str, piece)) for piece in pieces)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=Path, required=True)
    parser.add_argument("--counters", type=Path, required=True)
    parser.add_argument("--least", type=float, default=0, help="per cent of all lines")
    args = parser.parse_args()

    counts = read(args.objects, args.counters)
    if not counts:
        print(f"error: no *.gcno in {args.objects}: is it a coverage kernel?", file=sys.stderr)
        return 1
    print(f"{'file':<14} {'lines':>6} {'ran':>6} {'%':>6}  never")
    total = ran_total = 0
    for name, lines in sorted(counts.items()):
        never = sorted(line for line, count in lines.items() if not count)
        ran = len(lines) - len(never)
        total += len(lines)
        ran_total += ran
        print(
            f"{name:<14} {len(lines):>6} {ran:>6} {100 * ran / len(lines):>6.1f}  {ranges(never)}"
        )
    percent = 100 * ran_total / total
    print(f"{'all':<14} {total:>6} {ran_total:>6} {percent:>6.1f}")
    if percent < args.least:
        print(f"error: less than {args.least:g} % of the lines ran", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
