#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does the series of mails apply to these kernels, with git am and no fuzz?

applies.py SERIES SOURCE...: a source is a tarball, a tree, or a folder with
tarballs and trees in it. Of each only the files that the mails edit are taken
into a scratch repository; git am demands that every line of context is there,
at whatever line number. One line a kernel, oldest first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

GIT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "check",
    "GIT_AUTHOR_EMAIL": "check@localhost",
    "GIT_COMMITTER_NAME": "check",
    "GIT_COMMITTER_EMAIL": "check@localhost",
}


@dataclass
class Kernel:
    """The few files of a kernel that are wanted, and its version."""

    name: str
    version: tuple[int, ...]
    files: dict[str, bytes]

    @property
    def release(self) -> str:
        return ".".join(str(part) for part in self.version)


def edited(mails: list[Path]) -> set[str]:
    """Files that the mails edit; those that they create are none of the kernel's."""
    names: set[str] = set()
    for mail in mails:
        names |= set(re.findall(r"^--- a/(\S+)", mail.read_text(), re.MULTILINE))
    return names


def version_of(makefile: bytes) -> tuple[int, ...]:
    found = dict(re.findall(rb"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)", makefile, re.MULTILINE))
    return tuple(int(found[key]) for key in (b"VERSION", b"PATCHLEVEL", b"SUBLEVEL"))


def from_tarball(path: Path, wanted: set[str]) -> Kernel:
    files = {}
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            name = member.name.removeprefix("./").partition("/")[2]
            if name in wanted and member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                files[name] = content.read()
                if len(files) == len(wanted):
                    break
    return Kernel(path.name, version_of(files["Makefile"]), files)


def from_tree(path: Path, wanted: set[str]) -> Kernel:
    files = {name: (path / name).read_bytes() for name in wanted if (path / name).is_file()}
    return Kernel(path.name, version_of(files["Makefile"]), files)


def expand(sources: list[Path]) -> list[Path]:
    """Folders of kernels become the kernels in them; one kernel under two names counts once."""
    found: dict[Path, None] = {}
    for source in sources:
        if source.is_dir() and not (source / "Kbuild").exists():
            inside = sorted(p for p in source.iterdir() if ".tar" in p.name or p.is_dir())
            found |= dict.fromkeys(p.resolve() for p in inside if "linux" in p.name)
        elif source.exists():
            found[source.resolve()] = None
    return list(found)


def git(*argv: str, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *argv], cwd=where, env=GIT, capture_output=True, text=True, check=False
    )


def apply(kernel: Kernel, mails: list[Path]) -> str:
    """Empty, or why it does not apply."""
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        for name, text in kernel.files.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(text)
        for argv in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "base"]):
            done = git(*argv, where=where)
            if done.returncode:
                return done.stderr
        done = git("am", "-q", *(str(mail) for mail in mails), where=where)
        return "" if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("series", type=Path)
    parser.add_argument("source", type=Path, nargs="+")
    args = parser.parse_args()
    mails = sorted(args.series.resolve().glob("*.patch"))
    sources = expand(args.source)
    if not mails or not sources:
        print("error: no mails, or no kernel to apply them to", file=sys.stderr)
        return 2
    wanted = {*edited(mails), "Makefile"}
    kernels = []
    for path in sources:
        kernels.append(from_tree(path, wanted) if path.is_dir() else from_tarball(path, wanted))
    failed = False
    for kernel in sorted(kernels, key=lambda kernel: kernel.version):
        why = apply(kernel, mails)
        print(f"{'failed' if why else 'ok':8}{len(mails)} mails apply to {kernel.release}")
        if why:
            print(why, end="")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
