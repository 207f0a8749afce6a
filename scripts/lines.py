#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the table of changed lines between the marks of a port's README.md.

lines.py FOLDER: from FOLDER/patches, and the new files in FOLDER/auto, FOLDER/src and FOLDER/t
"""

import re
import sys
from pathlib import Path

BEGIN, END = "<!-- lines: make lines -->", "<!-- end of lines -->"


def patched(port: Path) -> dict[str, list[int]]:
    """Lines added to and removed from each of upstream's files."""
    files: dict[str, list[int]] = {}
    for patch in sorted((port / "patches").glob("*.patch")):
        counts = [0, 0]
        for line in patch.read_text().splitlines():
            if found := re.match(r"\+\+\+ b/(.*)", line):
                counts = files.setdefault(found[1], [0, 0])
            elif line.startswith("+"):
                counts[0] += 1
            elif line.startswith("-") and not line.startswith("--- "):
                counts[1] += 1
    return files


def table(port: Path) -> str:
    files = sorted(patched(port).items())
    total = [sum(counts[i] for _, counts in files) for i in (0, 1)]
    rows = [(name, *counts) for name, counts in files]
    rows.append(("**upstream's files**", *(f"**{count}**" for count in total)))
    new = (path for top in ("auto", "src", "t") for path in (port / top).rglob("*"))
    for path in sorted(path for path in new if path.is_file()):
        name = path.relative_to(port)
        rows.append((f"[{name}]({name})", path.read_text().count("\n"), ""))
    head = ["| file | added | removed |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {name} | {plus} | {minus} |" for name, plus, minus in rows)])


def readme(port: Path) -> str:
    """README.md as it should be."""
    before, rest = (port / "README.md").read_text().split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table(port)}\n{END}{after}"


def main() -> None:
    port = Path(sys.argv[1])
    text = readme(port)
    (port / "README.md").write_text(text)


if __name__ == "__main__":
    main()
