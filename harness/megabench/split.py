# SPDX-License-Identifier: MIT
"""One machine and no other: server and load in a network namespace each, on cores of their own.

server (host_cores)  eth0 --veth pair, a queue a core-- mb0  load (host_cores)

Both run on the machine's own kernel, so MegaPipe is there if that kernel is ours. Settings are the
namespaces': they go with them, and the machine's own are left alone.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

from . import paths, tune
from .definition import Table
from .errors import CommandError, TestbedError
from .host import Host, NamespaceHost
from .knobs import Tuning
from .namespace import Namespace, hold, sysfs_problem
from .readiness import BUSY, FINE, MEND, NOTE, Finding, refuse
from .state import State
from .testbed import Testbed, read_address, read_tuning, uninterrupted
from .tune import Applied
from .vm import cores_in, pinned, read_host_cores

CARDS = {"server": "eth0", "client": "mb0"}
DEVICE = Path("/dev/megapipe")
COMMAND_S = 30.0


class SplitTestbed(Testbed):
    kind = "namespaces"
    is_virtual = False

    def __init__(
        self,
        name: str,
        title: str,
        addresses: dict[str, list[str]],
        cores: dict[str, list[int]],
        tuning: dict[str, Tuning],
    ) -> None:
        self.name, self.title = name, title
        self.addresses, self.tuning = addresses, tuning
        self.state = State(paths.build() / "state", name)
        # Which of this machine's cores each side has.
        self.own_cores = cores
        self.cores = len(cores["server"])
        self.client_threads = [len(cores["client"])]
        self.server_cpus = tuple(cores["server"])
        self.server_address, self.server_address6 = (
            str(ipaddress.ip_interface(one).ip) for one in addresses["server"]
        )
        self.clients: list[Host] = []

    @classmethod
    def from_table(cls, table: Table, about: Table) -> SplitTestbed:
        name, title = about.text("name"), about.text("title", "one machine")
        about.finish()
        addresses, cores, tuning = {}, {}, {}
        tunings = table.table("tune", optional=True)
        for role, card in CARDS.items():
            part = table.table(role)
            text = read_host_cores(part)
            if not text:
                raise part.wrong("host_cores", "is missing: which cores are this side's?")
            cores[role] = sorted(cores_in(text))
            addresses[role] = [
                read_address(part, key, version=version, prefix=True)
                for key, version in (("address", 4), ("address6", 6))
            ]
            part.finish()
            tuning[role] = read_tuning(
                tunings.table(role, optional=True), interface=card, cpus=tuple(cores[role])
            )
        if cores["server"] != list(range(len(cores["server"]))):
            # nginx binds its workers to these, whatever it may.
            raise table.table("server").wrong("host_cores", "must be the machine's first, 0-…")
        both = set(cores["server"]) & set(cores["client"])
        if both:
            raise table.table("client").wrong("host_cores", f"core {min(both)} is the server's too")
        tunings.finish()
        table.finish()
        return cls(name, title, addresses, cores, tuning)

    # Looking

    def inspect(self) -> list[Finding]:
        """Whether this machine can do it."""
        found = []
        problem = "needs root" if os.geteuid() else sysfs_problem()
        said = problem or "network namespaces are to be had"
        found.append(Finding("here", "namespaces", MEND if problem else FINE, said))
        for role, cores in self.own_cores.items():
            said = f"{len(cores)} of {os.cpu_count()}: {', '.join(map(str, cores))}"
            found.append(Finding(role, "cores", FINE, said))
        if self.client_threads[0] < self.cores:
            said = "fewer than the server's: a slow load measures itself"
            found.append(Finding("client", "cores", NOTE, said))
        release = os.uname().release
        if DEVICE.exists():
            found.append(Finding("here", "kernel", FINE, f"{release} has MegaPipe"))
        else:
            said = f"{release} has no {DEVICE}: MegaPipe's systems will fail, the others run"
            found.append(Finding("here", "kernel", NOTE, said))
        load = os.getloadavg()[0]
        if load > BUSY * (os.cpu_count() or 1):
            found.append(Finding("here", "idle", NOTE, f"the machine is busy: load {load:.1f}"))
        return found

    def is_up(self) -> bool:
        alive = self.state.load() and "ready" in self.state.values
        return alive and all(self.state.is_alive(role) for role in self.own_cores)

    # Coming and going

    def up(self) -> None:
        with self.state.locked():
            if self.is_up():
                self.attach()
                return
            refuse(self.inspect())
            with uninterrupted():
                self._clear()
            try:
                self._make()
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
        hosts = {}
        for role, cores in self.own_cores.items():
            namespace = Namespace(self.state.values[role]["pid"], user=False, mounts=True)
            pin = pinned(",".join(map(str, cores)))
            hosts[role] = NamespaceHost(role, namespace, self.state.environment, pin)
        self.server = self.server_host = hosts["server"]
        self.clients = [hosts["client"]]

    def _clear(self) -> None:
        self.clients = []
        self.state.clear()

    def _make(self) -> None:
        # From here on everything started carries the token: whatever happens, it will be found.
        self.state.begin()
        held = {role: hold(self.state.environment, mounts=True) for role in self.own_cores}
        for role, namespace in held.items():
            self.state.remember_process(role, namespace.pid)
        self._connect(held)
        self.state.save(ready=True)
        self.attach()
        self.tune()

    def _connect(self, held: dict[str, Namespace]) -> None:
        """A veth pair: each end has a queue for each core of its side."""
        # A card of one queue has no XPS.
        queues = {role: max(2, len(cores)) for role, cores in self.own_cores.items()}
        server, client = (
            f"{card} numrxqueues {queues[role]} numtxqueues {queues[role]}"
            for role, card in CARDS.items()
        )
        pair = f"link add {server} type veth peer name {client} netns {held['client'].pid}"
        commands = [("server", pair)]
        for role, card in CARDS.items():
            address, address6 = self.addresses[role]
            commands += [
                (role, "link set lo up"),
                (role, f"link set {card} up"),
                (role, f"address add {address} dev {card}"),
                (role, f"-6 address add {address6} dev {card} nodad"),
            ]
        for role, command in commands:
            host = NamespaceHost(role, held[role], self.state.environment)
            try:
                host.run(["ip", *command.split()], timeout=COMMAND_S)
            except CommandError as error:
                raise TestbedError(
                    f"the testbed's network cannot be made: {error.message}",
                    "it needs a kernel with veth and IPv6",
                ) from error

    # Settings

    def tunings(self) -> list[tuple[Host, Tuning]]:
        return [(self.server, self.tuning["server"]), (self.clients[0], self.tuning["client"])]

    def tune(self) -> list[Applied]:
        sides = zip(self.tunings(), (self.cores, self.client_threads[0]), strict=True)
        return [tune.apply(host, tuning, cores) for (host, tuning), cores in sides]

    def confine(self, cores: int) -> None:
        """Serve on the first of the server's cores alone: the machine's others have other work."""
        self.server_host.pin = pinned(",".join(map(str, self.own_cores["server"][:cores])))
        tune.apply(self.server, self.tuning["server"], cores)

    # Seeing

    def shell_argv(self) -> list[str]:
        return self.server_host.command([os.environ.get("SHELL", "/bin/sh")])

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "host_cores": self.own_cores}
