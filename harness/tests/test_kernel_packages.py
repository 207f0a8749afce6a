# SPDX-License-Identifier: MIT
"""kernel-patch/scripts/deb.sh: the configuration that goes into a server's packages.

test --> deb.sh --> a tree whose `make` leaves the configuration as it is, and packs nothing
"""

import subprocess
from pathlib import Path

import pytest

from megabench import paths

SCRIPT = paths.HARNESS.parent / "kernel-patch/scripts/deb.sh"
MAKEFILE = """\
olddefconfig:
	@{change}
bindeb-pkg:
	@touch $(O)/../linux-image-6.12-megapipe_1_amd64.deb
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What packs is not needed to look at the configuration."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dh_prep", "dpkg-buildpackage", "rsync"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")


def packed(folder: Path, change: str = "true") -> tuple[subprocess.CompletedProcess[str], Path]:
    """What deb.sh says of a distribution's configuration, and the one that it makes of it."""
    tree = folder / "tree"
    (tree / "scripts").mkdir(parents=True)
    (tree / "scripts/config").write_text("#!/bin/sh\n")
    (tree / "scripts/config").chmod(0o755)
    (tree / "Makefile").write_text(MAKEFILE.format(change=change))
    theirs = folder / "config"
    theirs.write_text("CONFIG_NET=y\n# CONFIG_MEGAPIPE is not set\n")
    argv = ["sh", str(SCRIPT), str(tree), str(folder / "deb"), str(theirs), "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done, folder / "deb/objects/.config"


def last(config: Path) -> dict[str, str]:
    """Of an option that is there twice the last one counts."""
    lines = [line for line in config.read_text().splitlines() if line.startswith("CONFIG_")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.usefixtures("tools")
def test_deb__a_server_has_megapipe_and_the_floor_to_measure_it_by(tmp_path: Path) -> None:
    done, config = packed(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "linux-image-6.12-megapipe_1_amd64.deb" in done.stdout
    has = last(config)
    assert has["CONFIG_NET"] == has["CONFIG_MEGAPIPE"] == has["CONFIG_MEGAPIPE_FLOOR"] == "y"


@pytest.mark.usefixtures("tools")
def test_deb__an_option_that_gets_lost_is_said(tmp_path: Path) -> None:
    done, _ = packed(tmp_path, "sed -i /FLOOR=/d $(O)/.config")
    assert done.returncode == 1
    assert "error: CONFIG_MEGAPIPE_FLOOR=y cannot be had with" in done.stderr
