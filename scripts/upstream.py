#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write how upstream's tests ended between the marks of a port's README.md.

upstream.py TABLE README: from the table of harness/tests/test_memcached_upstream.py
"""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

BEGIN, END = "<!-- upstream: make upstream -->", "<!-- end of upstream -->"


def summary(table: str, day: str) -> str:
    """How many files passed on both, and each of the others."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if re.match(r"\| \S+\.t \|", line)
    ]
    # One line for all files that ended alike, in the order of the table.
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, *ends in rows:
        if ends != ["ok", "ok", ""]:
            alike.setdefault(tuple(ends), []).append(name)
    passed = len(rows) - sum(map(len, alike.values()))
    folders = sorted({name.partition("/")[0] for name, *_ in rows})
    said = f"{table.splitlines()[0]}; {day}. "
    said += f"{len(rows)} files ({', '.join(f'{folder}/' for folder in folders)}), "
    said += f"{passed} of them ok on both at the first run. The others:"
    head = ["| file | stock | megapipe | remark |", "|---|---|---|---|"]
    others = [f"| {', '.join(names)} | {' | '.join(ends)} |" for ends, names in alike.items()]
    return "\n".join([said, "", *head, *others])


def main() -> None:
    table, readme = map(Path, sys.argv[1:])
    day = datetime.fromtimestamp(table.stat().st_mtime, UTC).strftime("%Y-%m-%d")
    before, rest = readme.read_text().split(BEGIN)
    said = summary(table.read_text(), day)
    readme.write_text(f"{before}{BEGIN}\n{said}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
