# SPDX-License-Identifier: MIT
"""Real machines over SSH."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import deploy, tune
from .builder import clear
from .console import say
from .definition import Table
from .errors import CommandError, HarnessError, TestbedError, last_lines
from .host import Host, LocalHost
from .knobs import Tuning
from .readiness import MEND, NOTE, Finding, Wanted, judge, judge_builder, refuse
from .ssh import SshHost
from .survey import Survey, survey, version
from .testbed import Testbed, read_address, read_tuning
from .tune import MEMORY, Applied

SSH_PORT = 22
# A shell's exit status for a command that is not there.
NOT_FOUND = 127
# A generator's threads, where the definition says nothing.
THREADS = 8


class SshTestbed(Testbed):
    """Machines that are there anyway: up tunes them, down puts back what was."""

    kind = "ssh"
    memory = MEMORY

    def __init__(
        self,
        name: str,
        title: str,
        *,
        server: SshHost,
        clients: list[SshHost],
        wanted: list[Wanted],
        options: deploy.Options,
        client_threads: list[int],
        is_virtual: bool = False,
        builder: SshHost | None = None,
    ) -> None:
        self.name = name
        self.title = title
        self.is_virtual = is_virtual
        self.cores = wanted[0].cores
        self.server_address = wanted[0].address
        self.server_address6 = wanted[0].address6
        self.server = self.ssh_server = server
        self.clients = list(clients)
        self.client_threads = client_threads
        self.ssh_hosts = [server, *clients]
        self.wanted = wanted
        self.options = options
        # Who builds the kernel; None: this machine.
        self.builder = builder
        self._tunings: list[tuple[Host, Tuning]] = [
            (host, want.tuning) for host, want in zip(self.ssh_hosts, wanted, strict=True)
        ]
        self._applied: list[Applied] = []
        self._boots: dict[str, str] = {}
        self._surveys: list[Survey] = []
        self._up = False

    @classmethod
    def from_table(cls, table: Table, about: Table) -> SshTestbed:
        name, title = about.text("name"), about.text("title", "")
        is_virtual = about.boolean("virtual", False)
        about.finish()
        tune = table.table("tune", optional=True)
        tune_server, tune_client = (tune.table(key, optional=True) for key in ("server", "client"))
        tune.finish()
        options = read_options(table.table("deploy", optional=True))
        part = table.table("builder", optional=True)
        builder = read_host(part, "builder") if part.values else None
        machine = table.table("server")
        interface = machine.text("interface")
        wanted = [
            Wanted(
                role="server",
                cores=machine.integer("cores", least=1),
                interface=interface,
                address=read_address(machine, "address", version=4, prefix=False),
                address6=read_address(machine, "address6", version=6, prefix=False, optional=True),
                tuning=read_tuning(tune_server, interface=interface),
                kernel=options.kernel == "deploy",
            )
        ]
        server = read_host(machine, "server")
        clients, threads = [], []
        for number, part in enumerate(table.tables("client"), start=1):
            interface = part.text("interface")
            threads.append(part.integer("threads", THREADS, least=1))
            tuning = read_tuning(tune_client.copy(), interface=interface)
            wanted.append(Wanted("client", part.integer("cores", 1), interface, tuning=tuning))
            clients.append(read_host(part, f"client{number}"))
        table.finish()
        return cls(
            name,
            title,
            server=server,
            clients=clients,
            wanted=wanted,
            options=options,
            client_threads=threads,
            is_virtual=is_virtual,
            builder=builder,
        )

    # Looking

    def inspect(self) -> list[Finding]:
        """Everything that a run needs of every machine; changes nothing."""
        found: list[Finding] = []
        surveys: list[Survey] = []
        for host, want in zip(self.ssh_hosts, self.wanted, strict=True):
            try:
                # By a command of no consequence, so that the message is about the way there.
                host.run(["true"], timeout=30)
                surveys.append(survey(host, want.interface, self.server_address, deploy.DEPLOYED))
            except CommandError as error:
                found.append(Finding(host.name, "root", MEND, no_root(host, error)))
            except HarnessError as error:
                found.append(Finding(host.name, "SSH", MEND, f"{error.message}; {error.hint}"))
        if found:
            return found
        self._surveys = surveys
        found = judge(surveys, self.wanted, version(os.confstr("CS_GNU_LIBC_VERSION") or ""))
        if self.options.kernel == "deploy" and not self.options.packages:
            found += self._inspect_builder()
        if self.options.kernel == "own" and not surveys[0].text("megapipe"):
            said = f"{surveys[0].text('release')} has no /dev/megapipe; kernel-patch/README.md"
            found.append(Finding("server", "kernel", MEND, f'kernel = "own", but {said}'))
        return found

    def _inspect_builder(self) -> list[Finding]:
        """Whether the kernel can be built where it is to be."""
        where = self.builder or LocalHost()
        try:
            return judge_builder(deploy.builder_of(self.name, where), self.options.config)
        except CommandError as error:
            said = no_root(self.builder, error) if self.builder else error.message
            return [Finding(where.name, "commands", MEND, said)]
        except HarnessError as error:
            return [Finding(where.name, "SSH", MEND, f"{error.message}; {error.hint}")]

    def gone(self) -> str:
        """Which machine does not answer, or is not what it was; empty if all are there."""
        for host in self.ssh_hosts:
            try:
                boot = host.read_text(deploy.BOOT_ID)
            except HarnessError:
                # The connection may be gone and the machine not: once more, by a new one.
                host.close()
                try:
                    boot = host.read_text(deploy.BOOT_ID)
                except HarnessError as error:
                    return f"{host.name} does not answer: {error.message.splitlines()[0]}"
            if boot != self._boots.get(host.name, boot):
                release = deploy.running(host)[0]
                return f"{host.name} has been rebooted, into {release}: its settings are gone"
        return ""

    # Coming and going

    def bring_kernel(self) -> None:
        """Have the MegaPipe kernel run on the server, if it is ours to install."""
        found = self.inspect()
        refuse(found)
        for one in found:
            if one.level == NOTE:
                say(f"{one.host}: {one.what}: {one.said}")
        if self.options.kernel == "deploy":
            deploy.ensure(self.name, self.ssh_server, self.options, say, self.builder)

    def up(self) -> None:
        if self._up:
            return
        self.bring_kernel()
        self._boots = {host.name: host.read_text(deploy.BOOT_ID) for host in self.ssh_hosts}
        self._applied = self.tune()
        self._up = True

    def verify(self, folder: str) -> str:
        """What megapipe-info says, of the programs in `folder`; empty where any kernel will do."""
        if self.options.kernel == "any":
            return ""
        return deploy.ask_megapipe(self.server, f"{folder}/megapipe-info")

    def down(self) -> None:
        self._applied = []
        self._up = False
        try:
            # By what is written down there: another process may have tuned them.
            self.restore()
        finally:
            for host in self.ssh_hosts:
                host.close()

    def remove(self) -> None:
        """The old kernel, and nothing of ours left on any disk."""
        if not deploy.remove(self.ssh_server, self.options.boot_timeout_s, say):
            say(f"{self.server.name}: no kernel of ours is installed")
        if self.builder is not None:
            clear(self.builder)
            self.builder.close()

    def restore(self) -> dict[str, int]:
        """Put back what a run has changed, of this process or an earlier one; counts by machine.

        A machine that does not answer keeps none of the others from being restored.
        """
        counts: dict[str, int] = {}
        problems: list[str] = []
        for host, _ in self._tunings:
            try:
                counts[host.name] = tune.restore(host, MEMORY)
            except HarnessError as error:
                problems.append(f"{host.name}: {error.message.splitlines()[0]}")
        if problems:
            raise TestbedError(
                "not restored: " + "; ".join(problems),
                "`megabench restore` does it later; a reboot does it too",
            )
        return counts

    def is_up(self) -> bool:
        return self._up

    def attach(self) -> None:
        for host in self.ssh_hosts:
            done = host.run(["true"], timeout=30, check=False)
            if done.exit_status:
                raise TestbedError(f"{host.name}: no command runs there: {done.stderr.strip()}")

    def facts(self) -> dict[str, Any]:
        filters = {
            one.name: {"rules": one.rules, "connection_tracking": bool(one.text("tracking"))}
            for one in self._surveys
        }
        return {
            **super().facts(),
            "packet_filters": filters,
            "cmdline": self.server.read_text("/proc/cmdline").strip(),
        }

    def shell_argv(self) -> list[str]:
        host = self.ssh_server
        key = ["-i", str(host.key)] if host.key else []
        known = ["-o", f"UserKnownHostsFile={host.known_hosts}"] if host.known_hosts else []
        return ["ssh", "-p", str(host.port), *key, *known, f"{host.user}@{host.address}"]

    def tunings(self) -> list[tuple[Host, Tuning]]:
        return self._tunings


def no_root(host: SshHost, error: CommandError) -> str:
    """Why no command of root's runs there."""
    if host.become_root and error.exit_status == NOT_FOUND:
        return f"there is no sudo for {host.user} to become root by: apt-get install sudo"
    if host.become_root:
        return (
            f"sudo without a password is not allowed to {host.user}: "
            f"{last_lines(error.tail, 1) or error.message}"
            f" (visudo: {host.user} ALL=(ALL) NOPASSWD: ALL)"
        )
    return error.message


def read_options(table: Table) -> deploy.Options:
    options = deploy.Options(
        kernel=table.text("kernel", "deploy", among=deploy.KERNEL_MODES),
        config=table.text("config", "reduced", among=deploy.CONFIG_MODES),
        packages=table.text("packages", ""),
        boot_timeout_s=table.integer("boot_timeout_s", 600, least=30),
    )
    table.finish()
    return options


def read_host(table: Table, name: str) -> SshHost:
    key, known = table.text("key", ""), table.text("known_hosts", "")
    host = SshHost(
        name,
        table.text("host"),
        user=table.text("user", "root"),
        port=table.integer("port", SSH_PORT, least=1),
        key=Path(key).expanduser() if key else None,
        known_hosts=Path(known).expanduser() if known else None,
        become_root=table.boolean("become_root", False),
    )
    table.finish()
    return host
