# SPDX-License-Identifier: MIT
"""Upstream's own tests of memcached: each subtest that passes untouched passes on MegaPipe.

    t/FILE.t    --+--> memcached-stock/memcached-debug       at the same time, in the same guest:
    tcp/FILE.t  --+--> memcached-megapipe/memcached-debug    some of them run against the clock

Upstream's tests talk to the server over UNIX sockets, unless they need TCP. In tcp/ are the same
files, with a library that prefers TCP: so lwsockets are tested, too. A file of the port's own,
io_engine.t, goes with the patched one.

How each file ends on both is in build/test-apps/memcached-upstream.md as soon as it is known, and
whether it ran twice. A run that was broken off goes on there; after a whole run, or with other
programs or another kernel, all begins anew.

Needs build/memcached-*: make memcached. make test takes a dozen, make test-apps all.
"""

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import pytest
from kernel_log import complaints
from programs import ROOT

from megabench.host import Host
from megabench.testbed import Testbed

TREES = {name: ROOT / f"build/memcached-{name}" for name in ("stock", "megapipe")}
WITHOUT = ROOT / "build/check/memcached"
FOLDER = ROOT / "build/test-apps"
TABLE = FOLDER / "memcached-upstream.md"
GUEST = "/run/megabench/memcached-upstream"
LIBRARY = "lib/MemcachedTest.pm"
FOLDERS = ("t", "tcp")
FILES = sorted(path.name for path in TREES["stock"].glob("t/*.t"))
# For make test: they run on stock wherever memcached builds.
FEW = [
    "t/00-startup.t",
    "t/stats-conns.t",
    "t/udp.t",
    "t/unixsocket.t",
    "t/binary-get.t",
    "t/conn-limits.t",
    "t/maxconns.t",
    "t/multiversioning.t",
    "t/noreply.t",
    "t/restart.t",
    "t/shutdown.t",
]
OWN = "t/io_engine.t"
ALL = "TEST_APPS" in os.environ
WANTED = [f"{folder}/{name}" for folder in FOLDERS for name in FILES] if ALL else FEW
LIMIT_S = 1700  # of a file; timedrun knows no more than 1,800

PAIRS = 3  # of servers at a time: mostly they sleep

# A file on both, at the same time. Not as root, which upstream's tests refuse; what a program must
# not write to is not its own.
BOTH = f"""\
one() (
    cd {GUEST}/$1
    timeout {LIMIT_S} setpriv --reuid=nobody --regid=nogroup --clear-groups \
        env GCOV_PREFIX=$PWD/tmp TMPDIR=$PWD/tmp HOME=$PWD/tmp prove -v $2 >tmp/$2.out 2>&1
    echo "status $?" >>tmp/$2.out
    mv tmp/$2.out tmp/$2.log
)
{" ".join(f"test -e {GUEST}/{system}/$1 && one {system} $1 &" for system in TREES)}
wait
"""

built = pytest.mark.skipif(not FILES, reason="not built: make memcached")


@dataclass(frozen=True)
class End:
    """How a file ended, in a few words, and what of it passed."""

    word: str
    passed: frozenset[int] = frozenset()
    # It came to its end, so that what failed is known by number.
    whole: bool = True

    @classmethod
    def of(cls, said: str) -> "End":
        """From what `prove -v` says, and its status in the last line."""
        if found := re.search(r"^(?:\S+/\S+ \.+ )?(skipped: .*)$", said, re.MULTILINE):
            return cls(found[1])
        lines = re.findall(r"^(not )?ok (\d+)\b(.*)$", said, re.MULTILINE)
        passed = {int(n) for fails, n, words in lines if not fails or "# TODO" in words}
        failed = sorted({int(n) for _, n, _ in lines} - passed)
        plan = re.findall(r"^1\.\.(\d+)", said, re.MULTILINE)
        if said.endswith("status 0\n"):
            return cls("ok", frozenset(passed))
        whole = plan == [str(len(lines))]
        of = plan[-1] if plan else "?"
        if not whole:
            why = "timed out" if said.endswith("status 124\n") else "died"
            return cls(f"{why} after {len(lines)} of {of}", frozenset(passed), whole=False)
        which = ", ".join(map(str, failed[:8])) + (", ..." if failed[8:] else "")
        return cls(f"failed {len(failed)} of {of}: {which}", frozenset(passed))


