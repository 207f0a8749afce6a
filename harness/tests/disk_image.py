# SPDX-License-Identifier: MIT
"""A disk as a server of today has it: Debian, its own kernel, GRUB; for the tests of `deploy`.

debootstrap installs from the sources that this machine's apt has. GRUB installs itself in a first
boot, so that no loop device is needed. The result is kept in build/lab, and never written to: each
virtual machine gets its changes in a scratch file of its own.
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

from megabench import paths
from megabench.guest import KeyPair, make_key

PACKAGES = (
    "linux-image-amd64",
    "grub-pc",
    "openssh-server",
    "systemd-sysv",
    "udev",
    "iproute2",
    "ethtool",
    "kmod",
    "procps",
    "sudo",
    "zstd",
)
SIZE_MIB = 3072
FIRST_SECTOR = 2048
SECTOR = 512
BOOTSTRAP_S = 1200
FIRST_BOOT_S = 900

# One entry: bootable, Linux, all of the disk. The geometry is what everybody writes today.
PARTITION = struct.Struct("<B3sB3sII")

GRUB_DEFAULTS = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0 net.ifnames=0"
GRUB_TERMINAL=serial
"""

# Runs as the first process of the first boot, beside nothing else.
FIRST_BOOT = """\
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -o remount,rw /
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
grub-install /dev/vda && update-grub && rm /first-boot && sync && echo "disk image: done"
sync; mount -o remount,ro /; sync; echo o >/proc/sysrq-trigger; sleep 60
"""


def available() -> str:
    """Why no image can be made here; empty if one can, or there is one."""
    if image().exists():
        return ""
    for tool in ("debootstrap", "mke2fs", "qemu-system-x86_64"):
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"{tool} is not installed"
    return "" if os.geteuid() == 0 else "needs root"


def image() -> Path:
    """The finished disk."""
    return paths.build() / "lab" / "server.raw"


def user_key() -> Path:
    """The key that logs in to it as root."""
    return image().with_name("user_key")


def host_key() -> str:
    """The key that it answers with."""
    return image().with_name("host_key.pub").read_text().strip()


def mirror() -> tuple[str, str]:
    """Address and suite of the Debian that this machine's apt installs from."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    for line in said.splitlines():
        words = line.split()
        debian = len(words) == 3 and words[0].rstrip("/").endswith("/debian")
        if debian and words[2] == "main" and "-" not in words[1]:
            return words[0], words[1]
    raise RuntimeError(f"no Debian among apt's sources: {said!r}")


def make_image(address: str, address6: str) -> None:
    """Make it, unless it is there."""
    if image().exists():
        return
    folder = image().parent
    folder.mkdir(parents=True, exist_ok=True)
    root, disk = folder / "root", folder / "server.raw.new"
    shutil.rmtree(root, ignore_errors=True)
    uri, suite = mirror()
    _run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            suite,
            str(root),
            uri,
        ],
        folder / "debootstrap.log",
        BOOTSTRAP_S,
    )
    configure(root, address, address6, make_key(), make_key())
    write_disk(root, disk)
    kernel = sorted((root / "boot").glob("vmlinuz-*"))[-1]
    initrd = kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img"))
    first = folder / "first-boot.log"
    _run(
        [
            "qemu-system-x86_64",
            "-M",
            "q35,accel=tcg",
            "-cpu",
            "max",
            "-m",
            "1024",
            "-drive",
            f"file={disk},format=raw,if=virtio",
            "-nic",
            "none",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-kernel",
            str(kernel),
            "-initrd",
            str(initrd),
            "-append",
            "root=/dev/vda1 rw console=ttyS0 init=/first-boot quiet",
        ],
        first,
        FIRST_BOOT_S,
    )
    if "disk image: done" not in first.read_text(errors="replace"):
        raise RuntimeError(f"GRUB was not installed: see {first}")
    shutil.rmtree(root)
    disk.rename(image())


def configure(root: Path, address: str, address6: str, host: KeyPair, user: KeyPair) -> None:
    """Make of a fresh Debian a server that answers at `address`."""
    files = {
        "etc/fstab": "/dev/vda1 / ext4 errors=remount-ro 0 1\n",
        "etc/hostname": "server\n",
        "etc/default/grub": GRUB_DEFAULTS,
        "etc/systemd/network/lan.network": (
            f"[Match]\nName=eth0\n[Network]\nAddress={address}\nAddress={address6}\n"
            "IPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n"
        ),
        "root/.ssh/authorized_keys": user.public + "\n",
        "etc/ssh/ssh_host_ed25519_key": host.private.decode(),
        "etc/ssh/ssh_host_ed25519_key.pub": host.public + "\n",
        "first-boot": FIRST_BOOT,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "first-boot").chmod(0o755)
    (root / "etc/ssh/ssh_host_ed25519_key").chmod(0o600)
    (root / "root/.ssh").chmod(0o700)
    units = root / "etc/systemd/system"
    for unit, wanted in (
        ("systemd-networkd.service", "multi-user.target.wants"),
        ("serial-getty@ttyS0.service", "getty.target.wants"),
    ):
        link = units / wanted / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        source = unit.replace("@ttyS0", "@")
        if not link.is_symlink():
            link.symlink_to(f"/lib/systemd/system/{source}")
    # Periodic work of its own would run in the midst of a test.
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer"):
        (units / unit).symlink_to("/dev/null")
    folder = image().parent
    folder.mkdir(parents=True, exist_ok=True)
    key = user_key()
    key.touch(0o600)
    key.write_bytes(user.private)
    image().with_name("host_key.pub").write_text(host.public + "\n")


def write_disk(root: Path, disk: Path) -> None:
    """A partition table and one file system, filled from `root`."""
    sectors = SIZE_MIB * 1024 * 1024 // SECTOR - FIRST_SECTOR
    system = disk.with_suffix(".fs")
    subprocess.run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-L",
            "root",
            "-d",
            str(root),
            str(system),
            f"{sectors * SECTOR // 1024}k",
        ],
        check=True,
        timeout=600,
        capture_output=True,
    )
    entry = PARTITION.pack(0x80, b"\x00\x02\x00", 0x83, b"\xff\xff\xff", FIRST_SECTOR, sectors)
    with disk.open("wb") as file:
        file.write(bytes(440) + b"mega" + bytes(2) + entry + bytes(48) + b"\x55\xaa")
        file.truncate(SIZE_MIB * 1024 * 1024)
    subprocess.run(
        [
            "dd",
            f"if={system}",
            f"of={disk}",
            "bs=1M",
            f"seek={FIRST_SECTOR * SECTOR >> 20}",
            "conv=notrunc,sparse",
            "status=none",
        ],
        check=True,
        timeout=600,
    )
    system.unlink()


def _run(argv: list[str], log: Path, seconds: float) -> None:
    with log.open("wb") as said:
        done = subprocess.run(
            argv, stdout=said, stderr=said, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    if done.returncode:
        tail = log.read_text(errors="replace")[-800:]
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}; {log} ends:\n{tail}")
