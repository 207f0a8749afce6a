# SPDX-License-Identifier: MIT
"""The programs that an experiment starts: servers on the server host, load on the clients.

An application is a row of APPS: how its server's and its load's command lines are made. Everything
else (waiting for the ready line, counters, stopping) is the same for all, since all speak the same
JSON lines.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from megabench import paths
from megabench.errors import CommandError, CommandTimeoutError, HarnessError
from megabench.experiment import Cell, Sampling
from megabench.host import Host, LocalHost, Process
from megabench.interrupts import held_back
from megabench.system import look

READY_S = 30.0
STOP_S = 15.0
# A load generator may take this long beyond warm-up and measurement: connections to open first,
# replies under way at the end, a host that is busy.
GRACE_S = 60.0
# Ports are taken in turn, so that the client's connections of one trial, still in TIME_WAIT, never
# stand in the way of the next.
FIRST_PORT = 9000
PORTS = 64


def port_of(number: int) -> int:
    """The port of the trial with this number."""
    return FIRST_PORT + number % PORTS


def target(address: str, port: int) -> str:
    """`address:port` as the load generator wants it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True)
class App:
    """How one application's command lines are made."""

    server: str
    load: str
    server_flags: Callable[[Cell], list[str]]
    load_flags: Callable[[Cell], list[str]]


def _pingpong_server(cell: Cell) -> list[str]:
    cores = int(cell["cores"])
    cpus = ",".join(str(cpu) for cpu in range(cores))
    return ["--threads", str(cores), "--cpus", cpus, "--size", str(cell["size"])]


def _pingpong_load(cell: Cell) -> list[str]:
    return [
        "--workload",
        "pingpong",
        "--transactions",
        str(cell["transactions_per_connection"]),
        "--size",
        str(cell["size"]),
    ]


APPS: Mapping[str, App] = {
    "pingpong": App("pingpong-server", "megabench-load", _pingpong_server, _pingpong_load),
}


def app(name: str) -> App:
    """The row of `name`."""
    if name not in APPS:
        raise HarnessError(f"unknown app: {name}", hint=f"there are: {', '.join(APPS)}")
    return APPS[name]


def remote_dir(kind: str) -> str:
    """Where programs lie on a machine that does not run from our checkout; in memory in the VM."""
    return "/run/megabench/bin" if kind == "vm" else "/tmp/megabench/bin"


def deploy(bed: Any, names: Sequence[str]) -> list[str]:
    """Bring the apps' programs to every machine that is not this one; what was copied where."""
    folder = remote_dir(bed.kind)
    copied = []
    for host in [bed.server, *bed.clients]:
        if isinstance(host, LocalHost):
            continue
        programs = [app(name).server if host is bed.server else app(name).load for name in names]
        for program in dict.fromkeys(programs):
            local = Path(binary(program, None))
            if not local.exists():
                raise HarnessError(f"no {local}", hint="make apps load")
            remote = f"{folder}/{program}"
            there = host.run(["sha256sum", remote], timeout=READY_S, check=False).stdout
            if there.partition(" ")[0] != hashlib.sha256(local.read_bytes()).hexdigest():
                host.put(local, remote)
                copied.append(f"{host.name}:{remote}")
    return copied


def undeploy(bed: Any) -> None:
    """Take the programs away again from machines that outlive the testbed."""
    if bed.kind == "vm":
        return
    for host in [bed.server, *bed.clients]:
        if not isinstance(host, LocalHost):
            host.run(["rm", "-rf", str(Path(remote_dir(bed.kind)).parent)], timeout=READY_S)


def binary(name: str, remote_dir: str | None) -> str:
    """Where a program lies: in build/bin, or where `deploy` put it."""
    return f"{remote_dir}/{name}" if remote_dir else str(paths.build() / "bin" / name)


def server_argv(
    name: str, cell: Cell, address: str, port: int, remote_dir: str | None = None
) -> list[str]:
    """The server's command line for one cell."""
    row = app(name)
    return [
        binary(row.server, remote_dir),
        *look(str(cell["system"])).flags(name),
        *row.server_flags(cell),
        "--address",
        address,
        "--port",
        str(port),
    ]


def load_argv(
    name: str,
    cell: Cell,
    sampling: Sampling,
    address: str,
    port: int,
    *,
    connections: int,
    threads: int,
    seed: int,
    snapshots: Mapping[str, str] | None = None,
    remote_dir: str | None = None,
) -> list[str]:
    """One load generator's command line for one cell."""
    row = app(name)
    seconds = sampling.warmup_s + sampling.measure_s
    argv = [
        binary(row.load, remote_dir),
        "--target",
        target(address, port),
        *row.load_flags(cell),
        "--connections",
        str(connections),
        "--threads",
        str(threads),
        "--warmup",
        f"{sampling.warmup_s:g}",
        "--duration",
        f"{sampling.measure_s:g}",
        "--deadline",
        f"{seconds + GRACE_S / 2:g}",
        "--seed",
        str(seed),
    ]
    for source, prefix in (snapshots or {}).items():
        argv += ["--snapshot", f"{source}:{prefix}"]
    return argv


def share(total: int, parts: int) -> list[int]:
    """`total` connections over `parts` clients, as evenly as they go, none empty-handed."""
    used = min(total, parts)
    return [total // used + (index < total % used) for index in range(used)]


class Program:
    """A program of ours under way: it speaks JSON lines, and its log keeps all it says."""

    def __init__(self, host: Host, argv: list[str], log: Path):
        self.host, self.argv, self.log = host, argv, log
        self.ended = False

    def __enter__(self) -> "Program":
        self.process: Process = self.host.start(self.argv, log=self.log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.ended:
            with held_back():
                self.process.kill()

    def wait_for(self, event: str, seconds: float) -> dict[str, Any]:
        """The JSON line `event`; what comes before it is in the log only."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.process.readline(max(0.01, deadline - time.monotonic()))
            except CommandTimeoutError:
                raise
            except CommandError as error:
                raise self._ended(event, error) from error
            said = _event(line)
            if said is not None and said.get("event") == event:
                return said

    def _ended(self, event: str, error: CommandError) -> CommandError:
        """The same error with its exit status: 77 means that this machine lacks something."""
        status = self.end()
        return CommandError(
            self.argv,
            status,
            error.tail,
            host=self.host.name,
            problem=f"ended with status {status} before it said {event!r}",
        )

    def end(self) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(STOP_S)
        self.ended = True
        return status

    def stop(self) -> dict[str, Any]:
        """Ask a server to end, and return its last counters."""
        self.process.signal("TERM")
        final = self.wait_for("final", STOP_S)
        self.end()
        return final


def _event(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
