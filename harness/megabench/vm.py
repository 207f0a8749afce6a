# SPDX-License-Identifier: MIT
"""The local testbed: the server in a virtual machine, the client natively in a network namespace.

client (this machine, own network namespace)  --tap, 8 queues--  server (guest, 8 CPUs)
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import paths
from .definition import Table
from .errors import CommandError, TestbedError, last_lines
from .facts import machine_facts
from .guest import READY, console_tail, find_sshd, make_key, write_file, write_guest
from .host import Host, LocalHost, NamespaceHost, wait_until
from .knobs import Tuning, cpus_in
from .namespace import Namespace, hold
from .ssh import SshHost
from .state import State
from .testbed import Testbed, read_address, read_tuning, uninterrupted

TAP = "mb0"
QEMU = "qemu-system-x86_64"
ACCELS = ("auto", "tcg", "kvm")
TRIAL_DEADLINE_S = 40.0
TRIAL_WORD = "megabench: trial guest ran"
SSH_PORT = 22

# Written over by the guest, in memory; never on the host.
OVERLAYS = ("/etc", "/var", "/tmp", "/opt", "/srv", "/home")

KERNEL_OPTIONS = (
    "nokaslr",  # the instruction counter looks addresses up in System.map
    "net.ifnames=0",
    # Eight processors sharing two look stalled and out of step when they are merely slow.
    "rcupdate.rcu_cpu_stall_timeout=300",
    "tsc=reliable",
    # Without a cache each program started reads all its files anew: four times slower. What changes
    # on the host meanwhile may not be seen, so what is measured is put into the guest first.
    "rootflags=version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose",
)


@dataclass(frozen=True)
class Machine:
    """The [server], [client] and [vm] tables of a testbed."""

    cores: int
    memory_mib: int
    address: str
    address6: str
    client_address: str
    client_address6: str
    kernel: str
    accel: str
    count_instructions: bool
    boot_timeout_s: int
    # Of this machine's cores, those for the virtual machine and those for the load; empty: any.
    server_host_cores: str = ""
    client_host_cores: str = ""


def read_host_cores(table: Table) -> str:
    """A list of this machine's cores, as taskset takes it: 0-3 or 0,2,4."""
    text = table.text("host_cores", "")
    if not text:
        return ""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise table.wrong("host_cores", f"must be a list of cores like 0-3 or 0,2,4, not {text!r}")
    lacking = sorted(cores_in(text) - os.sched_getaffinity(0))
    if lacking:
        raise table.wrong("host_cores", f"this machine has no core {lacking[0]}")
    return text


def cores_in(text: str) -> set[int]:
    """The cores of such a list."""
    return set(cpus_in(text))


def pinned(cores: str) -> list[str]:
    """What comes before a command line to keep it on these cores."""
    return ["taskset", "--cpu-list", cores] if cores else []


def read_machine(table: Table) -> Machine:
    server, client, vm = (table.table(key) for key in ("server", "client", "vm"))
    machine = Machine(
        cores=server.integer("cores", least=1),
        memory_mib=server.integer("memory_mib", least=256),
        address=read_address(server, "address", version=4, prefix=True),
        address6=read_address(server, "address6", version=6, prefix=True),
        client_address=read_address(client, "address", version=4, prefix=True),
        client_address6=read_address(client, "address6", version=6, prefix=True),
        kernel=vm.text("kernel", "vm"),
        accel=vm.text("accel", "auto", among=ACCELS),
        count_instructions=vm.boolean("count_instructions", True),
        boot_timeout_s=vm.integer("boot_timeout_s", 180, least=1),
        server_host_cores=read_host_cores(server),
        client_host_cores=read_host_cores(client),
    )
    both = cores_in(machine.server_host_cores) & cores_in(machine.client_host_cores)
    if both:
        raise client.wrong("host_cores", f"core {min(both)} is the server's as well")
    for part in (server, client, vm):
        part.finish()
    return machine


def escaped(path: Path) -> str:
    """A path inside a comma-separated QEMU option."""
    return str(path).replace(",", ",,")


