# SPDX-License-Identifier: MIT
"""libmegapipe on a simulated kernel, its header and exports, its installation and example.

test program (ASan, UBSan) --- libmegapipe's src/*.c --- test/fake.c in the place of src/sys.c
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from programs import BIN, ROOT, build

LIBRARY = ROOT / "libmegapipe"
TESTS = sorted(path.stem for path in (LIBRARY / "test").glob("[!v]*.c") if path.stem != "fake")


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "-s", "-C", str(LIBRARY), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    build("libmegapipe")
    make("-j2", "tests")


@pytest.mark.parametrize("name", TESTS)
def test_simulated(name: str) -> None:
    """Each program is one behaviour; its lines say which case failed."""
    done = subprocess.run(
        [str(BIN / "libmegapipe" / "test" / name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stdout + done.stderr
    assert "ok " in done.stdout


def test_header_and_exports() -> None:
    make("check")


def test_kernel_header_is_enough_for_a_library_alone(tmp_path: Path) -> None:
    """A machine without MegaPipe's headers in /usr/include builds it, from read-only sources."""
    make(f"BUILD={tmp_path}", "lib")
    assert (tmp_path / "lib" / "libmegapipe.so.0").exists()


def test_install_and_uninstall(tmp_path: Path) -> None:
    """A program is built against what was installed, by pkg-config's answer, and runs."""
    where = [f"DESTDIR={tmp_path}", "PREFIX=/usr"]
    make("install", *where)
    pc = (tmp_path / "usr/lib/pkgconfig/libmegapipe.pc").read_text()
    assert "@" not in pc
    flags = {
        name: re.sub(r"\$\{(\w+)\}", lambda m: str(tmp_path) + variable(pc, m[1]), value)
        for name, value in re.findall(r"^(Cflags|Libs): (.*)$", pc, re.M)
    }
    program = tmp_path / "pingpong"
    source = LIBRARY / "examples" / "pingpong.c"
    subprocess.run(
        ["gcc", *flags["Cflags"].split(), str(source), "-o", str(program), *flags["Libs"].split()],
        check=True,
        timeout=60,
    )
    done = subprocess.run(
        [str(program)],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "usr/lib")},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
    program.unlink()

    make("uninstall", *where)
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


def variable(pc: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", pc, re.M)
    assert found
    return found[1]


def test_example_is_one_screen() -> None:
    assert len((LIBRARY / "examples" / "pingpong.c").read_text().splitlines()) < 120


def test_hot_path_cost() -> None:
    """User instructions of a request and of a completion, which every transaction pays for.

    Counted in the compiled functions, on the path that neither waits nor fails. The bounds are a
    little above what GCC 12 makes of them, so that a lock or a call is noticed.
    """
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(ROOT / "build/lib/libmegapipe.so")],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    if "x86-64" not in listing:
        pytest.skip("counted on x86-64 only")
    for function, most in (("mp_read", 26), ("mp_write", 26), ("mp_dispatch", 44)):
        assert straight_path(listing, function) <= most


def straight_path(listing: str, function: str) -> int:
    """Instructions from the entry to the first return, no jump taken."""
    body = re.search(rf"<{function}(?:@@\w+)?>:\n(.*?)\n\n", listing, re.S)
    assert body
    for count, line in enumerate(body[1].splitlines(), start=1):
        instruction = line.split("\t")[-1]
        assert not instruction.startswith("call"), f"{function} calls: {line}"
        if instruction.startswith("ret"):
            return count
    raise AssertionError(f"{function} does not return")
