# SPDX-License-Identifier: MIT
"""Each guard of kernel-patch/guards.toml, taken out of the kernel: its test must fail.

    guards.toml --> a copy of kernel-patch/ without the guard --> build/guards/kernel-vm --> guest

With TEST_GUARDS=1 (make test-kernel STAGES=guards: two minutes a guard), or TEST_GUARDS=name,name.
What became of each is added to build/test-kernel/guards.md.
"""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kernel_bed import bed_of
from kernel_log import complaints
from programs import ROOT

from megabench import paths
from megabench.errors import HarnessError

PATCH = ROOT / "kernel-patch"
SELFTESTS = PATCH / "tools/testing/selftests/net/megapipe"
GUEST = "/run/megabench/selftests"
ASKED = os.environ.get("TEST_GUARDS", "")
BUILD_S, RUN_S = 3600, 180.0


@dataclass(frozen=True)
class Guard:
    """A piece of the kernel's source, and what fails without it."""

    name: str
    risk: str
    file: str
    old: str
    new: str
    program: str
    test: str

    def without(self, text: str) -> str:
        """The file's text without it."""
        assert text.count(self.old) == 1, f"{self.file} has not this once: {self.old}"
        return text.replace(self.old, self.new)


def guards() -> list[Guard]:
    rows = tomllib.loads((PATCH / "guards.toml").read_text())
    made = []
    for name, row in rows.items():
        program, test = row.pop("test").split()
        made.append(Guard(name, program=program, test=test, **row))
    return made


GUARDS = guards()
WANTED = [one for one in GUARDS if ASKED == "1" or one.name in ASKED.split(",")]
named = pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)


@named
def test_guards__are_in_the_source(guard: Guard) -> None:
    text = (PATCH / guard.file).read_text()
    assert guard.without(text) != text
    tests = re.findall(
        r"^TEST\w*\((?:\w+, )?(\w+)", (SELFTESTS / f"{guard.program}.c").read_text(), re.M
    )
    assert guard.test in tests


def judge(status: int | None, said: str, complained: list[str], test: str) -> str:
    """What failed, or nothing."""
    if status is None:
        return "the machine or the test hung"
    if complained:
        return f"the kernel says: {complained[0].strip()}"
    if re.search(rf"^not ok \d+ \S*\b{test}\b", said, re.M):
        return "the test fails"
    return ""


@pytest.mark.parametrize(
    ("status", "said", "complained", "fails"),
    [
        (0, "ok 1 pair.reads\n", [], False),
        (1, "not ok 1 pair.reads\n", [], True),
        (1, "not ok 2 pair.reads_more\nok 1 pair.reads\n", [], False),
        (0, "ok 1 pair.reads # SKIP no such thing\n", [], False),
        (0, "ok 1 pair.reads\n", ["[1.0] BUG: KASAN: slab-use-after-free"], True),
        (None, "", [], True),
    ],
)
def test_judge__only_its_own_failure_counts(
    status: int | None, said: str, complained: list[str], fails: bool
) -> None:
    assert bool(judge(status, said, complained, "reads")) == fails


@pytest.fixture(scope="session")
def build() -> Iterator[Path]:
    """A folder for trees and kernels of their own, which share the compiler's cache."""
    subprocess.run(["make", "-s", "-C", str(PATCH), "selftests"], check=True)
    folder = paths.build() / "guards"
    folder.mkdir(parents=True, exist_ok=True)
    link = paths.build() / "kernel-guards"
    link.unlink(missing_ok=True)
    link.symlink_to(folder / "kernel-vm")
    yield folder
    link.unlink()


def make_kernel(guard: Guard, build: Path) -> None:
    source = build / "kernel-patch"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(PATCH, source)
    file = source / guard.file
    file.write_text(guard.without(file.read_text()))
    tarball = paths.build() / "cache/linux-source.tar.xz"
    argv = ["make", "-s", "-C", str(source), "build", "CONFIG=vm", f"BUILD={build}"]
    cache = os.environ.get("CCACHE_DIR", str(paths.build() / "cache/ccache"))
    done = subprocess.run(
        [*argv, f"LINUX_TARBALL={tarball}", f"CCACHE_DIR={cache}", f"JOBS={os.cpu_count()}"],
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.vm
@pytest.mark.skipif(not WANTED, reason="make test-kernel STAGES=guards")
@pytest.mark.parametrize("guard", WANTED, ids=lambda guard: guard.name)
def test_guard__is_missed(guard: Guard, build: Path, tmp_path: Path) -> None:
    make_kernel(guard, build)
    bed = bed_of("guards", tmp_path)
    bed.up()
    status, said, complained = None, "", []
    try:
        bed.server.put(paths.build() / "selftests" / guard.program, f"{GUEST}/{guard.program}")
        complaints(bed.server)
        script = (
            f"cd {GUEST} && MEGAPIPE_TEST_SCALE=0.5 exec ./{guard.program} -t {guard.test} 2>&1"
        )
        # Whatever hangs then, the machine itself included, hangs for want of the guard.
        done = bed.server.run(["sh", "-c", script], timeout=RUN_S, check=False)
        said = done.stdout
        complained = complaints(bed.server)
        status = done.exit_status
    except HarnessError as error:
        said += str(error)
    finally:
        bed.down()
    why = judge(status, said, complained, guard.test)
    row = f"| {guard.name} | {guard.risk} | `{guard.program}`, `{guard.test}` | {why or 'PASSES'} |"
    logs = paths.build() / "test-kernel"
    logs.mkdir(exist_ok=True)
    with (logs / "guards.md").open("a") as table:
        table.write(row + "\n")
    assert why, said
