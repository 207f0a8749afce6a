# SPDX-License-Identifier: MIT
"""The programs that an experiment starts: servers on the server host, load on the clients.

An application is a row of APPS: how its server's and its load's command lines are made, and who
waits for the server, checks and stops it. Programs of ours speak the same JSON lines; those of
others have a module each.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabench import paths
from megabench.errors import HarnessError
from megabench.experiment import Cell, Sampling
from megabench.host import Host, LocalHost
from megabench.memcached import Memcached
from megabench.nginx import Nginx, configuration, folder_of, put_documents, trace_file
from megabench.program import READY_S, Program
from megabench.system import look, systems

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
    # From the program, its system's flags, the cell, and where to listen: the command line.
    server_argv: Callable[[str, Sequence[str], Cell, str, int], list[str]]
    # What the load says, and the files that it needs; these lie in a folder of the client's.
    load_flags: Callable[[Cell, str], list[str]]
    serve: Callable[[Cell, Any, list[str], int, Path], Program]
    make: str
    # Starting and stopping server and load generator, checking, counters: measured on the VM.
    overhead_s: float
    load_files: Callable[[Cell], list[Path]] = lambda cell: []
    # What the server needs beside its program; whether it was not there.
    put: Callable[[Host, str], bool] = lambda host, program: False

    def programs(self, name: str) -> list[str]:
        """The programs of all systems that run this app, whose name is `name`."""
        named = [row.program.get(name, self.server) for row in systems().values()]
        return list(dict.fromkeys(named))


# Who ends a connection after its last transaction: the client; the server; the server, whose FIN
# goes with the last data.
FIN = {"client-first": (), "server-first": (), "with-data": ("--fin-with-data",)}


def _pingpong_server(
    program: str, flags: Sequence[str], cell: Cell, address: str, port: int
) -> list[str]:
    # Its threads take the CPUs that are on line, in their order.
    argv = [program, *flags, "--threads", str(cell["cores"]), "--size", str(cell["size"])]
    argv += list(FIN[str(cell.get("fin", "client-first"))])
    if "fin" in cell and cell["fin"] != "client-first":
        argv += ["--messages", str(cell["transactions_per_connection"])]
    if "batch" in cell:
        argv += ["--batch", str(cell["batch"])]
    if "slow_work" in cell:
        argv += ["--slow-work", str(cell["slow_work"])]
    return [*argv, "--address", address, "--port", str(port)]


def _flags(cell: Cell, names: Mapping[str, str]) -> list[str]:
    """Flags whose values are parameters of the cell."""
    return [word for flag, name in names.items() for word in (f"--{flag}", str(cell[name]))]


def _pingpong_load(cell: Cell, folder: str) -> list[str]:
    names = {"transactions": "transactions_per_connection", "size": "size"}
    if "idle" in cell:
        names["idle"] = "idle"
    return ["--workload", "pingpong", *_flags(cell, names)]


def _serve_pingpong(cell: Cell, bed: Any, argv: list[str], port: int, log: Path) -> Program:
    return Program(bed.server, argv, log)


def _memcached_server(
    program: str, flags: Sequence[str], cell: Cell, address: str, port: int
) -> list[str]:
    # Far more than the load opens: a server that lags has not yet seen the end of the last ones.
    most = 8 * int(cell["connections"]) + 4096
    argv = [program, *flags, "-u", "root", "-U", "0", "-m", "1024", "-b", "65535", "-c", str(most)]
    return [*argv, "-t", str(cell["cores"]), "-l", address, "-p", str(port)]


def _memcached_load(cell: Cell, folder: str) -> list[str]:
    names = {"transactions": "transactions_per_connection", "size": "size"}
    names |= {"key-size": "key_size", "keys": "keys", "set-percent": "set_percent"}
    return ["--workload", "memcached", *_flags(cell, names)]


def _serve_memcached(cell: Cell, bed: Any, argv: list[str], port: int, log: Path) -> Program:
    return Memcached(bed.server, argv, log, bed.server_address, port)


def _nginx_server(
    program: str, flags: Sequence[str], cell: Cell, address: str, port: int
) -> list[str]:
    folder = folder_of(program)
    return [program, "-p", folder, "-c", f"{folder}/nginx.conf", "-e", "stderr"]


def _trace_files(cell: Cell) -> list[Path]:
    return [trace_file(str(cell["workload"]), int(cell.get("requests", 0)))]


def _nginx_load(cell: Cell, folder: str) -> list[str]:
    file = f"{folder}/{_trace_files(cell)[0].name}"
    argv = ["--workload", "http", "--trace", file]
    if "requests" in cell:
        return [*argv, "--passes", "1"]
    return [*argv, *_flags(cell, {"transactions": "transactions_per_connection"})]


def _serve_nginx(cell: Cell, bed: Any, argv: list[str], port: int, log: Path) -> Program:
    lines = look(str(cell["system"])).flags("nginx")
    text = configuration(argv[0], cell, lines, bed.server_address, port)
    return Nginx(bed.server, argv, log, bed.server_address, port, text)


APPS: Mapping[str, App] = {
    "pingpong": App(
        server="pingpong-server",
        load="megabench-load",
        server_argv=_pingpong_server,
        load_flags=_pingpong_load,
        serve=_serve_pingpong,
        make="make apps load",
        overhead_s=2.0,
    ),
    "memcached": App(
        server="memcached-stock",
        load="megabench-load",
        server_argv=_memcached_server,
        load_flags=_memcached_load,
        serve=_serve_memcached,
        make="make memcached",
        overhead_s=2.5,
    ),
    "nginx": App(
        server="nginx-stock",
        load="megabench-load",
        server_argv=_nginx_server,
        load_flags=_nginx_load,
        serve=_serve_nginx,
        make="make nginx",
        overhead_s=3.5,
        load_files=_trace_files,
        put=put_documents,
    ),
}


def app(name: str) -> App:
    """The row of `name`."""
    if name not in APPS:
        raise HarnessError(f"unknown app: {name}", hint=f"there are: {', '.join(APPS)}")
    return APPS[name]


def built() -> list[str]:
    """The apps of which every program has been built, pingpong's in any case."""
    return [
        name
        for name, row in APPS.items()
        if name == next(iter(APPS))
        or all(Path(binary(one, None)).exists() for one in row.programs(name))
    ]


