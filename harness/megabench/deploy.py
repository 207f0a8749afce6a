# SPDX-License-Identifier: MIT
"""The MegaPipe kernel on a server that is not ours: packages, one boot, and all of it back.

    build       from the server's own configuration, reduced to the modules that it uses
                (builder.py)
    install     beside the kernel that is there, which is first made GRUB's default by name
    boot once   GRUB's entry for the next boot alone: a kernel that does not come up is gone after
                a power cycle
    verify      release and build, configuration, /dev/megapipe and megapipe-info
    remove      boot the old kernel, purge the packages, put GRUB's settings back

What was there before is written down on the server (DEPLOYED) before anything is changed, so that
any later command, of this checkout or another, can remove it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import metadata, paths
from .builder import FOLDER, Builder, look, make_packages
from .errors import HarnessError, TestbedError, last_lines
from .host import Host, LocalHost, kill_group
from .ssh import SshHost

DEPLOYED = "/var/lib/megabench/deploy.json"
PACKAGES = "/var/cache/megabench"
GRUB_SETTINGS = "/etc/default/grub.d/zz-megabench.cfg"
GRUB_CONFIG = "/boot/grub/grub.cfg"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

COMMAND_S = 60.0
INSTALL_S = 1800.0
POLL_S = 2.0

KERNEL_MODES = ("deploy", "own", "any")
CONFIG_MODES = ("reduced", "full")

# No submenu, so that every entry has a name of its own that can be set as the default.
SETTINGS = """\
# Made by megabench; `megabench down --remove` takes it away.
GRUB_DEFAULT=saved
GRUB_SAVEDEFAULT=false
GRUB_DISABLE_SUBMENU=y
"""
# A shell without a terminal has not always the administrator's PATH.
AS_ADMIN = 'PATH=$PATH:/usr/sbin:/sbin; export PATH; exec "$@"'
REBOOT = "(sleep 1; systemctl reboot || reboot) </dev/null >/dev/null 2>&1 &"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """[deploy] of a testbed's definition."""

    kernel: str = "any"
    config: str = "reduced"
    packages: str = ""  # where they were built, if not here
    boot_timeout_s: int = 600


@dataclass(frozen=True)
class Kernel:
    """A package to install, and what tells that it runs."""

    package: Path
    release: str
    banner: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.package.read_bytes()).hexdigest()


def admin(host: Host, *argv: str, timeout: float = COMMAND_S) -> str:
    """Run a command of the administrator's; what it said."""
    return host.run(["sh", "-c", AS_ADMIN, "sh", *argv], timeout=timeout).stdout


# Packages


