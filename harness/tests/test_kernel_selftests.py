# SPDX-License-Identifier: MIT
"""The kernel's own tests of MegaPipe, each program in the guest, on each kernel asked for.

MEGAPIPE_KERNELS says which: "vm" is the testbed's own, on any testbed; "debug", "kcsan" and
"coverage" are built by `make -C kernel-patch build CONFIG=…` and booted here. MEGAPIPE_TEST_SCALE
scales the programs' loops. What they print is kept in build/test-kernel/<kernel>/.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from kernel_bed import bed_of
from kernel_log import DEBUGFS, complaints, forget_leaks, has_kmemleak, leaks
from programs import ROOT

from megabench import paths
from megabench.host import Host

SOURCE = ROOT / "kernel-patch/tools/testing/selftests/net/megapipe"
GUEST = "/run/megabench/selftests"
KERNELS = os.environ.get("MEGAPIPE_KERNELS", "vm").split()
SKIPPED = 4

# How much slower than the ordinary kernel, so how much less is done and how long it may take.
SCALE = {"vm": "1", "debug": "0.2", "kcsan": "0.2", "coverage": "0.2"}
TIMEOUT_S = {"vm": 300.0, "debug": 1200.0, "kcsan": 1200.0, "coverage": 1200.0}

pytestmark = pytest.mark.vm

# One more is built from a source of another name, where the compiler can make 32-bit programs, and
# the fuzzer from several.
PROGRAMS = sorted([*(path.stem for path in SOURCE.glob("*.c")), "abi_32", "fuzz"])


class Kernel:
    """A booted kernel, with the programs to run on it."""

    def __init__(self, name: str, guest: Host) -> None:
        self.name = name
        self.guest = guest
        self.scale = os.environ.get("MEGAPIPE_TEST_SCALE", SCALE[name])
        self.timeout_s = float(os.environ.get("MEGAPIPE_TEST_TIMEOUT", TIMEOUT_S[name]))
        self.logs = paths.build() / "test-kernel" / name
        self.logs.mkdir(parents=True, exist_ok=True)

    def run(self, program: str) -> tuple[int, str]:
        """Its exit status and all it said, a copy of which stays in a file."""
        self.guest.put(paths.build() / "selftests" / program, f"{GUEST}/{program}")
        script = f"cd {GUEST} && MEGAPIPE_TEST_SCALE={self.scale} exec ./{program} 2>&1"
        done = self.guest.run(["sh", "-c", script], timeout=self.timeout_s, check=False)
        (self.logs / f"{program}.tap").write_text(done.stdout)
        return done.exit_status, done.stdout


@pytest.fixture(scope="session", params=KERNELS)
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    subprocess.run(["make", "-s", "-C", str(ROOT / "kernel-patch"), "selftests"], check=True)
    name = request.param
    if name == "vm":
        yield Kernel(name, request.getfixturevalue("testbed").server)
        return
    bed = bed_of(name, tmp_path_factory.mktemp("testbed"))
    bed.up()
    try:
        bed.server.run(["sh", "-c", DEBUGFS], timeout=60)
        if name == "kcsan":
            bed.server.run(["sh", "-c", "echo on >/sys/kernel/debug/kcsan"], timeout=60)
        yield Kernel(name, bed.server)
    finally:
        bed.down()


@pytest.fixture(scope="session")
def leak_free_start(kernel: Kernel) -> bool:
    """Whether leaks are looked for; those of booting are forgotten."""
    if not has_kmemleak(kernel.guest):
        return False
    forget_leaks(kernel.guest)
    return True


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.usefixtures("leak_free_start")
def test_program(kernel: Kernel, program: str) -> None:
    if not (paths.build() / "selftests" / program).exists():
        pytest.skip("could not be compiled here")
    complaints(kernel.guest)
    status, said = kernel.run(program)
    if program.endswith("_32") and "Exec format error" in said:
        pytest.skip("this kernel runs no 32-bit programs: the debug kernel does")
    complained = complaints(kernel.guest)
    assert not complained, said + "\n".join(complained)
    if status == SKIPPED:
        pytest.skip(said.strip().splitlines()[-1] if said.strip() else "skipped")
    assert status == 0, said


@pytest.mark.usefixtures("leak_free_start")
def test_kunit(kernel: Kernel) -> None:
    """The tests that are in the kernel have run when it booted."""
    script = f"{DEBUGFS}; cat /sys/kernel/debug/kunit/megapipe*/results"
    done = kernel.guest.run(["sh", "-c", script], timeout=60, check=False)
    if done.exit_status:
        pytest.skip("this kernel has none")
    (kernel.logs / "kunit.tap").write_text(done.stdout)
    assert "\nok 1 " in done.stdout
    assert "not ok" not in done.stdout, done.stdout


def test_nothing_leaked(kernel: Kernel, leak_free_start: bool) -> None:
    if not leak_free_start:
        pytest.skip("this kernel has no kmemleak")
    assert not leaks(kernel.guest)


def test_coverage(kernel: Kernel) -> None:
    """The programs before this one have run nearly every line of net/megapipe."""
    if kernel.name != "coverage":
        pytest.skip("this kernel does not count lines")
    # Files of debugfs have no size: tar cannot read them, cat can.
    script = (
        f"mkdir -p {GUEST}/gcov && cd {GUEST}/gcov && "
        "find /sys/kernel/debug/gcov -path '*/net/megapipe/*.gcda' | "
        'while read -r file; do cat "$file" >"${file##*/}"; done; ls'
    )
    files = kernel.guest.run(["sh", "-c", script], timeout=120).stdout.split()
    assert files
    counters = kernel.logs / "gcov"
    for name in files:
        kernel.guest.get(f"{GUEST}/gcov/{name}", counters / name)
    objects = paths.build() / "kernel-coverage/net/megapipe"
    argv = [sys.executable, str(ROOT / "kernel-patch/scripts/coverage.py"), "--least", "90"]
    argv += ["--objects", str(objects), "--counters", str(counters)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    (kernel.logs / "coverage.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
