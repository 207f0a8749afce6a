# SPDX-License-Identifier: MIT
"""The tables of changed lines in the ports' README.md are what scripts/lines.py counts."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("port", ["memcached", "nginx"])
def test_table_is_current(port: str) -> None:
    folder = ROOT / "apps" / port
    lines = runpy.run_path(str(ROOT / "scripts" / "lines.py"))
    assert (folder / "README.md").read_text() == lines["readme"](folder), (
        f"run: make -C apps/{port} lines"
    )
