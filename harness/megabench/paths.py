# SPDX-License-Identifier: MIT
"""Where things lie in the checkout.

MEGABENCH_ROOT moves the whole tree (the tests use it); MEGABENCH_BUILD moves build/ alone, so that
several checkouts may share one set of kernel objects.
"""

import os
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[1]


def root() -> Path:
    """The checkout."""
    return Path(os.environ.get("MEGABENCH_ROOT", HARNESS.parent))


def build() -> Path:
    """Everything made: trees, images, binaries, state."""
    return Path(os.environ.get("MEGABENCH_BUILD", root() / "build"))


def results() -> Path:
    """Raw results and all that is drawn from them."""
    return root() / "results"


def harness() -> Path:
    """Definitions (experiments, testbeds, systems); the package's own checkout unless moved."""
    moved = root() / "harness"
    return moved if (moved / "systems.toml").exists() else HARNESS


def from_here(path: Path) -> str:
    """A path as programs started from here find it; where the checkout lies is nobody's business.

    They say their options with their results, which are kept.
    """
    return os.path.relpath(path) if path.is_relative_to(root()) else str(path)
