#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Find or fetch the source of a ported application; print the path of its tarball.

In this order: NAME_TARBALL from the environment (MEMCACHED_TARBALL), what was
fetched before, Debian's source package through apt, the application's own
address. All by the sums in versions.toml: Debian packs the same files anew, so
there are two. CACHE/NAME.tarball then leads to it.

apt gets a configuration of its own in CACHE/apt, with the user's mirrors as
places of sources; the user's is left alone, and no root is needed.

Runs before the Python environment exists: standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from fetch import FetchError, download, point, sha256_of

TIMEOUT_S = 300
ETC_APT = Path("/etc/apt")


def own_tarball_hint(name: str, pin: Mapping[str, str]) -> str:
    file = pin["url"].rsplit("/", 1)[1]
    return f"get {file} by other means and say: make {name.upper()}_TARBALL=/path/to/it"


def of_user(name: str, tarball: Path, pin: Mapping[str, str]) -> Path:
    if not tarball.is_file():
        raise FetchError(f"{tarball}: no such file", own_tarball_hint(name, pin))
    found = sha256_of(tarball)
    if found not in (pin["sha256"], pin["debian_sha256"]):
        raise FetchError(
            f"{tarball}: its sha256 is {found}, not {pin['sha256']}", own_tarball_hint(name, pin)
        )
    return tarball.resolve()


def as_sources(text: str) -> str:
    """The places of packages in an apt list, as places of sources."""
    text = re.sub(r"^deb(-src)?(?=\s)", "deb-src", text, flags=re.MULTILINE)
    return re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)


def apt_options(folder: Path) -> list[str]:
    parts = folder / "sources.list.d"
    shutil.rmtree(parts, ignore_errors=True)
    for made in (parts, folder / "lists" / "partial", folder / "archives" / "partial"):
        made.mkdir(parents=True, exist_ok=True)
    lists = [ETC_APT / "sources.list", *sorted((ETC_APT / "sources.list.d").glob("*"))]
    for file in lists:
        if file.suffix in (".list", ".sources") and file.is_file():
            (parts / file.name).write_text(as_sources(file.read_text()))
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": parts,
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder,
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def from_debian(pin: Mapping[str, str], cache: Path) -> Path | None:
    target = cache / pin["debian_file"]
    options = apt_options((cache / "apt").resolve())
    get = ["apt-get", "-q", *options]
    source = [*get, "source", "--download-only", "--tar-only", pin["debian_source"]]
    print(f"fetching {pin['debian_file']} through apt", file=sys.stderr)
    for argv in ([*get, "update"], source):
        try:
            done = subprocess.run(
                argv, cwd=cache, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            print(f"note: {error}", file=sys.stderr)
            return None
    if not target.is_file():
        print(f"note: apt has no such source: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return None
    if sha256_of(target) != pin["debian_sha256"]:
        target.unlink()
        print(f"note: {target.name} from apt has another sha256, not kept", file=sys.stderr)
        return None
    return target


def app_source(
    name: str, pin: Mapping[str, str], cache: Path, environment: Mapping[str, str]
) -> Path:
    if own := environment.get(f"{name.upper()}_TARBALL"):
        return of_user(name, Path(own), pin)
    upstream = cache / pin["url"].rsplit("/", 1)[1]
    for file, sha256 in (
        (cache / pin["debian_file"], pin["debian_sha256"]),
        (upstream, pin["sha256"]),
    ):
        if file.is_file() and sha256_of(file) == sha256:
            return file
    if found := from_debian(pin, cache):
        return found
    print(f"fetching {pin['url']}", file=sys.stderr)
    try:
        download(pin["url"], upstream, pin["sha256"])
    except FetchError as error:
        raise FetchError(error.message, own_tarball_hint(name, pin)) from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(
            f"no source of {name}: apt has none, and {pin['url']} could not be had ({reason})",
            own_tarball_hint(name, pin),
        ) from error
    return upstream


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="section of versions.toml")
    parser.add_argument("--versions", type=Path, required=True, help="versions.toml")
    parser.add_argument("--cache", type=Path, required=True, help="where downloads are kept")
    args = parser.parse_args()

    # A kill must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        args.cache.mkdir(parents=True, exist_ok=True)
        pin = tomllib.loads(args.versions.read_text())[args.name]
        tarball = app_source(args.name, pin, args.cache.resolve(), os.environ)
        point(args.cache / f"{args.name}.tarball", str(tarball))
    except FetchError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}\nhint: is there space in {args.cache}?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(tarball)
    return 0


if __name__ == "__main__":
    sys.exit(main())