@dataclass(frozen=True)
class Row:
    """A file on both, in the same run."""

    ends: dict[str, End]

    def is_worse(self) -> bool:
        """MegaPipe may fail what stock fails, but no other subtest, and may not end earlier."""
        stock, megapipe = (self.ends[system] for system in TREES)
        if stock.word == "ok":
            return megapipe.word != "ok"
        return not stock.passed <= megapipe.passed or (stock.whole and not megapipe.whole)

    def words(self) -> list[str]:
        return [end.word for end in self.ends.values()]


WORSE = "worse"


@dataclass
class Table:
    """The file of results: a heading that says of what, and a row for each test file: how it ended
    on both, and a remark."""

    heading: str
    rows: dict[str, list[str]] = field(default_factory=dict)

    def load(self) -> None:
        """What an earlier run of the same has left, unless it came to its end."""
        if not TABLE.exists() or not (text := TABLE.read_text()).startswith(self.heading):
            return
        found = re.findall(r"^\| (\S+\.t) \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
        if len(found) < len(FOLDERS) * len(FILES):
            self.rows = {name: cells for name, *cells in found}

    def has(self, name: str) -> bool:
        """Whether that file need not run again."""
        return name in self.rows and self.rows[name][-1] != WORSE

    def add(self, name: str, row: Row, first: Row | None) -> None:
        remark = WORSE if row.is_worse() else ""
        if first and not remark:
            remark = f"second run; in the first: {'; '.join(first.words())}"
        self.rows[name] = [*row.words(), remark]
        lines = [f"| {' | '.join([name, *cells])} |" for name, cells in self.rows.items()]
        TABLE.write_text("\n".join([self.heading, *lines, ""]))


@pytest.fixture(scope="module")
def table(guest: Host) -> Table:
    digest = hashlib.sha256()
    for tree in TREES.values():
        digest.update((tree / "memcached-debug").read_bytes())
    release = guest.run(["uname", "-r"], timeout=30).stdout.strip()
    # The linker's build ID of the kernel is among these.
    kernel = guest.run(["sha256sum", "/sys/kernel/notes"], timeout=30).stdout[:12]
    names = ("file", *TREES, "remark")
    columns = "\n".join(f"| {' | '.join(words)} |" for words in (names, ("---",) * len(names)))
    built = f"kernel {kernel}, programs {digest.hexdigest()[:12]}"
    found = Table(f"Linux {release}, {built}\n\n{columns}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if ALL:
        found.load()
    return found


@pytest.fixture(scope="module")
def guest(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    guest = testbed.server
    if guest.run(["prove", "--version"], timeout=60, check=False).exit_status:
        pytest.skip("the server's machine has no prove (perl)")
    for name, tree in TREES.items():
        tarball = tmp_path_factory.mktemp("trees") / f"{name}.tar"
        pack = ["tar", "-cf", str(tarball), "--exclude=*.o", "--exclude=*.gc??", "-C", str(tree)]
        subprocess.run([*pack, "."], check=True)
        there = f"{GUEST}/{name}"
        guest.run(["mkdir", "-p", *(f"{there}/tmp/{folder}" for folder in FOLDERS)], timeout=60)
        guest.put(tarball, f"{there}/tar")
        guest.run(["tar", "-xf", f"{there}/tar", "-C", there], timeout=120)
        # A server lives as long as its file may: the guest is slow.
        sed = f"s/timedrun 600/timedrun {LIMIT_S}/"
        guest.run(["sed", "-i", sed, f"{there}/t/{LIBRARY}"], timeout=60)
        guest.run(["cp", "-a", f"{there}/t", f"{there}/tcp"], timeout=60)
        sed = "s/\\(unix_socket_disabled *= \\)!supports_unix_socket()/\\11/"
        guest.run(["sed", "-i", sed, f"{there}/tcp/{LIBRARY}"], timeout=60)
        assert guest.read_text(f"{there}/t/{LIBRARY}") != guest.read_text(f"{there}/tcp/{LIBRARY}")
        guest.run(["chown", "-R", "nobody", there], timeout=60)
    guest.run(["ip", "link", "set", "lo", "up"], timeout=60)
    script = tmp_path_factory.mktemp("script") / "both"
    script.write_text(BOTH)
    guest.put(script, f"{GUEST}/both")
    yield guest
    guest.run(["rm", "-rf", GUEST], timeout=60)


@pytest.fixture(scope="module")
def running(guest: Host, table: Table, request: pytest.FixtureRequest) -> Iterator[None]:
    """All files that are wanted, one after the other, some at a time."""
    wanted = [str(item.callspec.params["name"]) for item in request.session.items if is_ours(item)]
    wanted = [name for name in wanted if not table.has(name)]
    command = f"echo {' '.join(wanted)} | xargs -r -n 1 -P {PAIRS} sh {GUEST}/both"
    process = guest.start(["sh", "-c", command], log=FOLDER / "running.log")
    yield
    process.kill()


def is_ours(item: pytest.Item) -> TypeGuard[pytest.Function]:
    return (
        item.path == Path(__file__)
        and isinstance(item, pytest.Function)
        and item.originalname == test_upstream__what_passes_on_stock_passes.__name__
    )


def row_of(guest: Host, name: str) -> Row:
    """How the file ends on both, once it has; what was said is kept if it does not pass."""
    ends = {}
    for system in TREES:
        log = f"{GUEST}/{system}/tmp/{name}.log"
        deadline = time.monotonic() + 2 * LIMIT_S
        # Asked often and not waited for in the guest, so that Ctrl-C is heard.
        while guest.run(["test", "-e", log], timeout=60, check=False).exit_status:
            assert time.monotonic() < deadline
            time.sleep(2)
        said = guest.read_text(log)
        ends[system] = End.of(said)
        if ends[system].word != "ok":
            (FOLDER / f"{name.replace('/', '-')}.{system}.log").write_text(said)
    return Row(ends)


def said(*lines: str, status: int = 0) -> str:
    return "\n".join([*lines, f"status {status}", ""])


@pytest.mark.parametrize(
    ("stock", "megapipe", "worse"),
    [
        (said("1..2", "ok 1", "ok 2"), said("1..2", "ok 1", "ok 2"), False),
        (said("1..1", "ok 1"), said("1..1", "not ok 1", status=1), True),
        (said("1..1", "ok 1"), said("t/x.t .. skipped: no reason"), True),
        (said("1..1", "ok 1"), said("1..1", "ok 1", status=1), True),
        (
            said("1..3", "ok 1", "not ok 2", "not ok 3", status=1),
            said("1..3", "ok 1", "ok 2", "not ok 3", status=1),
            False,
        ),
        (
            said("1..3", "ok 1", "not ok 2", "ok 3", status=1),
            said("1..3", "ok 1", "ok 2", "not ok 3", status=1),
            True,
        ),
        (
            said("1..3", "not ok 1", "not ok 2", "not ok 3", status=1),
            said("1..3", "not ok 1", status=1),
            True,
        ),
        (said("1..3", "ok 1", status=255), said("1..3", "ok 1", "not ok 2", status=124), False),
        (said("1..2", "ok 1", "not ok 2 # TODO"), said("1..2", "ok 1", "ok 2"), False),
    ],
)
def test_row__worse_by_a_subtest(stock: str, megapipe: str, worse: bool) -> None:
    row = Row(dict(zip(TREES, map(End.of, (stock, megapipe)), strict=True)))
    assert row.is_worse() == worse


def test_table__does_not_run_again_what_was_no_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.TABLE", tmp_path / "table.md")
    # More than three of them, whether memcached is built here or not.
    monkeypatch.setattr(f"{__name__}.FILES", ["a.t", "b.t", "c.t", "d.t"])
    good, bad = End.of(said("1..1", "ok 1")), End.of(said("1..1", "not ok 1", status=1))
    table = Table("of this kernel")
    table.add("t/a.t", Row({"stock": good, "megapipe": good}), None)
    table.add("t/b.t", Row({"stock": good, "megapipe": bad}), None)
    table.add(
        "t/c.t", Row({"stock": good, "megapipe": good}), Row({"stock": good, "megapipe": bad})
    )
    same, other = Table("of this kernel"), Table("of another kernel")
    same.load()
    other.load()
    assert [same.has(f"t/{name}.t") for name in "abc"] == [True, False, True]
    assert same.rows["t/c.t"][2] == "second run; in the first: ok; failed 1 of 1: 1"
    assert not other.rows


def test_summary__all_that_are_not_ok_on_both_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.TABLE", tmp_path / "table.md")
    good, bad = End.of(said("1..1", "ok 1")), End.of(said("1..1", "not ok 1", status=1))
    skipped = End.of(said("t/x.t .. skipped: no reason"))
    table = Table("Linux 6.12")
    for name, stock, megapipe, first in (
        ("t/a.t", good, good, None),
        ("t/b.t", skipped, skipped, None),
        ("t/c.t", bad, good, None),
        ("t/d.t", good, good, Row({"stock": good, "megapipe": bad})),
        ("tcp/a.t", good, good, None),
        ("tcp/b.t", skipped, skipped, None),
        ("tcp/c.t", good, bad, None),
    ):
        table.add(name, Row({"stock": stock, "megapipe": megapipe}), first)
    summary = runpy.run_path(str(ROOT / "scripts/upstream.py"))["summary"]
    assert summary(TABLE.read_text(), "2026-11-30").splitlines() == [
        "Linux 6.12; 2026-11-30. 7 files (t/, tcp/), 2 of them ok on both at the first run. "
        "The others:",
        "",
        "| file | stock | megapipe | remark |",
        "|---|---|---|---|",
        "| t/b.t, tcp/b.t | skipped: no reason | skipped: no reason |  |",
        "| t/c.t | failed 1 of 1: 1 | ok |  |",
        "| t/d.t | ok | ok | second run; in the first: ok; failed 1 of 1: 1 |",
        "| tcp/c.t | ok | failed 1 of 1: 1 | worse |",
    ]


@pytest.mark.skipif(not ALL, reason="make test-apps")
@pytest.mark.skipif(not WITHOUT.exists(), reason="not built: make -C apps/memcached check")
def test_upstream__passes_built_without_megapipe() -> None:
    """The patched source without the option, on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        tree = Path(folder) / "tree"
        shutil.copytree(
            WITHOUT, tree, symlinks=True, ignore=shutil.ignore_patterns("*.o", "*.gc??")
        )
        (tree / "tmp").mkdir()
        argv = ["env", f"GCOV_PREFIX={tree}/tmp", f"HOME={tree}/tmp", "prove"]
        if os.geteuid() == 0:
            nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            subprocess.run(["chown", "-R", "nobody:nogroup", folder], check=True)
            argv = [*nobody, *argv]

        def fail(*options: str) -> list[str]:
            done = subprocess.run(
                [*argv, *options], cwd=tree, capture_output=True, text=True, check=False
            )
            print(done.stdout[-2000:])
            found = re.findall(r"^(t/\S+\.t) +\(Wstat", done.stdout, re.MULTILINE)
            assert found or done.returncode == 0, done.stderr
            return found

        assert len(list((tree / "t").glob("*.t"))) == len(FILES)
        # Those against the clock once more, alone.
        assert not [name for name in fail("-j4", "t") if fail(name)]


@built
@pytest.mark.vm
def test_own__passes(guest: Host) -> None:
    complaints(guest)
    guest.run(["sh", f"{GUEST}/both", OWN], timeout=LIMIT_S + 60)
    said = guest.read_text(f"{GUEST}/megapipe/tmp/{OWN}.log")
    assert End.of(said).word == "ok", said
    assert "auto: megapipe" in said
    assert not complaints(guest)


@built
@pytest.mark.vm
@pytest.mark.parametrize("name", WANTED)
def test_upstream__what_passes_on_stock_passes(
    guest: Host, table: Table, running: None, name: str
) -> None:
    del running
    if table.has(name):
        return
    complaints(guest)
    row = row_of(guest, name)
    first = None
    if row.is_worse():
        # A test against the clock may have had bad luck. Not twice; and the table tells of it.
        first = row
        logs = [f"{GUEST}/{system}/tmp/{name}.log" for system in TREES]
        guest.run(["rm", *logs], timeout=60)
        guest.run(["sh", f"{GUEST}/both", name], timeout=LIMIT_S + 60)
        row = row_of(guest, name)
        warnings.warn(f"{name} ran twice; in the first: {first.words()}", stacklevel=1)
    if ALL:
        table.add(name, row, first)
    assert not row.is_worse(), f"{row.words()}: what was said is in {FOLDER}"
    assert name not in FEW or row.ends["stock"].word == "ok"
    assert not complaints(guest)
