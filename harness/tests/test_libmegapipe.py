# SPDX-License-Identifier: MIT
"""libmegapipe on a simulated kernel, its coverage, what a packager checks, and megapipe-info.

test program (ASan, UBSan or TSan) --- libmegapipe's src/*.c --- test/fake.c in the place of sys.c
"""

import json
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
        timeout=600,
        check=False,
    )
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    build("libmegapipe")
    make("-j2", "tests")


@pytest.mark.parametrize(
    "name", [*(f"test/{name}" for name in TESTS), "test-tsan/create", "test-tsan/shared"]
)
def test_simulated(name: str) -> None:
    """Each program is one behaviour; its lines say which case failed."""
    done = subprocess.run(
        [str(BIN / "libmegapipe" / name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stdout + done.stderr
    assert "ok " in done.stdout


@pytest.mark.parametrize("part", ["symbols", "header", "clang", "32", "install"])
def test_check(part: str) -> None:
    """What a packager would look at: make -C libmegapipe check, part by part."""
    make(f"check-{part}")


def test_coverage() -> None:
    """The tests run at least 90 % of the lines of src/, and the table says so file by file."""
    table = make("coverage")
    shares = dict(re.findall(r"^(\S+) +\d+ +([\d.]+) %$", table, re.M))
    files = {f"src/{path.name}" for path in (LIBRARY / "src").glob("*.c")}
    assert set(shares) == files | {"all"}
    assert float(shares["all"]) >= 90


def test_kernel_header_is_enough_for_a_library_alone(tmp_path: Path) -> None:
    """A machine without MegaPipe's headers in /usr/include builds it, from read-only sources."""
    make(f"BUILD={tmp_path}", "lib")
    assert (tmp_path / "lib" / "libmegapipe.so.1").exists()


def test_info_where_there_is_none() -> None:
    """Exit status 1 and an explanation; on a machine with MegaPipe, 0 and the limits."""
    program = str(ROOT / "build/bin/megapipe-info")
    plain = subprocess.run([program], capture_output=True, text=True, timeout=30, check=False)
    json_too = subprocess.run(
        [program, "--json"], capture_output=True, text=True, timeout=30, check=False
    )
    assert plain.returncode == json_too.returncode
    answer = json.loads(json_too.stdout)
    if Path("/dev/megapipe").exists():
        assert answer["available"] == (plain.returncode == 0)
    else:
        assert plain.returncode == 1
        assert not answer["available"]
        for word in ("CONFIG_MEGAPIPE=y", "Linux 6.12", "megapipe(7)"):
            assert word in plain.stdout
            assert word in answer["explanation"]


@pytest.mark.parametrize("arguments", [["--wrong"], ["extra"]])
def test_info_wrong_usage(arguments: list[str]) -> None:
    program = str(ROOT / "build/bin/megapipe-info")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "usage: " in done.stderr


def test_example_is_one_screen() -> None:
    assert len((LIBRARY / "examples" / "pingpong.c").read_text().splitlines()) < 120


def test_cost() -> None:
    """The ping-pong server through the library: at most 1.15 times the instructions without it.

    With many or few completions a dispatch, on long connections and on such of one transaction.
    """
    table = make("cost")
    ratios = re.findall(r"^ +\d+ +\d+ +[\d.]+ +[\d.]+ +([\d.]+)$", table, re.M)
    if not ratios:
        pytest.skip("counted on x86-64 only")
    assert len(ratios) == 8
    assert max(map(float, ratios)) <= 1.15, table


def test_hot_path_cost() -> None:
    """Instructions of a request and of a completion, for those who do not inline them.

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
    bounds = {"mp_read": 26, "mp_write": 24, "mp_write_then_read": 29, "mp_dispatch": 34}
    for function, most in bounds.items():
        assert straight_path(listing, function) <= most, function


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
