# SPDX-License-Identifier: MIT
"""The scripts that prove something of the kernel patch by building (kernel-patch/scripts)."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "kernel-patch/scripts"
sys.path.insert(0, str(SCRIPTS))

import objects  # noqa: E402
import peers  # noqa: E402

SOURCE = """
#define BUG_AT(line) asm volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n" \\
	".long 1b - ., 0\\n.word %c0, 0\\n.popsection" :: "i"(line))
int shared = 3;
static int first(int x) {{ static int warned; return warned += x; }}
int second(int x) {{ if (x > {limit}) BUG_AT(__LINE__); return first(x) + shared; }}
"""
SERIES = """From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A <a@localhost>
Date: Mon, 23 Nov 2026 13:01:17 +0000
Subject: [PATCH] net: one line

---
 net/a.c | 1 +

diff --git a/net/a.c b/net/a.c
--- a/net/a.c
+++ b/net/a.c
@@ -2,6 +2,7 @@
 one
 two
 three
+new
 four
 five
 six
"""
NUMBERS = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"


def compiled(folder: Path, name: str, source: str) -> Path:
    path = folder / f"{name}.c"
    path.write_text(source)
    subprocess.run(["gcc", "-O2", "-c", "-o", path.with_suffix(".o"), path], check=True)
    return path.with_suffix(".o")


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_differences__lines_and_local_names_are_none(tmp_path: Path) -> None:
    source = SOURCE.format(limit=7)
    before = compiled(tmp_path, "before", source)
    moved = compiled(tmp_path, "moved", "extern int other(int);\n\n\n" + source)
    assert before.read_bytes() != moved.read_bytes()
    assert objects.differences(before, moved) == []


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("x > 7", "x > 8", ".text"),
        ("shared = 3", "shared = 4", ".data"),
        ("int second", "int third", "global symbols"),
        ('".word %c0, 0', '".word %c0, 1', "__bug_table"),
    ],
)
def test_differences__code_and_data_are(tmp_path: Path, old: str, new: str, where: str) -> None:
    source = SOURCE.format(limit=7)
    assert old in source or old.strip('"') in source
    changed = source.replace(old.strip('"'), new.strip('"'))
    found = objects.differences(
        compiled(tmp_path, "before", source), compiled(tmp_path, "after", changed)
    )
    assert where in found


def kernel(folder: Path, release: str, text: str) -> Path:
    """A tarball of a kernel of two files."""
    version, patchlevel, sublevel = release.split(".")
    tree = folder / f"linux-{release}"
    (tree / "net").mkdir(parents=True)
    (tree / "Makefile").write_text(
        f"VERSION = {version}\nPATCHLEVEL = {patchlevel}\nSUBLEVEL = {sublevel}\n"
    )
    (tree / "net/a.c").write_text(text)
    path = folder / f"linux-{release}.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(tree, arcname=tree.name)
    shutil.rmtree(tree)
    return path


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_applies__by_context_at_any_line_and_no_fuzz(tmp_path: Path) -> None:
    series = tmp_path / "series"
    kernels = tmp_path / "kernels"
    series.mkdir()
    kernels.mkdir()
    (series / "0001-one.patch").write_text(SERIES)
    kernel(kernels, "6.12.9", "zero\n" + NUMBERS)
    kernel(kernels, "6.12.10", "zero\n" * 3 + NUMBERS)
    argv = [sys.executable, str(SCRIPTS / "applies.py"), str(series), str(kernels)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["ok", "1", "mails", "apply", "to", f"6.12.{sublevel}"] for sublevel in (9, 10)
    ]
    kernel(kernels, "6.12.11", "zero\n" + NUMBERS.replace("two", "TWO"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "failed  1 mails apply to 6.12.11" in done.stdout


def runs(patched: list[int], untouched: list[int]) -> peers.Runs:
    """Outcomes by exit status."""
    found = peers.Runs()
    for kernel_name, statuses in zip(peers.KERNELS, (patched, untouched), strict=True):
        found.outcomes[kernel_name] += [peers.Outcome(status, {}) for status in statuses]
    return found


@pytest.mark.parametrize(
    ("patched", "untouched", "verdict"),
    [
        ([0], [0], "same"),
        ([1], [1], "same"),
        ([1, 1, 1, 1], [0, 0, 0, 0], "differs: exit status"),
        ([1, 0, 0, 0], [0, 1, 0, 0], "varies on both"),
        ([0, 0, 0, 0], [0, 1, 0, 0], "varies on both"),
        # Only with the patch does it ever fail.
        ([0, 1, 0, 0], [1, 1, 1, 1], "differs: exit status"),
        ([1, 0, 0, 0], [0, 0, 0, 0], "differs: exit status"),
        ([peers.NOT_RUN], [0], "differs: exit status"),
    ],
)
def test_verdict(patched: list[int], untouched: list[int], verdict: str) -> None:
    assert runs(patched, untouched).verdict() == verdict


def said(*logs: str) -> list[peers.Outcome]:
    return [peers.Outcome(int("not ok" in log), peers.cases_of(log)) for log in logs]


def test_verdict__case_by_case() -> None:
    found = peers.Runs()
    # The first fails now and then on either kernel, never in the same runs.
    found.outcomes["patched"] += said("ok 1 a\nok 2 b\n", "not ok 1 a\nok 2 b\n")
    found.outcomes["untouched"] += said("not ok 1 a\nok 2 b\n", "ok 1 a\nok 2 b\n")
    assert found.verdict() == "varies on both"
    # The second fails on one of them only.
    found.outcomes["patched"] += said("ok 1 a\nnot ok 2 b\n")
    assert found.verdict() == "differs: b"
    # The third does not come on the other.
    found.outcomes["untouched"] = said("ok 1 a\nok 2 b\nok 3 c\n")
    assert found.differing() == ["a", "b", "c"]


def test_cases__without_what_changes_from_run_to_run() -> None:
    log = "TAP version 13\n# noise\nok 1 took 0.31 s\nnot ok 2 at 0xffff8\n# ok 3 nested # SKIP\n"
    cases = {"took N s": "ok", "at N": "not ok", "nested # SKIP": "ok"}
    assert peers.cases_of(log) == cases
    assert str(peers.Outcome(1, cases)) == "fail (1): 1 ok, 1 not ok, 1 skipped"
    # Two programs of one script, two threads of one program, and packets that came again
    assert peers.cases_of("ok 1 a\nnot ok 1 a\n") == {"a": "ok", "a'": "not ok"}
    packets = "ok 7 wrong key: counter Bad increased 1 => 2\nok 8 events: 7 bad[1]\n"
    more = "ok 7 events: 7 bad[2]\nok 8 wrong key: counter Bad increased 1 => 3\n"
    assert peers.cases_of(packets) == peers.cases_of(more)
