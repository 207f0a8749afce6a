# SPDX-License-Identifier: MIT
"""Testbeds: a server under test, its clients, and the state they are in.

What a testbed is made of stands in testbeds/<name>.toml; how it comes up is a class per kind.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import knobs, paths, tune
from .definition import Table
from .errors import TestbedError
from .facts import machine_facts
from .host import Host
from .knobs import Tuning
from .tune import Applied

KINDS = ("vm", "ssh", "namespaces")


class Testbed(ABC):
    """One server, some clients. `up` is idempotent, `down` leaves nothing behind."""

    __test__ = False  # not pytest's

    name: str
    kind: str
    title: str
    server: Host
    clients: list[Host]
    server_address: str
    server_address6: str
    cores: int
    # The server's CPUs that may be on line (cores.py), once somebody has asked.
    usable_cpus: tuple[int, ...] = ()
    is_virtual: bool
    accel: str | None = None
    can_scale: bool = True
    why_not_scale: str = ""
    counter_file: Path | None = None
    # The interface of this machine that leads to the server, if packets can be counted there.
    capture_on: str = ""
    # Those of this machine's CPUs that are the server's, where it shares them with the load.
    server_cpus: tuple[int, ...] = ()
    # Where a machine that outlives the testbed keeps what its settings were; None: it does not.
    memory: str | None = None

    @classmethod
    def load(cls, name_or_path: str, *, accel: str | None = None) -> Testbed:
        """`accel` overrides the definition, as the environment's ACCEL does; for `vm` only."""
        path = find_definition(name_or_path)
        table = Table.load(path)
        about = table.table("testbed")
        kind = about.text("kind", among=KINDS)
        # Here, for the kinds are built on this module.
        if kind == "vm":
            from .vm import VmTestbed

            return VmTestbed.from_table(table, about, accel=accel or os.environ.get("ACCEL"))
        if kind == "namespaces":
            from .split import SplitTestbed

            return SplitTestbed.from_table(table, about)
        from .cluster import SshTestbed

        return SshTestbed.from_table(table, about)

    @abstractmethod
    def up(self) -> None: ...

    @abstractmethod
    def down(self) -> None: ...

    @abstractmethod
    def is_up(self) -> bool: ...

    @abstractmethod
    def attach(self) -> None:
        """Connect to a testbed that is up already; TestbedError if it is not."""

    @abstractmethod
    def shell_argv(self) -> list[str]:
        """The command that logs a person in to the server."""

    @abstractmethod
    def tunings(self) -> list[tuple[Host, Tuning]]: ...

    def tune(self) -> list[Applied]:
        applied: list[Applied] = []
        try:
            for host, tuning in self.tunings():
                applied.append(tune.apply(host, tuning, self.cores, self.memory))
        except BaseException:
            for done in reversed(applied):
                done.restore()
            raise
        return applied

    def gone(self) -> str:
        """What became of a testbed that has come up; empty if it is there."""
        return "" if self.is_up() else f"{self.name} went away: `megabench up` starts it again"

    def verify(self, folder: str) -> str:
        """Make sure of kernel and library once the programs are in `folder`; what they say."""
        return ""

    def remove(self) -> None:
        """Take away what outlives the testbed on its machines: nothing, if they do not."""
        return

    def restore(self) -> dict[str, int]:
        """Put back what a broken-off run has left on machines that outlive it; counts by name."""
        return {}

    def facts(self) -> dict[str, Any]:
        """The machines' state as they themselves report it."""
        facts: dict[str, Any] = {
            "testbed": self.name,
            "kind": self.kind,
            "title": self.title,
            "cores": self.cores,
            "is_virtual": self.is_virtual,
            "accel": self.accel,
            "can_scale": self.can_scale,
            "why_not_scale": self.why_not_scale,
            "server": machine_facts(self.server),
            "clients": [machine_facts(client) for client in self.clients],
            "tuning": {},
        }
        for host, tuning in self.tunings():
            facts["tuning"][host.name] = tune.in_force(host, tuning, self.cores)
        return facts


def find_definition(name_or_path: str) -> Path:
    directory = paths.harness() / "testbeds"
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
    else:
        path = directory / f"{name_or_path}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in directory.glob("*.toml")))
        raise TestbedError(f"no testbed {name_or_path!r}", f"there are: {known}; or give a file")
    return path


def read_tuning(table: Table, *, interface: str, cpus: tuple[int, ...] = ()) -> Tuning:
    tuning = Tuning(
        interface=interface,
        cpus=cpus,
        rps=table.text("rps", "leave", among=knobs.RPS_MODES),
        xps=table.text("xps", "leave", among=knobs.XPS_MODES),
        irq=table.text("irq", "leave", among=knobs.IRQ_MODES),
        queues=table.text("queues", "leave", among=knobs.QUEUE_MODES),
        rss=table.text("rss", "leave", among=knobs.RSS_MODES),
        governor=table.text("governor", "leave", among=knobs.GOVERNORS),
        turbo=table.text("turbo", "leave", among=knobs.ON_OFF),
        smt=table.text("smt", "leave", among=knobs.ON_OFF),
        stop_services=tuple(table.text("stop_services", "").split()),
        coalesce=table.table("coalesce", optional=True).texts(),
        offloads=table.table("offloads", optional=True).texts(),
        sysctl=table.table("sysctl", optional=True).texts(),
    )
    table.finish()
    return tuning


def read_address(
    table: Table, key: str, *, version: int, prefix: bool, optional: bool = False
) -> str:
    """An IP address, with its prefix length where it is ours to assign."""
    text = table.text(key, "" if optional else None)
    if optional and not text:
        return ""
    try:
        parsed = ipaddress.ip_interface(text)
    except ValueError:
        raise table.wrong(key, f"is not an IP address: {text!r}") from None
    if parsed.version != version or prefix != ("/" in text):
        shape = "address/prefix" if prefix else "address"
        raise table.wrong(key, f"must be an IPv{version} {shape}, not {text!r}")
    return text


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keeps a second Ctrl-C from breaking off what cleans up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: when Python itself ends, its handlers are gone.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
