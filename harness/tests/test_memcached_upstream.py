# SPDX-License-Identifier: MIT
"""Upstream's own tests of memcached: what passes on the untouched one passes on MegaPipe.

    t/FILE.t    --+--> memcached-stock/memcached-debug       at the same time, in the same guest:
    tcp/FILE.t  --+--> memcached-megapipe/memcached-debug    some of them run against the clock

Upstream's tests talk to the server over UNIX sockets, unless they need TCP. In tcp/ are the same
files, with a library that prefers TCP: so lwsockets are tested, too. A file of the port's own,
io_engine.t, goes with the patched one.

How each file ends on both is in build/test-apps/memcached-upstream.md as soon as it is known. A run
that was broken off goes on there; after a whole run, or with other programs, all begins anew.

Needs build/memcached-*: make memcached. make test takes a dozen, make test-apps all.
"""

import hashlib
import os
import re
import subprocess
import time
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

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not FILES, reason="not built: make memcached"),
]


def outcome(said: str) -> str:
    """How prove says that a file ended, in a word or two."""
    if found := re.search(r"^(?:\S+/\S+ \.+ )?(skipped: .*)$", said, re.MULTILINE):
        return found[1]
    if said.endswith("status 0\n"):
        return "ok"
    if said.endswith("status 124\n"):
        return "timed out"
    found = re.search(r"Failed (\d+/\d+) subtests", said)
    return f"failed {found[1]}" if found else "failed"


@dataclass
class Table:
    """The file of results: a heading that says of what, and a row for each test file."""

    heading: str
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def load(self) -> None:
        """What an earlier run of the same has left, unless it came to its end."""
        if not TABLE.exists() or not (text := TABLE.read_text()).startswith(self.heading):
            return
        found = re.findall(r"^\| (\S+\.t) \| (.*) \| (.*) \|$", text, re.MULTILINE)
        if len(found) < len(FOLDERS) * len(FILES):
            self.rows = {name: dict(zip(TREES, ends, strict=True)) for name, *ends in found}

    def has(self, name: str) -> bool:
        """Whether that file need not run again."""
        return name in self.rows and not is_worse(self.rows[name])

    def add(self, name: str, ends: dict[str, str]) -> None:
        self.rows[name] = ends
        lines = [f"| {name} | {' | '.join(ends.values())} |" for name, ends in self.rows.items()]
        TABLE.write_text("\n".join([self.heading, *lines, ""]))


@pytest.fixture(scope="module")
def table(guest: Host) -> Table:
    digest = hashlib.sha256()
    for tree in TREES.values():
        digest.update((tree / "memcached-debug").read_bytes())
    release = guest.run(["uname", "-r"], timeout=30).stdout.strip()
    columns = "\n".join(f"| {' | '.join(words)} |" for words in (("file", *TREES), ("---",) * 3))
    found = Table(f"Linux {release}, programs {digest.hexdigest()[:12]}\n\n{columns}")
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
        and hasattr(item, "callspec")  # the test of all files
    )


def ends_of(guest: Host, name: str) -> dict[str, str]:
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
        ends[system] = outcome(said)
        if ends[system] != "ok":
            (FOLDER / f"{name.replace('/', '-')}.{system}.log").write_text(said)
    return ends


def test_own__passes(guest: Host) -> None:
    complaints(guest)
    guest.run(["sh", f"{GUEST}/both", OWN], timeout=LIMIT_S + 60)
    said = guest.read_text(f"{GUEST}/megapipe/tmp/{OWN}.log")
    assert outcome(said) == "ok", said
    assert "auto: megapipe" in said
    assert not complaints(guest)


def is_worse(ends: dict[str, str]) -> bool:
    return ends["stock"] == "ok" and ends["megapipe"] != "ok"


@pytest.mark.parametrize("name", WANTED)
def test_upstream__what_passes_on_stock_passes(
    guest: Host, table: Table, running: None, name: str
) -> None:
    del running
    if table.has(name):
        return
    complaints(guest)
    ends = ends_of(guest, name)
    if is_worse(ends):
        # A test against the clock may have had bad luck. Not twice.
        logs = [f"{GUEST}/{system}/tmp/{name}.log" for system in TREES]
        guest.run(["rm", *logs], timeout=60)
        guest.run(["sh", f"{GUEST}/both", name], timeout=LIMIT_S + 60)
        ends = ends_of(guest, name)
    if ALL:
        table.add(name, ends)
    assert not is_worse(ends), f"what was said is in {FOLDER}"
    assert name not in FEW or ends["stock"] == "ok"
    assert not complaints(guest)
