# SPDX-License-Identifier: MIT
"""A laboratory of virtual hosts, as `megabench` would find a real one: machines with SSH servers.

    this machine            a namespace each: network, mounts, processes, its own sshd
    ┌──────────────┐      ┌──────────┐  ┌──────────┐  ┌──────────────────────────┐
    │ hub          │      │ client1  │  │ client2  │  │ server: a namespace too, │
    │  megabench   │      │ eth1 .11 │  │ eth1 .12 │  │ or a virtual machine .2  │
    │  lan0 .1     │      └────┬─────┘  └────┬─────┘  └───────────┬──────────────┘
    └────┬─────────┘           │             │                    │
         └──────── bridge, 198.18.10.0/24 ───┴────────────────────┘

All of it is held by processes; when they are gone, so is it. Nothing leaves the hub.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fakes import ETHTOOL, ETHTOOL_STATE, SYSTEMCTL

from megabench import paths
from megabench.guest import SSHD_CONFIG, find_sshd, libraries_beside, make_key
from megabench.host import wait_until
from megabench.namespace import Namespace, hold
from megabench.ssh import SshHost
from megabench.state import end_processes

NET, NET6 = "198.18.10", "fd6d:6567:6170:a:"
TOKEN = "MEGABENCH_TOKEN"
CORES = os.cpu_count() or 1
START_S = 30.0

# Runs as the first process of a host. Its mounts are its own: nothing of this machine is changed.
HOST = """\
set -eu
folder=$1 name=$2 address=$3 address6=$4
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/megabench/ssh /run/sshd
cp -a "$folder"/. /run/megabench/ssh/
cp /etc/passwd /etc/shadow /run/megabench/
cd /run/megabench
grep -q '^sshd:' passwd || echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >>passwd
# Somebody who may log in and nothing else, and somebody who may become root without a password.
echo 'guest:x:1977:1977::/:/bin/sh' >>passwd
echo 'driver:x:1978:1978::/:/bin/sh' >>passwd
printf 'root:*:::::::\\nguest:*:::::::\\ndriver:*:::::::\\n' >shadow
mount --bind passwd /etc/passwd
mount --bind shadow /etc/shadow
if [ -d /etc/sudoers.d ]; then
	mount -t tmpfs -o mode=755 none /etc/sudoers.d
	echo 'driver ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/driver
	chmod 440 /etc/sudoers.d/driver
