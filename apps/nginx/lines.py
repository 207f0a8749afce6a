#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the table of changed lines between the marks of README.md, from patches/ and src/."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- lines: make lines -->", "<!-- end of lines -->"


def patched() -> dict[str, list[int]]:
    """Lines added to and removed from each of upstream's files."""
    files: dict[str, list[int]] = {}
    for patch in sorted((HERE / "patches").glob("*.patch")):
        counts = [0, 0]
        for line in patch.read_text().splitlines():
            if found := re.match(r"\+\+\+ b/(.*)", line):
                counts = files.setdefault(found[1], [0, 0])
            elif line.startswith("+"):
                counts[0] += 1
            elif line.startswith("-") and not line.startswith("--- "):
                counts[1] += 1
    return files


def table() -> str:
    files = sorted(patched().items())
    total = [sum(counts[i] for _, counts in files) for i in (0, 1)]
    rows = [(name, *counts) for name, counts in files]
    rows.append(("**upstream's files**", *(f"**{count}**" for count in total)))
    new = (path for top in ("auto", "src") for path in (HERE / top).rglob("*"))
    for path in sorted(path for path in new if path.is_file()):
        name = path.relative_to(HERE)
        rows.append((f"[{name}]({name})", path.read_text().count("\n"), ""))
    head = ["| file | added | removed |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {name} | {plus} | {minus} |" for name, plus, minus in rows)])


def main() -> None:
    readme = Path(sys.argv[1])
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
