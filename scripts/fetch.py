#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Find or fetch the kernel source; print the path of its tarball.

In this order: LINUX_TARBALL from the environment (checked against LINUX_SHA256
if that is given), the one of Debian's package, kernel.org's by the version and
sum in versions.toml. CACHE/linux-source.tar.xz then leads to it, and what it was
is written to CACHE/linux-source.json, so that results can say what kernel they
were measured on.

Runs before the Python environment exists: standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 60
CHUNK = 1 << 20


class FetchError(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def own_tarball_hint(series: str) -> str:
    return (
        f"install Debian's linux-source-{series}, or get any linux-{series}.y.tar.xz by other "
        "means and say: make LINUX_TARBALL=/path/to/it LINUX_SHA256=its-sum"
    )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_version(package: str) -> str | None:
    argv = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout or None


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing: a reader never sees half a file."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def point(link: Path, target: str) -> None:
    """Make `link` lead to `target`, at once."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    scratch = link.with_name(link.name + ".new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, link)


def download(url: str, target: Path, sha256: str) -> None:
    """Fetch `url`; `target` appears only when it is complete and its sum is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed below, before it is renamed)
        prefix=f".{target.name}.", dir=target.parent, delete=False
    )
    try:
        digest = hashlib.sha256()
        with partial, urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
            total = int(reply.headers.get("Content-Length", 0))
            done = 0
            while chunk := reply.read(CHUNK):
                partial.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                show_progress(target.name, done, total)
        if total and done < total:
            raise FetchError(f"{url}: cut off after {done} of {total} bytes", "run it again")
        if digest.hexdigest() != sha256:
            raise FetchError(
                f"{url}: its sha256 is {digest.hexdigest()}, not {sha256}",
                "a proxy between may have altered it; nothing was kept; try another network",
            )
        os.chmod(partial.name, 0o644)
        os.replace(partial.name, target)
    finally:
        Path(partial.name).unlink(missing_ok=True)


def show_progress(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        of = f" of {total >> 20}" if total else ""
        end = "\n" if done == total else ""
        print(f"\r{name}: {done >> 20}{of} MB", end=end, file=sys.stderr, flush=True)


def linux_of_user(tarball: Path, sha256: str | None) -> dict[str, Any]:
    if not tarball.is_file():
        raise FetchError(f"LINUX_TARBALL={tarball}: no such file", "give a linux-6.12.y.tar.xz")
    found = sha256_of(tarball)
    if sha256 and found != sha256.lower():
        raise FetchError(
            f"{tarball}: its sha256 is {found}, LINUX_SHA256 says {sha256}",
            "get it again, or correct LINUX_SHA256",
        )
    if not sha256:
        print(f"note: {tarball} is taken unverified (LINUX_SHA256 is not set)", file=sys.stderr)
    return {"path": str(tarball.resolve()), "origin": "user", "sha256": found}


def linux_source(
    pin: Mapping[str, str], cache: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """What to build the kernel from: path, origin, sha256, package_version if from Debian."""
    if own := environment.get("LINUX_TARBALL"):
        return linux_of_user(Path(own), environment.get("LINUX_SHA256"))

    debian = Path(pin["debian_tarball"])
    if debian.is_file():
        return {
            "path": str(debian),
            "origin": "debian",
            "package": pin["debian_package"],
            "package_version": package_version(pin["debian_package"]),
            "sha256": sha256_of(debian),
        }

    target = cache / pin["url"].rsplit("/", 1)[1]
    if not (target.is_file() and sha256_of(target) == pin["sha256"]):
        print(f"fetching {pin['url']}", file=sys.stderr)
        try:
            download(pin["url"], target, pin["sha256"])
        except FetchError as error:
            raise FetchError(error.message, own_tarball_hint(pin["series"])) from error
        except OSError as error:  # URLError, time-outs and a full disk are all of this kind
            reason = getattr(error, "reason", None) or error
            raise FetchError(
                f"no kernel source: {debian} is not there, and {pin['url']} could not be had "
                f"({reason})",
                own_tarball_hint(pin["series"]),
            ) from error
    return {"path": str(target), "origin": "kernel.org", "sha256": pin["sha256"]}


def version_in(tarball: Path) -> str | None:
    """A.B.C as the top Makefile of the tarball has it."""
    argv = ["tar", "-xOf", str(tarball), "--wildcards", "--no-wildcards-match-slash", "*/Makefile"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as tar:
        assert tar.stdout is not None
        head = tar.stdout.read(4096)
        tar.kill()
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", head, re.MULTILINE))
    return ".".join(fields.values()) if len(fields) == 3 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--versions", type=Path, required=True, help="versions.toml")
    parser.add_argument("--cache", type=Path, required=True, help="where downloads are kept")
    args = parser.parse_args()

    # A kill must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        args.cache.mkdir(parents=True, exist_ok=True)
        pin = tomllib.loads(args.versions.read_text())["linux"]
        record_file = args.cache / "linux-source.json"
        source = linux_source(pin, args.cache, os.environ)
        before = json.loads(record_file.read_text()) if record_file.exists() else {}
        if before.get("sha256") == source["sha256"]:
            source["version"] = before.get("version")
        else:
            source["version"] = version_in(Path(source["path"]))
        if source != before:
            write_whole(record_file, json.dumps(source, indent=1) + "\n")
        point(args.cache / "linux-source.tar.xz", source["path"])
    except FetchError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}\nhint: is there space in {args.cache}?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(source["path"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
