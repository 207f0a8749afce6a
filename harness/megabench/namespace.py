# SPDX-License-Identifier: MIT
"""A network namespace of our own, held by one sleeping process.

It has no name and so leaves no mount behind: when the holder dies, the kernel takes the namespace,
its taps and its addresses away. Root gets it directly; anybody else gets it inside a user
namespace, where the machine allows that.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import TestbedError, last_lines

TUN = Path("/dev/net/tun")
ENTER_DEADLINE_S = 10.0

# Runs inside the namespace: connect, and pass the connected socket out on file descriptor 3. The
# socket keeps to the namespace it was made in, so no relay has to stay.
CONNECT = """
import socket, sys
address, port, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
out = socket.socket(fileno=3)
try:
    connected = socket.create_connection((address, port), timeout)
except OSError as error:
    sys.exit(str(error))
socket.send_fds(out, [b"+"], [connected.fileno()])
"""


@dataclass(frozen=True)
class Namespace:
    """Somebody's network namespace, entered through the process that holds it."""

    pid: int
    user: bool  # inside a user namespace too
    mounts: bool = False  # with a /sys that shows the cards in here

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in here; nsenter becomes the command, no fork."""
        scope = ["--user", "--preserve-credentials", "--net"] if self.user else ["--net"]
        scope += ["--mount"] if self.mounts else []
        return ["nsenter", "--target", str(self.pid), *scope, "--", *argv]

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        """A TCP connection made in here, used from outside."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connect = [sys.executable, "-S", "-c", CONNECT, address, str(port), str(timeout)]
            child = subprocess.Popen(
                self.argv(["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh", *connect]),
                stdin=theirs.fileno(),
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            theirs.close()
            ours.settimeout(timeout + ENTER_DEADLINE_S)
            fds: list[int] = []
            try:
                fds = list(socket.recv_fds(ours, 1, 1)[1])
            except TimeoutError:
                pass
            finally:
                if not fds:
                    child.terminate()
                problem = child.communicate()[1]
        if not fds:
            raise TestbedError(f"no connection to {address} port {port}: {last_lines(problem, 1)}")
        return socket.socket(fileno=fds[0])


def user_namespaces_problem() -> str:
    """Why an ordinary user gets no user namespace here; empty if one is to be had."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=ENTER_DEADLINE_S,
    )
    return "" if done.returncode == 0 else last_lines(done.stderr, 1) or "unshare failed"


def missing() -> list[str]:
    """What this machine and user lack for a namespace with a tap, each with its remedy."""
    lacks = []
    for tool, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")):
        if shutil.which(tool) is None:
            lacks.append(f"the command {tool} (Debian package {package})")
    if not TUN.exists():
        lacks.append(f"{TUN} (as root: modprobe tun; in a container it must be passed in)")
    elif not os.access(TUN, os.R_OK | os.W_OK):
        lacks.append(f"permission to open {TUN} (as root: chmod 666 {TUN}, or run as root)")
    if not lacks and os.geteuid() != 0:
        problem = user_namespaces_problem()
        if problem:
            lacks.append(
                f"user namespaces for ordinary users ({problem}; as root: "
                "sysctl kernel.unprivileged_userns_clone=1 or "
                "kernel.apparmor_restrict_unprivileged_userns=0, or run as root)"
            )
    return lacks


# The mounts are the namespace's own, and so is what it shows of the network.
WITH_SYSFS = ["sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh"]


def sysfs_problem() -> str:
    """Why root gets no namespace with a /sys of its own here; empty if one is to be had."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", *WITH_SYSFS, "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=ENTER_DEADLINE_S,
    )
    return "" if done.returncode == 0 else last_lines(done.stderr, 1) or "unshare failed"


def hold(environment: Mapping[str, str], *, mounts: bool = False) -> Namespace:
    """Make a namespace; with `mounts`, one whose /sys is its own. The holder carries `environment`,
    by which clean-up knows it."""
    lacks = missing()
    if lacks:
        raise TestbedError(
            "no network namespace of our own can be had: missing " + "; ".join(lacks),
            "run as root, or have the administrator grant the above",
        )
    user = os.geteuid() != 0
    scope = ["--user", "--map-root-user", "--net"] if user else ["--net"]
    inside = WITH_SYSFS if mounts else []
    scope += ["--mount"] if mounts else []
    holder = subprocess.Popen(
        ["unshare", *scope, "--", *inside, "sleep", "infinity"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    namespace = Namespace(holder.pid, user, mounts)
    deadline = time.monotonic() + ENTER_DEADLINE_S
    while not _is_sleeping(holder.pid):
        if holder.poll() is not None or time.monotonic() > deadline:
            holder.kill()
            said = holder.communicate()[1]
            raise TestbedError(
                f"no network namespace: {last_lines(said, 1) or 'unshare did not end in time'}",
                "run as root, or allow user namespaces on this machine",
            )
        time.sleep(0.01)
    return namespace


def _is_sleeping(pid: int) -> bool:
    """unshare becomes sleep only when the namespaces are made."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"
    except OSError:
        return False
