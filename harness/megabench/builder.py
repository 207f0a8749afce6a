# SPDX-License-Identifier: MIT
"""The machine that builds a server's kernel: the one that drives, or another one over SSH.

    look            what it has and lacks for that; nothing stays there
    make_packages   scripts/server-kernel.sh, there, and the package fetched
    clear           nothing of it left on a machine that is not this one

Another machine gets what the script needs of this checkout, and the kernel's source if it is here,
so that both build the same; its objects stay until `clear`, so that a second build is short.
"""

from __future__ import annotations

import base64
import io
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .apps import put_changed
from .errors import CommandError, CommandTimeoutError, TestbedError, last_lines
from .facts import parse_report
from .host import Host, LocalHost
from .interrupts import held_back

COMMAND_S = 60.0
COPY_S = 600.0
BUILD_S = 4 * 3600.0

# On a machine that is not ours.
FOLDER = "/var/tmp/megabench-build"
SCRIPTS = ("scripts",)
SOURCES = ("kernel-patch", "scripts", "versions.toml")
GROUPS = ("build", "kernel", "deb")

# $1: where it would build, $2…: groups of packages. Standard input: the scripts that look.
LOOK = r"""
folder=$(mktemp -d) || exit
trap 'rm -rf "$folder"' EXIT
base64 -d | tar -xzf - -C "$folder" || exit
exec 2>/dev/null
section() { printf '\001%s\n' "$1"; }
there=$1; shift
section missing; "$folder/scripts/packages.sh" missing "$@"
section python; "$folder/scripts/python.sh"
section install
command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true; } && echo yes
section architecture; uname -m
section distribution; (. /etc/os-release; echo "$PRETTY_NAME")
section used; du -sm -- "$there"
until [ -e "$there" ]; do there=$(dirname "$there"); done
section free; df -Pm -- "$there" | awk 'NR == 2 { print $4 }'
true"""


@dataclass(frozen=True)
class Builder:
    """What a machine has for building a server's kernel."""

    lacking: tuple[str, ...]  # Debian packages
    can_install: bool
    free_mb: int
    used_mb: int  # by an earlier build, which the next one goes on from
    name: str = "here"
    architecture: str = "x86_64"
    distribution: str = ""
    python: bool = True  # new enough for the scripts


def look(where: Host, folder: str) -> Builder:
    """Ask a machine that would build in `folder`; changes nothing there."""
    argv = ["sh", "-c", LOOK, "sh", folder, *GROUPS]
    scripts = base64.encodebytes(packed(SCRIPTS)).decode()
    said = where.run(argv, timeout=COMMAND_S, input=scripts).stdout
    answers = parse_report(said)
    lacking = {line.split("\t")[0] for line in answers.get("missing", "").splitlines()}
    used, free = (answers.get(key, "").split() for key in ("used", "free"))
    return Builder(
        tuple(sorted(lacking)),
        bool(answers.get("install")),
        int(free[0]) if free else 0,
        int(used[0]) if used else 0,
        "here" if isinstance(where, LocalHost) else where.name,
        answers.get("architecture", ""),
        answers.get("distribution", ""),
        bool(answers.get("python")),
    )


def packed(names: Sequence[str]) -> bytes:
    """Files and folders of this checkout as a compressed archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", dereference=True) as archive:
        for name in names:
            archive.add(paths.root() / name, name, filter=_no_leftovers)
    return made.getvalue()


def _no_leftovers(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def make_packages(folder: Path, modules: Path | None, where: Host) -> None:
    """From folder/config.server into folder; what uses memory and disk is ended, come what may."""
    files = [folder / "config.server", *([modules] if modules else [])]
    if isinstance(where, LocalHost):
        there, script, environment = str(folder), str(paths.root() / "scripts"), []
    else:
        there, script = f"{FOLDER}/packages", f"{FOLDER}/source/scripts"
        environment = _ship(where, files, there)
    jobs = where.run(["nproc"], timeout=COMMAND_S).stdout.strip()
    named = [f"{there}/{modules.name}"] if modules else []
    argv = [*environment, f"{script}/server-kernel.sh", there, jobs, *named]
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    process = where.start(argv, log=log)
    try:
        status = process.wait(BUILD_S)
    except BaseException as error:
        # make's children, too.
        with held_back():
            process.kill()
        if not isinstance(error, CommandTimeoutError):
            raise
        raise CommandTimeoutError(
            argv,
            None,
            last_lines(error.tail, 3),
            host=where.name,
            problem=f"has not ended after {BUILD_S / 3600:.3g} hours",
            hint='the same command goes on where it was; config = "reduced" builds less, '
            "[builder] names a larger machine, packages = … takes packages built elsewhere",
        ) from None
    if status:
        tail = last_lines(log.read_text(errors="replace"))
        raise CommandError(argv, status, tail, host=where.name, hint=f"see {log}")
    if not isinstance(where, LocalHost):
        _fetch(where, there, folder)


def _ship(where: Host, files: Sequence[Path], there: str) -> list[str]:
    """Bring what a build needs; the environment that it is to have, as a command's first words."""
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
        archive.write(packed(SOURCES))
        archive.flush()
        where.put(Path(archive.name), f"{FOLDER}/source.tar.gz", mode=0o644)
    unpack = 'cd "$1" && rm -rf source && mkdir source && tar -xzf source.tar.gz -C source'
    where.run(["sh", "-c", unpack, "sh", FOLDER], timeout=COMMAND_S)
    for file in files:
        where.put(file, f"{there}/{file.name}", mode=0o644)
    environment = ["env", f"MEGABENCH_BUILD={FOLDER}/build"]
    tarball = paths.build() / "cache" / "linux-source.tar.xz"
    if tarball.exists():
        put_changed(where, tarball, f"{FOLDER}/{tarball.name}")
        environment.append(f"LINUX_TARBALL={FOLDER}/{tarball.name}")
    return environment


def _fetch(where: Host, there: str, folder: Path) -> None:
    """The image's package, in place of one that an earlier build has made."""
    for old in folder.glob("linux-*.deb"):
        old.unlink()
    listing = ["sh", "-c", 'ls -- "$1"/linux-image-*.deb', "sh", there]
    found = where.run(listing, timeout=COMMAND_S, check=False).stdout.splitlines()
    images = [one for one in found if "-dbg_" not in one]
    if not images:
        raise TestbedError(f"{where.name}: the kernel's build has made no package in {there}")
    for one in images:
        where.get(one, folder / Path(one).name)


def clear(where: Host) -> None:
    """Take everything away."""
    where.run(["rm", "-rf", "--", FOLDER], timeout=COPY_S)
