#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make the patched kernel tree: tarball + hooks/*.patch + our new files.

Run again, it touches only files whose text changes, so that make rebuilds only
what depends on them: the pristine text of every patched file is kept aside,
all hooks are applied to a scratch copy of those few files, and a file goes
into the tree only if it differs from what is there. New files are copied in
the same way, and those that we dropped are removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OVERLAY = ("net", "include", "Documentation", "tools")


class TreeError(Exception):
    pass


def tarball_identity(tarball: Path) -> str:
    status = tarball.stat()
    return f"{tarball.resolve()} {status.st_size} {status.st_mtime_ns}"


def extract(tarball: Path, tree: Path) -> None:
    scratch = tree.with_name(tree.name + ".unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    argv = ["tar", "-xf", str(tarball), "--strip-components=1", "-C", str(scratch)]
    if subprocess.run(argv, check=False).returncode:
        shutil.rmtree(scratch, ignore_errors=True)
        raise TreeError(f"{tarball} could not be unpacked (damaged, or no space left?)")
    if not (scratch / "Kbuild").exists():
        shutil.rmtree(scratch, ignore_errors=True)
        raise TreeError(f"{tarball} does not hold a kernel tree")
    shutil.rmtree(tree, ignore_errors=True)
    scratch.rename(tree)


def touched_by(patch: Path) -> set[str]:
    """Files that a patch edits. Hooks only edit: new files live in the overlay."""
    names = set()
    for line in patch.read_text().splitlines():
        if line.startswith("--- /dev/null"):
            raise TreeError(f"{patch.name} creates a file: those go to kernel-patch/net …")
        if line.startswith(("--- a/", "+++ b/")):
            names.add(line[6:].split("\t")[0])
    if not names:
        raise TreeError(f"{patch.name} edits nothing (want 'git format-patch' paths: a/… b/…)")
    return names


def put(text: bytes, mode: int, target: Path) -> bool:
    if target.exists() and target.read_bytes() == text:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text)
    target.chmod(mode)
    return True


def apply_hooks(hooks: list[Path], tree: Path, originals: Path) -> list[str]:
    """Apply all hooks; return the files that changed in the tree."""
    for name in sorted(set().union(*(touched_by(hook) for hook in hooks))):
        if not (originals / name).exists():
            if not (tree / name).exists():
                raise TreeError(f"a hook edits {name}, which this kernel does not have")
            (originals / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, originals / name)

    changed = []
    with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
        shutil.copytree(originals, scratch, dirs_exist_ok=True)
        for hook in hooks:
            argv = ["patch", "-p1", "--batch", "--silent", "--no-backup-if-mismatch"]
            done = subprocess.run(
                [*argv, "-d", scratch, "-i", str(hook)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise TreeError(f"{hook.name} does not apply:\n{done.stdout}{done.stderr}")
        for original in sorted(p for p in originals.rglob("*") if p.is_file()):
            name = str(original.relative_to(originals))
            text = (Path(scratch) / name).read_bytes()
            if put(text, original.stat().st_mode & 0o777, tree / name):
                changed.append(name)
    return changed


def overlay_files(source: Path, tops: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for top in tops:
        for path in sorted((source / top).rglob("*")):
            if path.is_file() and not path.name.endswith(("~", ".o", ".cmd", ".rej", ".orig")):
                found[str(path.relative_to(source))] = path
    return found


def copy_overlay(
    source: Path, tree: Path, before: list[str], tops: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    files = overlay_files(source, tops)
    changed = []
    for name in before:
        if name not in files:
            (tree / name).unlink(missing_ok=True)
            changed.append(name)
    for name, path in files.items():
        if put(path.read_bytes(), path.stat().st_mode & 0o777, tree / name):
            changed.append(name)
    return sorted(files), changed


def make_tree(
    source: Path,
    tarball: Path,
    tree: Path,
    hooks: int | None = None,
    overlay_tops: tuple[str, ...] = OVERLAY,
) -> list[str]:
    state_dir = tree.with_name(tree.name + ".state")
    state_file = state_dir / "state.json"
    originals = state_dir / "originals"
    identity = tarball_identity(tarball)
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    if not tree.exists() or state.get("tarball") != identity:
        shutil.rmtree(state_dir, ignore_errors=True)
        extract(tarball, tree)
        state = {"tarball": identity, "overlay": []}
    originals.mkdir(parents=True, exist_ok=True)

    # Which files are ours is written down before they are made: a broken run
    # must not take them for the kernel's own the next time.
    before = state["overlay"]
    ours = overlay_files(source, overlay_tops)
    for name in ours:
        if name not in before and (tree / name).exists():
            raise TreeError(f"{name} exists in the kernel already; edits to it belong in hooks/")
    state["overlay"] = sorted({*before, *ours})
    state_file.write_text(json.dumps(state, indent=1))
    overlay, changed = copy_overlay(source, tree, state["overlay"], overlay_tops)
    changed += apply_hooks(sorted((source / "hooks").glob("*.patch"))[:hooks], tree, originals)
    state["overlay"] = overlay
    state_file.write_text(json.dumps(state, indent=1))
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="kernel-patch/")
    parser.add_argument("--tarball", type=Path, required=True)
    parser.add_argument("--tree", type=Path, required=True, help="where the tree is made")
    parser.add_argument("--hooks", type=int, help="apply only so many of the hooks")
    parser.add_argument(
        "--pristine",
        action="store_true",
        help="apply no hook and add no file: the untouched kernel",
    )
    args = parser.parse_args()
    if not args.tarball.exists():
        print(
            f"error: no kernel source at {args.tarball}\n"
            "hint: install linux-source-6.12, or give LINUX_TARBALL=…",
            file=sys.stderr,
        )
        return 1
    try:
        changed = make_tree(
            args.source.resolve(),
            args.tarball,
            args.tree,
            0 if args.pristine else args.hooks,
            () if args.pristine else OVERLAY,
        )
    except (TreeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.tree}: {len(changed)} file(s) changed" if changed else f"{args.tree}: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