def network_options(queues: int) -> list[str]:
    # vhost=off: the module may be missing, and the client is fast enough without. No rss=on: with
    # it QEMU 7.2 loses packets; the guest spreads them by RPS.
    return [
        "-netdev",
        f"tap,id=net,ifname={TAP},script=no,downscript=no,queues={queues},vhost=off",
        "-device",
        f"virtio-net-pci,netdev=net,mq=on,vectors={2 * queues + 2},rx_queue_size=1024",
    ]


def plugin_options(plugin: Path, counters: Path, system_map: Path) -> list[str]:
    return ["-plugin", f"{escaped(plugin)},out={escaped(counters)},map={escaped(system_map)}"]


def virtme_argv(
    image: Path, machine: Machine, accel: str, command: str, options: Sequence[str]
) -> list[str]:
    """The command line that boots `image` with this machine's own files, read-only, as its root."""
    argv = [
        str(Path(sys.executable).parent / "virtme-run"),
        *("--kimg", str(image), "--mods", "auto", "--name", "megabench"),
        *("--cpus", str(machine.cores), "--memory", f"{machine.memory_mib}M"),
        *("--force-9p", "--disable-microvm", "--show-boot-console", "--verbose"),
        *("--script-sh", command),
    ]
    for directory in OVERLAYS:
        if Path(directory).is_dir():
            argv += ["--overlay-rwdir", directory]
    if accel == "tcg":
        argv.append("--disable-kvm")
    for option in KERNEL_OPTIONS:
        argv += ["--kopt", option]
    return [*argv, "--qemu-opts", *options] if options else argv