def require_built(names: Sequence[str]) -> None:
    """HarnessError if a program of these apps is not there: before any machine is changed."""
    for name in names:
        row = app(name)
        for program in (*row.programs(name), row.load):
            local = Path(binary(program, None))
            if not local.exists():
                raise HarnessError(f"no {local}", hint=row.make)


def remote_dir(kind: str) -> str:
    """Where programs lie: in the checkout, or in a folder of their own (in memory in the VM)."""
    if kind == "namespaces":
        return str(paths.build() / "bin")
    return "/run/megabench/bin" if kind == "vm" else "/tmp/megabench/bin"


# What tells about the kernel side, on servers that are not this machine.
TOOLS = ("megapipe-info",)
# On machines that are not ours a program may lack a library: it comes with it, beside it.
WRAPPER = """\
#!/bin/sh
LD_LIBRARY_PATH={libraries} exec {program} "$@"
"""
SWEEP = """\
for exe in /proc/[0-9]*/exe; do
	program=$(readlink "$exe") || continue
	case $program in "$1"/*) pid=${exe#/proc/}; kill -KILL "${pid%/exe}" && echo "$program" ;; esac
done 2>/dev/null
true"""


def deploy(bed: Any, names: Sequence[str]) -> list[str]:
    """Bring the apps' programs to every machine that is not this one; what was copied where."""
    folder = remote_dir(bed.kind)
    copied = []
    for host in [bed.server, *bed.clients]:
        if isinstance(host, LocalHost):
            copied += _put_beside(host, names, folder) if host is bed.server else []
            continue
        wanted: dict[str, str] = {}
        for name in names:
            row = app(name)
            for program in row.programs(name) if host is bed.server else [row.load]:
                wanted.setdefault(program, row.make)
        if bed.kind != "vm" and host is bed.server:
            wanted |= dict.fromkeys(TOOLS, "make lib")
        for program, make in wanted.items():
            local = Path(binary(program, None))
            if not local.exists():
                raise HarnessError(f"no {local}", hint=make)
            if bed.kind == "vm":
                put = put_changed(host, local, f"{folder}/{program}")
            else:
                put = _put_with_libraries(host, local, folder)
            copied += [f"{host.name}:{one}" for one in put]
        copied += _put_beside(host, names, folder) if host is bed.server else []
    return copied


def _put_beside(host: Host, names: Sequence[str], folder: str) -> list[str]:
    """What servers need beside their programs."""
    return [
        f"{host.name}:{name}'s documents"
        for name in names
        if app(name).put(host, f"{folder}/{app(name).server}")
    ]


def put_changed(host: Host, local: Path, remote: str) -> list[str]:
    """Copy unless it is there already; what was copied."""
    there = host.run(["sha256sum", remote], timeout=READY_S, check=False).stdout
    if there.partition(" ")[0] == hashlib.sha256(local.read_bytes()).hexdigest():
        return []
    host.put(local, remote)
    return [remote]


