# SPDX-License-Identifier: MIT
"""Whether everything is there that a run needs: `megabench check`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megabench import apps, paths, record, system
from megabench.errors import HarnessError
from megabench.experiment import all_experiments, experiment_files, read_experiment
from megabench.readiness import MEND


@dataclass(frozen=True)
class Check:
    """One thing, whether it is well, and what it is or what to do."""

    what: str
    ok: bool
    said: str
    # Fine, will change, must mend, note: where there is more to say than ok.
    level: str = ""


def check(testbed: str, load: Callable[[str], Any]) -> list[Check]:
    """Definitions, programs, kernel, testbed, disk; nothing is started."""
    found = [_try("systems.toml", lambda: f"{len(system.load_systems())} systems")]
    for name, path in experiment_files().items():
        found.append(_try(f"experiment {name}", partial(_title, path)))
    found += _programs()
    found += _testbed(testbed, load)
    found.append(_try("disk", _space))
    return found


def _try(what: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(what, True, ask())
    except HarnessError as error:
        return Check(what, False, f"{error.message}; {error.hint}" if error.hint else error.message)


def _title(path: Path) -> str:
    return read_experiment(path).title


def _file(what: str, path: Path, make: str) -> Check:
    if path.exists():
        return Check(what, True, str(path))
    return Check(what, False, f"no {path}: {make}")


def _programs() -> list[Check]:
    found = []
    for name in sorted({one.app for one in all_experiments()}):
        app = apps.app(name)
        for program in app.programs(name):
            found.append(_file(f"server of {name}", Path(apps.binary(program, None)), app.make))
        found.append(_file(f"load of {name}", Path(apps.binary(app.load, None)), "make load"))
    return found


def _testbed(name: str, load: Callable[[str], Any]) -> list[Check]:
    try:
        bed = load(name)
    except HarnessError as error:
        return [Check(f"testbed {name}", False, f"{error.message}; {error.hint}")]
    inspect = getattr(bed, "inspect", None)
    if inspect is not None:
        return [
            Check(f"{one.host}: {one.what}", one.level != MEND, one.said, one.level)
            for one in inspect()
        ]
    found = [Check(f"testbed {name}", True, "up" if bed.is_up() else "down")]
    image = getattr(bed, "image", None)
    if image is not None:
        found.append(_file("kernel", Path(image), "make kernel"))
        plugin = paths.build() / "bin" / "libinsn.so"
        found.append(_file("instruction counter", plugin, "make plugin"))
    return found


def _space() -> str:
    record.check_space(paths.results())
    return "enough space for results"
