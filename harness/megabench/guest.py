# SPDX-License-Identifier: MIT
"""What runs inside the virtual machine before anybody logs in: the script and its SSH server.

The server is OpenSSH's, unpacked from Debian's packages into build/guest and never installed: so
no service starts on the user's machine, and the guest is reached just as a real machine will be.
Its keys and configuration are made for each boot.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from .errors import CommandError, TestbedError
from .host import LocalHost

PACKAGES = ("openssh-server", "libwrap0")
DOWNLOAD_TIMEOUT_S = 120.0
RUN = "/run/megabench"  # in the guest, on tmpfs
READY = "Server listening on 0.0.0.0"  # what sshd says when it can be reached

SSHD_CONFIG = f"""\
HostKey {RUN}/ssh/host_key
AuthorizedKeysFile {RUN}/ssh/authorized_keys
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
PrintMotd no
PrintLastLog no
X11Forwarding no
MaxSessions 64
MaxStartups 64
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256
Ciphers aes128-ctr
MACs hmac-sha2-256
ClientAliveInterval 0
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class KeyPair:
    private: bytes
    public: str


def make_key() -> KeyPair:
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return KeyPair(private, public)


def find_sshd(directory: Path) -> Path:
    """The unpacked server, fetched first if it is not there; else one that is installed."""
    unpacked = directory / "usr/sbin/sshd"
    if unpacked.exists():
        return unpacked
    problem = ""
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        try:
            fetch_sshd(directory)
            return unpacked
        except CommandError as error:
            problem = f": {error.message}"
    for installed in (Path("/usr/sbin/sshd"), Path("/usr/bin/sshd")):
        if installed.exists():
            return installed
    raise TestbedError(
        f"no SSH server for the virtual machine{problem}",
        f"give the network access to Debian's packages ({', '.join(PACKAGES)}), or install sshd",
    )


def libraries_beside(sshd: Path) -> list[Path]:
    """Shared libraries unpacked with it; an installed server finds its own."""
    root = sshd.parents[2]
    return [] if root == Path("/") else sorted(root.rglob("*.so.*"))


def fetch_sshd(directory: Path) -> None:
    host = LocalHost()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        download = ["sh", "-c", 'cd "$0" && exec apt-get -qq download "$@"', scratch, *PACKAGES]
        host.run(download, timeout=DOWNLOAD_TIMEOUT_S)
        unpacked = Path(scratch) / "root"
        for package in sorted(Path(scratch).glob("*.deb")):
            host.run(
                ["dpkg-deb", "--extract", str(package), str(unpacked)], timeout=DOWNLOAD_TIMEOUT_S
            )
        unpacked.chmod(0o755)
        shutil.rmtree(directory, ignore_errors=True)
        unpacked.rename(directory)


def write_guest(
    directory: Path,
    *,
    sshd: Path,
    address: str,
    address6: str,
    host_key: KeyPair,
    user_key: KeyPair,
) -> str:
    """Lay the guest's files into `directory`; returns the command that the guest is to run."""
    ssh = directory / "ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    for name, text, mode in (
        ("host_key", host_key.private, 0o600),
        ("user_key", user_key.private, 0o600),
        ("authorized_keys", user_key.public.encode() + b"\n", 0o644),
        ("sshd_config", SSHD_CONFIG.encode(), 0o644),
    ):
        write_file(ssh / name, text, mode)
    script = GUEST_SCRIPT.format(
        run=RUN,
        ssh=shlex.quote(str(ssh)),
        sshd=shlex.quote(str(sshd)),
        libraries=shlex.join(str(path) for path in libraries_beside(sshd)),
        address=shlex.quote(address),
        address6=shlex.quote(address6),
    )
    path = directory / "guest.sh"
    write_file(path, script.encode(), 0o755)
    return f"exec /bin/sh {shlex.quote(str(path))}"


def write_file(path: Path, text: bytes, mode: int) -> None:
    path.touch(mode)
    path.chmod(mode)
    path.write_bytes(text)


# The console is where failures are looked for, so all goes there. The root file system is the
# host's, read-only, with overlays; what is used while measuring lies on tmpfs.
GUEST_SCRIPT = """\
#!/bin/sh
exec </dev/null >/dev/console 2>&1
set -eu
trap 'echo "megabench: guest script failed"' EXIT

mkdir -p {run}/bin {run}/home {run}/lib {run}/ssh /run/sshd

# Where an ordinary user runs the emulator, the host's root appears as nobody in here, and what is
# set-user-id makes nobody of us: mount first of all, so it is copied, for a copy is not.
cp "$(command -v mount)" {run}/mount
{run}/mount -o remount,bind,nosuid /
cp {ssh}/host_key {ssh}/authorized_keys {ssh}/sshd_config {run}/ssh/
cp {sshd} {run}/ssh/sshd
for library in {libraries}; do
	cp -P "$library" {run}/lib/
done
chmod 700 {run}/ssh
chmod 600 {run}/ssh/host_key

# sshd wants a user for its unprivileged part and a root that is not locked.
grep -q '^sshd:' /etc/passwd || echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >>/etc/passwd
sed 's|^\\(root:[^:]*:0:0:[^:]*\\):[^:]*:[^:]*$|\\1:{run}/home:/bin/sh|' /etc/passwd >{run}/passwd
cat {run}/passwd >/etc/passwd
echo 'root:*:::::::' >{run}/shadow
mount --bind {run}/shadow /etc/shadow

for fs in tracefs:/sys/kernel/tracing debugfs:/sys/kernel/debug; do
	mountpoint -q "${{fs#*:}}" || mount -t "${{fs%%:*}}" none "${{fs#*:}}" || true
done

for device in /sys/class/net/*/device; do
	[ -e "$device" ] || continue
	name=$(basename "$(dirname "$device")")
	ip link set "$name" name eth0 2>/dev/null || true
	break
done
ip link set lo up
ip link set eth0 up
ip address add {address} dev eth0
ip -6 address add {address6} dev eth0 nodad

ulimit -n "$(cat /proc/sys/fs/nr_open)"
export LD_LIBRARY_PATH={run}/lib
trap - EXIT
exec {run}/ssh/sshd -D -e -f {run}/ssh/sshd_config
"""


def console_tail(console: Path, count: int = 20) -> str:
    try:
        text = console.read_text(errors="replace")
    except OSError:
        return "(the console said nothing)"
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:]) or "(the console said nothing)"