class VmTestbed(Testbed):
    kind = "vm"
    is_virtual = True
    # The emulator's, which counts: instructions, or (liblines.so) changes of writer of cache lines.
    plugin = "libinsn.so"
    capture_on = TAP

    def __init__(
        self, name: str, title: str, machine: Machine, server: Tuning, client: Tuning
    ) -> None:
        self.name = name
        self.title = title
        self.machine = machine
        self.cores = machine.cores
        self.tuning = {"server": server, "client": client}
        self.server_address = str(ipaddress.ip_interface(machine.address).ip)
        self.server_address6 = str(ipaddress.ip_interface(machine.address6).ip)
        self.state = State(paths.build() / "state", name)
        self.image = paths.build() / f"kernel-{machine.kernel}" / "arch/x86/boot/bzImage"
        self.clients: list[Host] = []
        self._ssh: SshHost | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self.client_threads = [len(cores)] if (cores := cores_in(machine.client_host_cores)) else []
        have = len(cores_in(machine.server_host_cores) or os.sched_getaffinity(0))
        # One core more than the machine has is for the load, if the load has none of its own.
        self.can_scale = have >= machine.cores + (not machine.server_host_cores)
        if not self.can_scale:
            self.why_not_scale = f"{machine.cores} virtual CPUs share {have} host core(s)"

    @classmethod
    def from_table(cls, table: Table, about: Table, *, accel: str | None) -> VmTestbed:
        name, title = about.text("name"), about.text("title", "virtual machine")
        about.finish()
        machine = read_machine(table)
        if accel:
            if accel not in ACCELS:
                raise TestbedError(
                    f"ACCEL={accel}: no such accelerator", f"there are {', '.join(ACCELS)}"
                )
            machine = Machine(**{**machine.__dict__, "accel": accel})
        tunings = table.table("tune", optional=True)
        server = read_tuning(tunings.table("server", optional=True), interface="eth0")
        client = read_tuning(tunings.table("client", optional=True), interface=TAP)
        tunings.finish()
        table.finish()
        return cls(name, title, machine, server, client)

    # Coming up and going down

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def is_up(self) -> bool:
        return self.state.load() and "ready" in self.state.values and self.state.is_alive("vm")

    def up(self) -> None:
        with self.state.locked():
            if self.is_up():
                self.attach()
                return
            with uninterrupted():
                self.state.clear()
            try:
                self._boot()
            except BaseException:
                with uninterrupted():
                    self._clear()
                raise

    def down(self) -> None:
        with self.state.locked(), uninterrupted():
            self._clear()

    def attach(self) -> None:
        if not self.is_up():
            raise TestbedError(
                f"testbed {self.name} is not up", f"megabench up --testbed {self.name}"
            )
        self._connect()

    def _clear(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None
        self.clients = []
        self.accel = None
        self.counter_file = None
        self.state.clear()
        if self._popen is not None:
            self._popen.wait()
            self._popen = None

    def _boot(self) -> None:
        if not self.image.exists():
            raise TestbedError(
                f"no kernel at {self.image}",
                f"make -C kernel-patch build CONFIG={self.machine.kernel}",
            )
        sshd = find_sshd(paths.build() / "guest")
        # From here on everything started carries the token: whatever happens, it will be found.
        self.state.begin()
        accel = self._choose_accel()
        namespace = hold(self.state.environment)
        self.state.save(user_namespace=namespace.user, accel=accel)
        self.state.remember_process("namespace", namespace.pid)
        self._make_network(namespace)

        host_key, user_key = make_key(), make_key()
        command = write_guest(
            self.state.directory,
            sshd=sshd,
            address=self.machine.address,
            address6=self.machine.address6,
            host_key=host_key,
            user_key=user_key,
        )
        write_file(
            self.state.directory / "known_hosts",
            f"{self.server_address} {host_key.public}\n".encode(),
            0o600,
        )
        options = [*network_options(self.cores), *self._counting_options(accel)]
        argv = virtme_argv(self.image, self.machine, accel, command, options)
        self.say(f"booting {self.image} on {self.cores} virtual CPUs, {accel_name(accel)}")
        argv = [*pinned(self.machine.server_host_cores), *argv]
        self._popen = self._start(namespace.argv(argv), "console.log")
        self.state.remember_process("vm", self._popen.pid)
        self.state.save(host_key=host_key.public)
        self._await_guest()
        self._connect()
        self.server.run(["true"], timeout=self.machine.boot_timeout_s)
        self.tune()
        self.state.save(ready=True)

    def _start(self, argv: Sequence[str], console: str) -> subprocess.Popen[bytes]:
        directory = self.state.directory
        with (directory / console).open("wb") as log, (directory / "virtme.log").open("wb") as out:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=directory,
                # virtme keeps temporary files and a cache: they go with the directory.
                env={
                    **os.environ,
                    **self.state.environment,
                    "HOME": str(directory),
                    "TMPDIR": str(directory),
                },
                start_new_session=True,
            )

    def _make_network(self, namespace: Namespace) -> None:
        commands = [
            "link set lo up",
            f"tuntap add dev {TAP} mode tap multi_queue",
            # The guest's ring is short: the queue before it must hold a burst of connections.
            f"link set {TAP} txqueuelen 10000",
            f"address add {self.machine.client_address} dev {TAP}",
            f"-6 address add {self.machine.client_address6} dev {TAP} nodad",
            f"link set {TAP} up",
        ]
        host = NamespaceHost("client", namespace, self.state.environment)
        for command in commands:
            try:
                host.run(["ip", *command.split()], timeout=30)
            except CommandError as error:
                raise TestbedError(
                    f"the testbed's network cannot be made: {error.message}",
                    "it needs /dev/net/tun and, for IPv6, a kernel with IPv6",
                ) from error

    def _await_guest(self) -> None:
        console = self.state.directory / "console.log"
        popen = self._popen
        assert popen is not None
        ready = wait_until(
            lambda: READY in read_log(console) or popen.poll() is not None,
            timeout=self.machine.boot_timeout_s,
        )
        if not ready or popen.poll() is not None:
            deadline_s = self.machine.boot_timeout_s
            why = "ended" if popen.poll() is not None else f"was not up in {deadline_s} s"
            raise TestbedError(
                f"the virtual machine {why}; the last its console said:\n{console_tail(console)}",
                f"is {self.image} a kernel of kernel-patch's configurations? "
                "A slow machine may need a higher vm.boot_timeout_s",
            )

    def _connect(self) -> None:
        state = self.state.values
        namespace = Namespace(state["namespace"]["pid"], state["user_namespace"])
        self.accel = state["accel"]
        counters = self.state.directory / "instructions.bin"
        self.counter_file = counters if counters.exists() else None
        pin = pinned(self.machine.client_host_cores)
        self.clients = [NamespaceHost("client", namespace, self.state.environment, pin)]
        self._ssh = SshHost(
            "server",
            self.server_address,
            key=self.state.directory / "ssh/user_key",
            host_key=state["host_key"],
            connect=lambda: namespace.connect(self.server_address, SSH_PORT, 30.0),
        )
        self.server = self._ssh

    # Acceleration and counting

    def _choose_accel(self) -> str:
        wanted = self.machine.accel
        if wanted == "tcg":
            return "tcg"
        problem = self._kvm_problem()
        if not problem:
            return "kvm"
        if wanted == "kvm":
            raise TestbedError(
                f"KVM does not work here: {problem}", "use ACCEL=tcg (emulation), or ACCEL=auto"
            )
        self.say(f"KVM does not work here ({problem}): the guest is emulated")
        return "tcg"

    def _kvm_problem(self) -> str:
        """Why KVM cannot be used; empty if a trial guest ran. /dev/kvm alone proves nothing."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            is_there = Path("/dev/kvm").exists()
            return "no permission to open /dev/kvm" if is_there else "there is no /dev/kvm"
        remembered = paths.build() / "cache" / "kvm-trial.json"
        # A reboot may change it, another user may get another answer.
        key = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.geteuid()}"
        try:
            trial = json.loads(remembered.read_text())
            if trial["key"] == key:
                return str(trial["problem"])
        except (OSError, ValueError, KeyError):
            pass
        self.say(f"trying KVM with a trial guest (at most {TRIAL_DEADLINE_S:g} s)")
        problem = self._try_kvm()
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(json.dumps({"key": key, "problem": problem}))
        return problem

    def _try_kvm(self) -> str:
        command = f"echo '{TRIAL_WORD}' >/dev/console"
        console = self.state.directory / "trial.log"
        trial = self._start(virtme_argv(self.image, self.machine, "kvm", command, []), console.name)
        wait_until(
            lambda: TRIAL_WORD in read_log(console) or trial.poll() is not None,
            timeout=TRIAL_DEADLINE_S,
        )
        log = read_log(console)
        if TRIAL_WORD in log and "Hypervisor detected: KVM" in log:
            problem = ""
        elif trial.poll() is None:
            problem = f"a trial guest did not boot in {TRIAL_DEADLINE_S:g} s"
        else:
            problem = f"a trial guest failed: {last_lines(log, 1)}"
        if trial.poll() is None:
            os.killpg(trial.pid, 9)
        trial.wait()
        return problem

    def _counting_options(self, accel: str) -> list[str]:
        if not self.machine.count_instructions or accel != "tcg":
            return []
        plugin = paths.build() / "bin" / self.plugin
        if not plugin.exists():
            self.say(f"nothing is counted: no {plugin} (make -C harness/plugin)")
            return []
        system_map = self.image.parents[3] / "System.map"
        return plugin_options(plugin, self.state.directory / "instructions.bin", system_map)

    # Seeing

    def tunings(self) -> list[tuple[Host, Tuning]]:
        return [
            (self.server, self.tuning["server"]),
            *((client, self.tuning["client"]) for client in self.clients),
        ]

    def shell_argv(self) -> list[str]:
        state, directory = self.state.values, self.state.directory
        namespace = Namespace(state["namespace"]["pid"], state["user_namespace"])
        options = ["-o", f"UserKnownHostsFile={directory / 'known_hosts'}", "-o", "LogLevel=ERROR"]
        key = directory / "ssh/user_key"
        login = ["ssh", "-F", "none", "-i", str(key), *options, f"root@{self.server_address}"]
        # With the token, for `down` must end it: whoever is inside keeps the namespace alive.
        token = [f"{name}={value}" for name, value in self.state.environment.items()]
        return namespace.argv(["env", *token, *login])

    def facts(self) -> dict[str, Any]:
        said = LocalHost().run([QEMU, "--version"], timeout=30).stdout
        return {
            **super().facts(),
            "qemu": last_lines(said.partition("\n")[0]),
            "kernel_options": list(KERNEL_OPTIONS),
            "cpu_option": "host" if self.accel == "kvm" else "max",
            "host": machine_facts(LocalHost("host")),
        }


def accel_name(accel: str) -> str:
    return "accelerated by KVM" if accel == "kvm" else "emulated (TCG)"


def read_log(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