def _put_with_libraries(host: Host, local: Path, folder: str) -> list[str]:
    """A program, and the libraries that this machine has and that one lacks."""
    ours = needed_libraries(local)
    listed = host.run(["sh", "-c", "PATH=$PATH:/sbin ldconfig -p"], timeout=READY_S, check=False)
    known = {line.split()[0] for line in listed.stdout.splitlines() if "x86-64" in line}
    lacking = {name: path for name, path in ours.items() if name not in known}
    if not lacking:
        return put_changed(host, local, f"{folder}/{local.name}")
    put = []
    for path in lacking.values():
        put += put_changed(host, path, f"{folder}/lib/{path.name}")
    real = f"{folder}/lib/{local.name}"
    put += put_changed(host, local, real)
    with tempfile.TemporaryDirectory() as scratch:
        wrapper = Path(scratch) / local.name
        wrapper.write_text(WRAPPER.format(libraries=f"{folder}/lib", program=real))
        put += put_changed(host, wrapper, f"{folder}/{local.name}")
    return put


def needed_libraries(program: Path) -> dict[str, Path]:
    """The shared libraries that a program loads here; not the C library, which every host has."""
    said = LocalHost().run(["ldd", str(program)], timeout=READY_S, check=False).stdout
    found = {}
    for line in said.splitlines():
        words = line.split()
        if len(words) > 2 and words[1] == "=>" and words[2].startswith("/"):
            found[words[0]] = Path(words[2])
    return {name: path for name, path in found.items() if not name.startswith(C_LIBRARY)}


# Names of glibc's own parts.
C_LIBRARY = ("libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "ld-linux")


def sweep(bed: Any) -> list[str]:
    """End our programs that a broken-off trial has left on machines that outlive the testbed."""
    if bed.kind != "ssh":
        return []
    left = []
    for host in [bed.server, *bed.clients]:
        if isinstance(host, LocalHost):
            continue
        argv = ["sh", "-c", SWEEP, "sh", remote_dir(bed.kind)]
        # A machine that does not answer is found out about elsewhere.
        with suppress(HarnessError):
            said = host.run(argv, timeout=READY_S, check=False).stdout
            left += [f"{host.name}:{program}" for program in said.split()]
    return left


def undeploy(bed: Any) -> None:
    """Take the programs away again from machines that outlive the testbed."""
    if bed.kind != "ssh":
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
    row, system = app(name), look(str(cell["system"]))
    program = binary(system.program.get(name, row.server), remote_dir)
    return row.server_argv(program, system.flags(name), cell, address, port)


def start(name: str, cell: Cell, bed: Any, argv: list[str], number: int, log: Path) -> Program:
    """The server of trial `number`, not started yet: a context does."""
    return app(name).serve(cell, bed, argv, port_of(number), log)


def ends_by_itself(cell: Cell) -> bool:
    """A trace is run to its end, so that all systems serve the same connections."""
    return "requests" in cell


def longest_s(cell: Cell, sampling: Sampling) -> float:
    """After how long a load is given up; measure_s is what a trace is expected to take."""
    patience = 10 if ends_by_itself(cell) else 1
    return sampling.warmup_s + patience * sampling.measure_s + GRACE_S


def load_folder(remote_dir: str | None) -> str:
    """Where the files that a load needs lie on a client."""
    folder = paths.build() / "traces"
    return f"{Path(remote_dir).parent}/traces" if remote_dir else paths.from_here(folder)


def put_load_files(name: str, cell: Cell, bed: Any) -> None:
    """Make what the load needs, and bring it to clients that are other machines."""
    for file in app(name).load_files(cell):
        for client in bed.clients:
            if not isinstance(client, LocalHost):
                client.put(file, f"{load_folder(remote_dir(bed.kind))}/{file.name}", mode=0o644)


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
    rate: float = 0.0,
    snapshots: Mapping[str, str] | None = None,
    remote_dir: str | None = None,
    together: bool = False,
) -> list[str]:
    """One load generator's command line for one cell."""
    row = app(name)
    argv = [
        binary(row.load, remote_dir),
        "--target",
        target(address, port),
        *row.load_flags(cell, load_folder(remote_dir)),
        "--connections",
        str(connections),
        "--threads",
        str(threads),
        "--warmup",
        f"{sampling.warmup_s:g}",
        *([] if ends_by_itself(cell) else ["--duration", f"{sampling.measure_s:g}"]),
        "--deadline",
        f"{longest_s(cell, sampling) - GRACE_S / 2:g}",
        "--seed",
        str(seed),
    ]
    if rate > 0:
        argv += ["--rate", f"{rate:.6g}"]
    if together:
        argv += ["--wait", "1"]
    for source, prefix in (snapshots or {}).items():
        argv += ["--snapshot", f"{source}:{prefix}"]
    return argv


def share(total: int, parts: int) -> list[int]:
    """`total` connections over `parts` clients, as evenly as they go, none empty-handed."""
    used = min(total, parts)
    return [total // used + (index < total % used) for index in range(used)]