def read_package(package: Path) -> Kernel:
    """Release and banner of the image in a package."""
    found = re.match(r"linux-image-(.+?)_", package.name)
    if found is None:
        raise TestbedError(f"{package} is no package of a kernel image")
    release = found[1]
    taken = f'dpkg-deb --fsys-tarfile "$1" | tar -xO "./boot/vmlinuz-{release}"'
    argv = ["sh", "-c", taken, "sh", str(package)]
    process = LocalHost().popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        image, said = process.communicate(timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        raise TestbedError(
            f"{package} was not read in {COMMAND_S:g} s",
            "is its disk slow or full, or this machine very busy? then the same command again",
        ) from None
    finally:
        if process.poll() is None:
            kill_group(process)
    banner = image_banner(image)
    if not banner.startswith(release):
        raise TestbedError(
            f"{package} holds no kernel {release}: {last_lines(said.decode(), 1) or banner}"
        )
    return Kernel(package, release, banner)


def image_banner(image: bytes) -> str:
    """What a bzImage says it is: its header points to the text (Documentation/arch/x86/boot)."""
    if len(image) < 0x210 or image[0x202:0x206] == b"\0\0\0\0":
        return ""
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    return image[0x200 + offset :].split(b"\0", 1)[0].decode(errors="replace")


def version_of(banner: str) -> str:
    """`uname -v` of the kernel with this banner: `release (who@where) version`."""
    return banner.partition(") ")[2]


def find_package(folder: Path) -> Path | None:
    """The newest image in a folder; those with debugging symbols are for nobody to boot."""
    found = [path for path in folder.glob("linux-image-*.deb") if "-dbg_" not in path.name]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


# What a package is made of, and by: our part of the kernel, its options, the scripts.
SOURCES = (
    "kernel-patch/net",
    "kernel-patch/include",
    "kernel-patch/hooks",
    "kernel-patch/config/server.config",
    "kernel-patch/scripts/deb.sh",
    "kernel-patch/scripts/tree.py",
    "scripts/server-kernel.sh",
)


def source_digest() -> str:
    """All that a package depends on here: when it has changed, the package is built anew."""
    digest = hashlib.sha256(json.dumps(metadata.kernel_source(), sort_keys=True).encode())
    root = paths.root()
    for name in SOURCES:
        for path in sorted([root / name, *(root / name).rglob("*")]):
            if path.is_file():
                digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def kernel_options() -> list[str]:
    """What a server's configuration gets beside its own."""
    lines = (paths.root() / "kernel-patch/config/server.config").read_text().splitlines()
    return [line for line in lines if line.startswith("CONFIG_")]


def builder_of(name: str, where: Host) -> Builder | None:
    """What `where` has for building; None if the packages of testbed `name` are there, of what
    the checkout is."""
    folder = paths.build() / "deploy" / name
    manifest = folder / "manifest.json"
    made_of = json.loads(manifest.read_text()) if manifest.exists() else {}
    if find_package(folder) and made_of.get("source") == source_digest():
        return None
    return look(where, str(folder) if isinstance(where, LocalHost) else FOLDER)


def build(
    name: str, host: Host, options: Options, old: str, say: Say, where: Host | None = None
) -> Kernel:
    """The package for the server of testbed `name`: built, `where` or here, unless it is there."""
    where = where or LocalHost()
    if options.packages:
        package = find_package(Path(options.packages).expanduser())
        if package is None:
            raise TestbedError(f"{options.packages}: no linux-image-*.deb", "build it there first")
        return read_package(package)
    folder = paths.build() / "deploy" / name
    config = host.read_text(f"/boot/config-{old}")
    about = {"config": hashlib.sha256(config.encode()).hexdigest(), "mode": options.config}
    manifest, package = folder / "manifest.json", find_package(folder)
    wanted = {**about, "source": source_digest()}
    if package is not None and manifest.exists() and json.loads(manifest.read_text()) == wanted:
        say(f"kernel packages are there: {package}")
        return read_package(package)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.server").write_text(config)
    modules = folder / "lsmod"
    modules.unlink(missing_ok=True)
    if options.config == "reduced":
        modules.write_text(admin(host, "lsmod"))
    say(
        f"building the kernel from {host.name}'s configuration on {where.name} "
        f"({options.config}; {'about half an hour' if modules.exists() else 'hours'} on 2 cores): "
        f"{folder}/build.log"
    )
    make_packages(folder, modules if modules.exists() else None, where)
    package = find_package(folder)
    if package is None:
        raise TestbedError(f"{folder}/build.log: the kernel's build has made no package")
    # The build may have fetched the kernel's source first.
    about["source"] = source_digest()
    manifest.write_text(json.dumps(about, indent=1) + "\n")
    return read_package(package)


# What is written down on the server


def remembered(host: Host) -> dict[str, Any]:
    """What an earlier deploy did; empty if there was none."""
    said = host.run(["cat", "--", DEPLOYED], timeout=COMMAND_S, check=False).stdout
    if not said.strip():
        return {}
    try:
        kept = json.loads(said)
        return dict(kept)
    except (ValueError, TypeError) as error:
        raise TestbedError(
            f"{host.name}: {DEPLOYED}: {error}", "look at it, mend or remove it"
        ) from error


def remember(host: Host, kept: dict[str, Any]) -> None:
    script = 'mkdir -p "${1%/*}" && cat >"$1.new" && sync "$1.new" && mv "$1.new" "$1"'
    text = json.dumps(kept, indent=1) + "\n"
    host.run(["sh", "-c", script, "sh", DEPLOYED], timeout=COMMAND_S, input=text)


def running(host: Host) -> tuple[str, str]:
    """`uname -r` and `uname -v`."""
    release, _, version = (
        host.run(["uname", "-rv"], timeout=COMMAND_S).stdout.strip().partition(" ")
    )
    return release, version


# GRUB


def menu_entries(config: str) -> dict[str, str]:
    """Names of the entries of grub.cfg by the release that they boot."""
    found: dict[str, str] = {}
    name = ""
    for line in config.splitlines():
        entry = re.search(r"menuentry .*\$menuentry_id_option '([^']+)'", line)
        if entry:
            name = entry[1]
        image = re.match(r"\s*linux\s+\S*/vmlinuz-(\S+)", line)
        # The first is the plain "Debian GNU/Linux"; then come the kernels by name, each followed by
        # its recovery mode and other init programs.
        if image and name and (image[1] not in found or f"{image[1]}-advanced-" in name):
            found[image[1]] = name
    return found


def entry_of(host: Host, release: str) -> str:
    """GRUB's name for a kernel."""
    entries = menu_entries(host.read_text(GRUB_CONFIG))
    if release not in entries:
        raise TestbedError(
            f"{host.name}: GRUB's menu has no entry for {release}; it has {', '.join(entries)}"
        )
    return entries[release]


def environment(host: Host) -> dict[str, str]:
    """GRUB's own memory: saved_entry, next_entry."""
    said = admin(host, "grub-editenv", "-", "list")
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def keep_default(host: Host, old: str) -> None:
    """Make the kernel that is there the default, by name, whatever is installed beside it."""
    script = 'mkdir -p "${1%/*}" && cat >"$1"'
    host.run(["sh", "-c", script, "sh", GRUB_SETTINGS], timeout=COMMAND_S, input=SETTINGS)
    admin(host, "update-grub", timeout=INSTALL_S)
    entry = entry_of(host, old)
    admin(host, "grub-set-default", entry)
    if environment(host).get("saved_entry") != entry:
        raise TestbedError(f"{host.name}: GRUB does not keep its default entry ({entry})")


def boot_once(host: Host, release: str) -> None:
    """The next boot, and no other, is of `release`."""
    entry = entry_of(host, release)
    admin(host, "grub-reboot", entry)
    if environment(host).get("next_entry") != entry:
        raise TestbedError(f"{host.name}: GRUB does not keep the entry of its next boot ({entry})")
    host.run(["sync"], timeout=COMMAND_S)


# Booting


def reboot(host: SshHost, seconds: float, say: Say) -> bool:
    """Reboot and wait; whether it answers again in time."""
    before = host.read_text(BOOT_ID)
    host.run(["sh", "-c", REBOOT], timeout=COMMAND_S)
    deadline = time.monotonic() + seconds
    say(f"{host.name} reboots; waiting up to {seconds:.0f} s")
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        try:
            if host.read_text(BOOT_ID) != before:
                return True
        except HarnessError:
            host.close()
    return False


def ensure(name: str, host: SshHost, options: Options, say: Say, where: Host | None = None) -> str:
    """The server runs the MegaPipe kernel when this returns; its release."""
    kept = remembered(host)
    release, version = running(host)
    old = str(kept.get("old") or release)
    kernel = build(name, host, options, old, say, where)
    if (release, version) == (kernel.release, version_of(kernel.banner)):
        say(f"{host.name} runs {release} already")
        return release
    if kept.get("digest") != kernel.digest:
        if kernel.release == release or kept.get("release", kernel.release) != kernel.release:
            raise TestbedError(
                f"{host.name} has {kept.get('release', release)}, another kernel of ours than the "
                f"one to be installed, {kernel.release}",
                "`megabench down --remove` boots the old kernel and takes this one away",
            )
        install(host, kernel, kept, old, say)
    boot_once(host, kernel.release)
    answers = reboot(host, options.boot_timeout_s, say)
    if not answers:
        raise TestbedError(
            f"{host.name} does not answer {options.boot_timeout_s} s after its reboot into "
            f"{kernel.release}",
            f"switch its power off and on: it boots {old} again, which is still its default; "
            "then `megabench down --remove` takes the new kernel away",
        )
    verify(host, kernel, old)
    return kernel.release


def is_installed(host: Host, release: str) -> bool:
    """Whether a package of that kernel is there, whole or half."""
    asked = ["dpkg", "-s", f"linux-image-{release}"]
    return bool(host.run(asked, timeout=COMMAND_S, check=False).stdout)


def install(host: SshHost, kernel: Kernel, kept: dict[str, Any], old: str, say: Say) -> None:
    """Beside what is there; nothing boots it yet."""
    if not kept and is_installed(host, kernel.release):
        raise TestbedError(
            f"{host.name} has a kernel {kernel.release} that was not installed from here",
            f'boot it by hand and set kernel = "own", or purge linux-image-{kernel.release}',
        )
    if not kept:
        kept = {"old": old, "saved_entry": environment(host).get("saved_entry", "")}
    remember(host, {**kept, "release": kernel.release, "digest": ""})
    keep_default(host, old)
    there = f"{PACKAGES}/{kernel.package.name}"
    say(f"installing {kernel.package.name} on {host.name}")
    host.put(kernel.package, there, mode=0o644)
    admin(host, "dpkg", "-i", there, timeout=INSTALL_S)
    # Its hooks have made the menu anew; the default is a name and has not moved.
    remember(host, {**kept, "release": kernel.release, "digest": kernel.digest})


def verify(host: SshHost, kernel: Kernel, old: str) -> None:
    """What runs is what was built, and MegaPipe is in it."""
    release, version = running(host)
    if release == old:
        raise TestbedError(
            f"{host.name} is back on {old}: {kernel.release} did not come up",
            "its console or `journalctl -b -1` says why; `megabench down --remove` takes it away",
        )
    if (release, version) != (kernel.release, version_of(kernel.banner)):
        raise TestbedError(f"{host.name} runs {release} {version}, not {kernel.banner}")
    config = host.read_text(f"/boot/config-{release}").splitlines()
    if lacking := [option for option in kernel_options() if option not in config]:
        raise TestbedError(
            f"{host.name}: {release} was built without {' '.join(lacking)}",
            "`megabench down --remove`, then packages of this checkout's: no `packages = …`",
        )
    if host.run(["test", "-c", "/dev/megapipe"], timeout=COMMAND_S, check=False).exit_status:
        raise TestbedError(f"{host.name}: {release} runs, but there is no /dev/megapipe")


def ask_megapipe(host: Host, program: str) -> str:
    """What megapipe-info says on the server; an error if MegaPipe cannot be used there."""
    done = host.run([program], timeout=COMMAND_S, check=False)
    if done.exit_status:
        raise TestbedError(
            f"{host.name}: megapipe-info ends with {done.exit_status}: "
            f"{last_lines(done.stderr or done.stdout, 2)}",
            "1: the kernel has no MegaPipe; 3: library and kernel are of different versions "
            "(`megabench down --remove`, then again)",
        )
    return done.stdout


def remove(host: SshHost, seconds: float, say: Say) -> bool:
    """Boot the old kernel and take the new one away; False if nothing was there."""
    kept = remembered(host)
    if not kept:
        return False
    old, release = str(kept["old"]), str(kept["release"])
    # Its default is the old kernel, since before the new one was installed.
    if running(host)[0] == release and not reboot(host, seconds, say):
        raise TestbedError(
            f"{host.name} does not answer {seconds:.0f} s after its reboot into {old}",
            "look at its console; then the same command again",
        )
    if running(host)[0] == release:
        raise TestbedError(f"{host.name} has booted {release} again, not {old}", "boot it by hand")
    say(f"{host.name} runs {running(host)[0]}; purging {release}")
    if is_installed(host, release):
        admin(host, "dpkg", "--purge", f"linux-image-{release}", timeout=INSTALL_S)
    # depmod's lists belong to no package; this folder was not there before.
    leftover = ["--", GRUB_SETTINGS, f"/lib/modules/{release}"]
    host.run(["rm", "-rf", *leftover], timeout=COMMAND_S)
    saved = str(kept.get("saved_entry", ""))
    change = ["set", f"saved_entry={saved}"] if saved else ["unset", "saved_entry"]
    admin(host, "grub-editenv", "-", *change)
    admin(host, "grub-editenv", "-", "unset", "next_entry")
    admin(host, "update-grub", timeout=INSTALL_S)
    gone = [PACKAGES, os.path.dirname(DEPLOYED)]
    host.run(["rm", "-rf", "--", *gone], timeout=COMMAND_S)
    return True


def commands(names: Sequence[str], options: Options, where: str = "here") -> list[str]:
    """What `megabench deploy --dry-run` says of the kernel."""
    if options.kernel != "deploy":
        return []
    server = names[0]
    return [
        f"get {server}:/boot/config-… and lsmod",
        f"{where}: scripts/server-kernel.sh ({options.config})",
        f"{server}: update-grub; grub-set-default <today's kernel>",
        f"{server}: dpkg -i linux-image-6.12…-megapipe…deb; grub-reboot <it>; reboot; verify",
    ]