fi
mount -t tmpfs none /tmp
mount -t tmpfs -o mode=1777 none /var/tmp
mount -t tmpfs none /var/lib
mount -t sysfs none /sys
mount -t proc none /proc
hostname "$name"
# sudo looks its own machine up.
echo "127.0.0.1 localhost $name" >hosts
mount --bind hosts /etc/hosts
until ip link set eth1 up 2>/dev/null; do sleep 0.05; done
ip link set lo up
ip address add "$address/24" dev eth1
ip -6 address add "$address6/64" dev eth1 nodad
. /run/megabench/ssh/furnish
export LD_LIBRARY_PATH=/run/megabench/ssh/lib
exec /run/megabench/ssh/sshd -D -e -f /run/megabench/ssh/sshd_config
"""

# What the harness sets, and a namespace shares with this machine or has not: CPUs that go off line,
# a governor, turbo, hyperthreads; a card's interrupts, coalescing and RSS; a service. Here they are
# files that hold what is written to them. Queues and offloads are the veth's own.
FURNISH = """\
cpus=/sys/devices/system/cpu ours=/run/megabench/cpu
mkdir -p $ours/intel_pstate $ours/smt
cp $cpus/online $cpus/present $ours/
cp -r $cpus/vulnerabilities $ours/ 2>/dev/null || true
echo 0 >$ours/intel_pstate/no_turbo
echo on >$ours/smt/control
for cpu in $cpus/cpu[0-9]*; do
	to=$ours/${cpu##*/}
	mkdir -p $to/cpufreq $to/topology
	echo schedutil >$to/cpufreq/scaling_governor
	echo "${cpu##*/cpu}" >$to/topology/thread_siblings_list
	[ ! -e $cpu/online ] || cat $cpu/online >$to/online
done
mount --bind $ours $cpus

cards=/sys/devices/virtual/net
mount -t tmpfs none /sys/class/net
ln -s $cards/lo /sys/class/net/lo
mkdir -p /sys/class/net/eth1/device/msi_irqs /sys/class/net/eth1/device/veth
for file in $cards/eth1/*; do ln -s "$file" /sys/class/net/eth1/; done
ln -s veth /sys/class/net/eth1/device/driver
mount -t tmpfs none /proc/irq
for irq in 130 131; do
	: >/sys/class/net/eth1/device/msi_irqs/$irq
	mkdir /proc/irq/$irq
	echo 3 >/proc/irq/$irq/smp_affinity
	echo " $irq:  1  PCI-MSIX  eth1-TxRx-$((irq - 130))"
done >/run/megabench/interrupts
mount --bind /run/megabench/interrupts /proc/interrupts

mount -t tmpfs none /usr/local/sbin
cp /run/megabench/ssh/commands/* /usr/local/sbin/
"""
# In front of the stand-in: a pair of the veth's queues is called a combined one.
OF_VETH = """\
#!/bin/sh
real=/usr/sbin/ethtool
case "$1" in
-k | -K) exec $real "$@" ;;
-l) $real "$@" | sed '/^Combined:/d; s/^RX:/Combined:/' ;;
-L) exec $real -L "$2" rx "$4" tx "$4" ;;
*) exec "$0-of-card" "$@" ;;
esac
"""
# All that tuning may change on a host, as the host itself has it.
SETTINGS = """\
cd /sys/class/net/eth1
grep -rs . --exclude=nf_conntrack_count /proc/sys/net /proc/irq /sys/devices/system/cpu
grep -s . queues/*/?ps_cpus
for what in -c -k -l -x; do ethtool $what eth1; done
systemctl is-active irqbalance
"""


def available() -> str:
    """Why there can be no laboratory here; empty if there can be."""
    if os.geteuid() != 0:
        return "needs root"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"],
        capture_output=True,
        check=False,
        timeout=START_S,
    )
    return "" if tried.returncode == 0 else "namespaces are not to be had"


class Lab:
    """The hub, and the hosts that were added to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = f"lab{os.getpid()}-{folder.name}"
        self.environment = {TOKEN: self.token}
        self.hub: Namespace = hold(self.environment)
        self.holders: dict[str, subprocess.Popen[bytes]] = {}
        self.numbers: dict[str, int] = {}
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text("")
        user = make_key()
        self.public_key = user.public
        self.key = folder / "user_key"
        self.key.touch(0o600)
        self.key.write_bytes(user.private)
        self.run(["ip", "link", "set", "lo", "up"])
        self.run(["ip", "link", "add", "lan0", "type", "bridge"])
        self.run(["ip", "address", "add", f"{NET}.1/24", "dev", "lan0"])
        self.run(["ip", "-6", "address", "add", f"{NET6}:1/64", "dev", "lan0", "nodad"])
        self.run(["ip", "link", "set", "lan0", "up"])

    def run(self, argv: Sequence[str], *, timeout: float = 60.0) -> str:
        """In the hub; what it said."""
        done = subprocess.run(
            self.hub.argv(argv), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def megabench(
        self, *words: str, timeout: float = 300.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The command line, as a user in the hub would type it."""
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **environment},
        )

    def command(self, *words: str) -> list[str]:
        return self.hub.argv([sys.executable, "-m", "megabench", *words])

    def add_host(self, name: str, number: int, *, rss: bool = False) -> None:
        """A host at .number, reached by SSH as root; as `driver`, who has sudo without a password;
        or as `guest`, who may do nothing."""
        key = make_key()
        ssh = self.folder / f"{name}.{len(list(self.folder.iterdir()))}"
        (ssh / "lib").mkdir(parents=True)
        (ssh / "host_key").touch(0o600)
        (ssh / "host_key").write_bytes(key.private)
        (ssh / "authorized_keys").write_text(self.public_key + "\n")
        (ssh / "sshd_config").write_text(SSHD_CONFIG)
        (ssh / "furnish").write_text(FURNISH)
        write_commands(ssh / "commands", rss)
        sshd = find_sshd(paths.build() / "guest")
        (ssh / "sshd").write_bytes(sshd.read_bytes())
        (ssh / "sshd").chmod(0o755)
        for library in libraries_beside(sshd):
            (ssh / "lib" / library.name).write_bytes(library.read_bytes())
        with (self.folder / f"{name}.log").open("wb") as log:
            holder = subprocess.Popen(
                [
                    "unshare",
                    "--net",
                    "--mount",
                    "--pid",
                    "--uts",
                    "--fork",
                    "--kill-child",
                    "sh",
                    "-c",
                    HOST,
                    "sh",
                    str(ssh),
                    name,
                    f"{NET}.{number}",
                    f"{NET6}:{number}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.holders[name], self.numbers[name] = holder, number
        assert wait_until(lambda: own_network(holder.pid), timeout=START_S)
        link = f"v{number}"
        queues = f"numrxqueues {CORES} numtxqueues {CORES}"
        pair = f"ip link add {link} type veth peer name eth1 {queues} netns {holder.pid}"
        self.run(pair.split())
        self.run(["ip", "link", "set", link, "master", "lan0", "up"])
        self.know(f"{NET}.{number}", key.public)

        def answers() -> bool:
            assert holder.poll() is None, (self.folder / f"{name}.log").read_text()
            return self.reaches(f"{NET}.{number}", 22)

        assert wait_until(answers, timeout=START_S), (self.folder / f"{name}.log").read_text()

    def add_machine(self, name: str, number: int, disk: Path, *, cpus: int = 2) -> None:
        """A virtual machine with a boot loader; what it writes is forgotten at its end."""
        tap = f"v{number}"
        self.run(["ip", "tuntap", "add", tap, "mode", "tap", "multi_queue"])
        self.run(["ip", "link", "set", tap, "master", "lan0", "up"])
        net = f"tap,id=lan,ifname={tap},script=no,downscript=no,queues={cpus}"
        card = f"virtio-net-pci,netdev=lan,mq=on,vectors={2 * cpus + 2}"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.holders[name] = subprocess.Popen(
                [
                    *self.hub.argv(["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max"]),
                    "-smp",
                    str(cpus),
                    "-m",
                    "1024",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-snapshot",
                    "-drive",
                    f"file={disk},format=raw,if=virtio,cache=unsafe",
                    "-netdev",
                    net,
                    "-device",
                    card,
                    "-serial",
                    f"file:{self.console(name)}",
                    "-qmp",
                    f"unix:{self.folder / name}.qmp,server=on,wait=off",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.numbers[name] = number

    def console(self, name: str) -> Path:
        """All that a virtual machine says on its serial line."""
        return self.folder / f"{name}.console"

    def power_cycle(self, name: str) -> None:
        """As a hand at the switch would: no shutdown."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(START_S)
            control.connect(str(self.folder / f"{name}.qmp"))
            lines = control.makefile("rw")
            lines.readline()
            for command in ("qmp_capabilities", "system_reset"):
                lines.write(json.dumps({"execute": command}) + "\n")
                lines.flush()
                while "return" not in json.loads(lines.readline()):
                    pass

    def wait_for_ssh(self, name: str, seconds: float) -> None:
        """Until its SSH server accepts."""
        address = f"{NET}.{self.numbers[name]}"

        def answers() -> bool:
            assert self.holders[name].poll() is None, (self.folder / f"{name}.log").read_text()
            return self.reaches(address, 22)

        assert wait_until(answers, timeout=seconds, every=1.0), self.console(name).read_text()[
            -2000:
        ]

    def reaches(self, address: str, port: int) -> bool:
        """Whether somebody accepts there."""
        try:
            connection: socket.socket = self.hub.connect(address, port, 2)
        except Exception:  # noqa: BLE001 - not yet, whatever the reason
            return False
        connection.close()
        return True

    def know(self, address: str, public: str) -> None:
        """Trust a host's key."""
        lines = self.known_hosts.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(f"{address} ")]
        self.known_hosts.write_text("".join([*kept, f"{address} {public}\n"]))

    def inside(self, name: str, script: str) -> str:
        """Run a script on a host, past its SSH server."""
        init = int(
            subprocess.run(
                ["pgrep", "-P", str(self.holders[name].pid)],
                capture_output=True,
                text=True,
                check=True,
                timeout=START_S,
            ).stdout.split()[0]
        )
        argv = ["nsenter", "--target", str(init), "--net", "--mount", "--pid", "--uts"]
        done = subprocess.run(
            [*argv, "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def ssh(self, name: str, user: str = "root") -> SshHost:
        """A host as the harness reaches it."""
        address = f"{NET}.{self.numbers[name]}"
        return SshHost(
            name,
            address,
            user=user,
            key=self.key,
            known_hosts=self.known_hosts,
            connect=lambda: self.hub.connect(address, 22, START_S),
        )

    def settings(self, name: str) -> list[str]:
        """All that tuning may change on a host."""
        return self.inside(name, SETTINGS).splitlines()

    def kill(self, name: str) -> None:
        """A host dies: no last word, no reset."""
        self.run(["ip", "link", "delete", f"v{self.numbers[name]}"])
        os.killpg(self.holders[name].pid, signal.SIGKILL)
        self.holders[name].wait(START_S)

    def close(self) -> None:
        # The first process of a namespace takes no notice of a request to end.
        for holder in self.holders.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(holder.pid, signal.SIGKILL)
            holder.wait(START_S)
        end_processes(self.token)


def write_commands(folder: Path, rss: bool) -> None:
    """ethtool and systemctl of a machine that runs irqbalance; whether its card has RSS."""
    folder.mkdir()
    commands = {"ethtool": OF_VETH, "ethtool-of-card": ETHTOOL, "systemctl": SYSTEMCTL}
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    kept = ETHTOOL_STATE if rss else ETHTOOL_STATE.replace("rss=default\n", "")
    (folder / "ethtool-of-card.state").write_text(kept)
    (folder / "irqbalance.service").write_text("active\n")


def own_network(pid: int) -> bool:
    """Whether a process has left our network namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        return False
