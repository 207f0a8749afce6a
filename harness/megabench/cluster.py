# SPDX-License-Identifier: MIT
"""Real machines over SSH."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import tune
from .definition import Table
from .errors import TestbedError
from .host import Host
from .knobs import Tuning
from .ssh import SshHost
from .testbed import Testbed, read_address, read_tuning
from .tune import MEMORY, Applied

SSH_PORT = 22


class SshTestbed(Testbed):
    """Machines that are there anyway: up tunes them, down puts back what was."""

    kind = "ssh"
    is_virtual = False
    memory = MEMORY

    def __init__(
        self,
        name: str,
        title: str,
        *,
        cores: int,
        address: str,
        address6: str,
        server: SshHost,
        clients: list[SshHost],
        tunings: list[tuple[Host, Tuning]],
    ) -> None:
        self.name = name
        self.title = title
        self.cores = cores
        self.server_address = address
        self.server_address6 = address6
        self.server = self.ssh_server = server
        self.clients = list(clients)
        self.ssh_hosts = [server, *clients]
        self._tunings = tunings
        self._applied: list[Applied] = []
        self._up = False

    @classmethod
    def from_table(cls, table: Table, about: Table) -> SshTestbed:
        name, title = about.text("name"), about.text("title", "")
        about.finish()
        tune = table.table("tune", optional=True)
        tune_server, tune_client = (tune.table(key, optional=True) for key in ("server", "client"))
        tune.finish()
        machine = table.table("server")
        cores = machine.integer("cores", least=1)
        address = read_address(machine, "address", version=4, prefix=False)
        address6 = read_address(machine, "address6", version=6, prefix=False)
        interface = machine.text("interface")
        server = read_host(machine, "server")
        tunings: list[tuple[Host, Tuning]] = [
            (server, read_tuning(tune_server, interface=interface))
        ]
        clients = []
        for number, part in enumerate(table.tables("client")):
            interface = part.text("interface")
            client = read_host(part, f"client{number}")
            clients.append(client)
            tunings.append((client, read_tuning(tune_client, interface=interface)))
        table.finish()
        return cls(
            name,
            title,
            cores=cores,
            address=address,
            address6=address6,
            server=server,
            clients=clients,
            tunings=tunings,
        )

    def up(self) -> None:
        if not self._up:
            self._applied = self.tune()
            self._up = True

    def down(self) -> None:
        self._applied = []
        self._up = False
        # By what is written down there: another process may have tuned them.
        self.restore()
        for host in self.ssh_hosts:
            host.close()

    def restore(self) -> dict[str, int]:
        """Put back what a run has changed, of this process or an earlier one; counts by machine."""
        return {host.name: tune.restore(host, MEMORY) for host, _ in self._tunings}

    def is_up(self) -> bool:
        return self._up

    def attach(self) -> None:
        for host in self.ssh_hosts:
            done = host.run(["true"], timeout=30, check=False)
            if done.exit_status:
                raise TestbedError(f"{host.name}: no command runs there: {done.stderr.strip()}")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "cmdline": self.server.read_text("/proc/cmdline").strip()}

    def shell_argv(self) -> list[str]:
        host = self.ssh_server
        key = ["-i", str(host.key)] if host.key else []
        return ["ssh", "-p", str(host.port), *key, f"{host.user}@{host.address}"]

    def tunings(self) -> list[tuple[Host, Tuning]]:
        return self._tunings


def read_host(table: Table, name: str) -> SshHost:
    key = table.text("key", "")
    host = SshHost(
        name,
        table.text("host"),
        user=table.text("user", "root"),
        port=table.integer("port", SSH_PORT, least=1),
        key=Path(key).expanduser() if key else None,
        become_root=table.boolean("become_root", False),
    )
    table.finish()
    return host
