# SPDX-License-Identifier: MIT
"""One trial: start the server, let the clients load it, stop it, gather the numbers.

    client 0..n -- load --> server          counters of both sides are read before and after,
        |                      |            never during the measured window, which they would
    result, snapshots    final counters     disturb

Rates and latencies are those of the measured window. Retransmissions, shares per core and system
calls per transaction are those of the whole trial, warm-up included, since reading them at the
edges of the window would cost more than they are worth.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from megabench import apps, contention, instructions, packets, paths, perf
from megabench.errors import CommandError
from megabench.host import Host
from megabench.plan import Trial
from megabench.record import write_json

UNITS = {
    "throughput": "txn/s",
    "connections": "1/s",
    "latency_p50": "us",
    "latency_p99": "us",
    "latency_p999": "us",
    "throughput_fewer_clients": "txn/s",
    "bandwidth": "Gbit/s",
    "server_cpu": "us per transaction",
    "errors": "count",
    "resets": "count",
    "timeouts": "count",
    "retransmits_server": "count",
    "retransmits_client": "count",
    "share_per_core": "fraction",
    "imbalance": "x",
    "foreign_accepts": "count",
    "syscalls": "per transaction",
    "client_cpu": "fraction",
    "wakeups": "per transaction",
    "switches": "per transaction",
    "interrupts": "per transaction",
    "ipis": "per transaction",
    "doorbells": "per transaction",
    "calls": "per transaction",
    "page_faults": "per transaction",
    "stranded": "connections",
    "memory_per_idle": "bytes",
    "packets_out": "per transaction",
    "packets_in": "per transaction",
    "instructions": "per transaction",
    "instructions_user": "per transaction",
    "instructions_kernel": "per transaction",
    "instructions_spin": "per transaction",
    "instructions_tick": "per transaction",
    "instructions_idle": "per transaction",
    **dict.fromkeys(packets.METRICS, "per transaction"),
    "contention_hottest": "per transaction",
    "contention_2": "per transaction",
    "contention_4": "per transaction",
    "contention_interface_2": "per transaction",
    "contention_interface_4": "per transaction",
    "contention_apart_2": "per transaction",
    "contention_apart_4": "per transaction",
}
INSTRUCTIONS = tuple(name for name in UNITS if name.startswith("instructions"))
# What the emulator's plugin counts beside instructions, by its name there. Its system calls are
# those of the whole machine; "syscalls" are those that the server says it made.
EVENTS = {
    "wakeups": "wakeups",
    "switches": "switches",
    "interrupts": "interrupts",
    "ipis": "ipis",
    "doorbells": "doorbells",
    "syscalls": "calls",
    "page_faults": "page_faults",
    "packets_out": "packets_out",
    "packets_in": "packets_in",
}
# Below this rate the timer ticks of an idling machine outweigh the transactions.
MIN_RATE = 100.0
READ_S = 20.0
# In a trial's logs: instructions per transaction of each function of the kernel.
FUNCTIONS = "functions.json"
# An open loop is behind by a burst now and then; by this much only if the server cannot keep up.
LATE_S = 0.1
# Segments sent again per transaction from which on a reader should know.
MANY_RETRANSMITS = 0.01
# Fewer idle connections than this are lost in what the kernel's memory grows by anyway.
MANY_IDLE = 1000
# Memory is at rest when two looks so far apart differ by less than this; awaited for so long.
LOOK_S, ALIKE_BYTES, REST_S = 0.5, 1 << 16, 30.0
# The kernel's memory, after empty slabs were given back and the CPUs' counters added up.
MEMORY = """\
for slab in /sys/kernel/slab/*/shrink; do echo 1 >"$slab"; done 2>/dev/null
cat /proc/sys/vm/stat_refresh >/dev/null 2>&1
cat /proc/meminfo"""
# Of the share of one client, how much may be lost without it before it is missed.
MISSED = 0.5
# What notes begin with that tables count (table.py).
CLIENT_BOUND, CLIENTS_BOUND = "the client was the bottleneck", "the clients were the bottleneck"
RATE_TOO_HIGH = "the rate was too high"
RETRANSMITTED = "segments retransmitted"
# Whoever waits so many times the median is stranded.
STRANDED_TIMES = 5
# Beside an emulator the load generator is an order of magnitude faster than the server, and a
# second thread would only take the emulator's cores.
LOAD_THREADS = {True: 1, False: 8}


# Who wants to see the rate of a trial under way, in transactions a second.
Watch = Callable[[float], None]


class Bed(Protocol):
    """What a trial needs of a testbed."""

    name: str
    kind: str
    server_address: str
    cores: int
    is_virtual: bool
    accel: str | None
    can_scale: bool
    counter_file: Path | None
    # The interface of the one client on which packets can be counted, if there is such.
    capture_on: str

    @property
    def server(self) -> Host: ...

    @property
    def clients(self) -> Sequence[Host]: ...


@dataclass
class Measured:
    """What a trial gave: metrics with a value each, and what else is worth keeping."""

    metrics: dict[str, Any] = field(default_factory=dict)
    histogram: list[list[float]] = field(default_factory=list)
    server: dict[str, Any] = field(default_factory=dict)
    load: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return int(self.metrics.get("errors", 0))

    def with_units(self) -> dict[str, dict[str, Any]]:
        """The metrics as they are recorded."""
        return {
            name: {"value": value, "unit": UNITS[name]}
            for name, value in self.metrics.items()
            if name in UNITS
        }


def measure(
    bed: Bed, trial: Trial, number: int, logs: Path, watch: Watch | None = None
) -> Measured:
    """Run one trial; `logs` is its own folder, and `watch` gets its rate while it runs."""
    measured = measure_once(bed, trial, number, logs, watch)
    if trial.twice and not measured.errors:
        fewer = copy.copy(bed)
        fewer.clients = bed.clients[:-1]  # type: ignore[misc]
        again = measure_once(fewer, trial, number + apps.PORTS // 2, logs / "one-client-fewer")
        judge_clients(measured, again, len(bed.clients))
    return measured


def judge_clients(measured: Measured, again: Measured, clients: int) -> None:
    """Clients that are missed were the bottleneck: a server that is the bottleneck misses none."""
    rate, less = measured.metrics["throughput"], again.metrics["throughput"]
    measured.metrics["throughput_fewer_clients"] = less
    lost = 1 - less / rate if rate else 0.0
    if lost > MISSED / clients:
        measured.notes.append(
            f"{CLIENTS_BOUND}: with {clients - 1} instead of {clients} of them "
            f"throughput was {lost:.0%} lower"
        )


def measure_once(
    bed: Bed, trial: Trial, number: int, logs: Path, watch: Watch | None = None
) -> Measured:
    """The same, once."""
    logs.mkdir(parents=True, exist_ok=True)
    server_argv, load_argvs = trial_commands(bed, trial, number, logs)
    clients = bed.clients[: len(load_argvs)]
    apps.put_load_files(trial.app, trial.cell, bed)
    before = retransmits([bed.server, *clients])
    with apps.start(trial.app, trial.cell, bed, server_argv, number, logs / "server.log") as server:
        server.ready()
        # After the start: a server that touches its memory takes many lines over.
        if bed.counter_file is not None and contention.is_lines(bed.counter_file):
            contention.clear(bed.counter_file)
        # A real machine is sampled, if asked for: it costs some speed.
        sampling = getattr(bed, "sampled", False)
        sampler = perf.start(bed.server, logs / "perf.log") if sampling else None
        growth = Growth(bed.server) if int(trial.cell.get("idle", 0)) >= MANY_IDLE else None
        # Its own cores, where it shares the machine with the load.
        cpus = getattr(bed, "server_cpus", ())
        idle = busy_s(bed.server, cpus)
        with _capture(bed, trial, number, logs) as capture:
            results = _load(clients, load_argvs, trial, logs, watch, growth)
        busy = busy_s(bed.server, cpus) - idle
        samples = perf.stop(bed.server, sampler) if sampler else None
        final = server.stop()
    after = retransmits([bed.server, *clients])
    measured = Measured(server=final, load=[_kept(result) for result in results])
    measured.notes += load_notes(results)
    measured.metrics = merge_results(results)
    measured.histogram = merge_histograms(results)
    measured.metrics["retransmits_server"] = after[0] - before[0]
    measured.metrics["retransmits_client"] = sum(after[1:]) - sum(before[1:])
    measured.metrics |= server_metrics(final)
    if "slow_work" in trial.cell:
        measured.metrics["stranded"] = stranded(
            measured.histogram,
            measured.metrics["latency_p50"],
            max(float(result["elapsed_s"]) for result in results),
        )
    if growth is not None:
        measured.metrics["memory_per_idle"] = growth.bytes / int(trial.cell["idle"])
    # Among idle connections, opening these would be in it.
    if "idle" not in trial.cell:
        measured.metrics["server_cpu"] = 1e6 * busy / max(1, sum(map(all_served, results)))
    measured.notes += retransmit_notes(measured)
    if trial.capture and bed.capture_on:
        served = max(1, sum(int(result["transactions"]) for result in results))
        measured.metrics |= packets.metrics(logs, served)
        measured.notes += packets.notes(capture)
    if samples is not None:
        metrics, functions = samples.summary(max(1, sum(map(all_served, results))))
        measured.metrics |= metrics
        _write_functions(logs, functions)
    if bed.counter_file is not None:
        _count(measured, logs)
    return measured


def trial_commands(
    bed: Bed, trial: Trial, number: int, logs: Path
) -> tuple[list[str], list[list[str]]]:
    """The command lines of a trial: the server's and each client's. Asks no machine."""
    port = apps.port_of(number)
    server = apps.server_argv(
        trial.app, trial.cell, bed.server_address, port, apps.remote_dir(bed.kind)
    )
    snapshots = {}
    if bed.counter_file:
        snapshots[paths.from_here(bed.counter_file)] = paths.from_here(logs / "counters")
    if trial.capture and bed.capture_on:
        snapshots[paths.from_here(logs / packets.LIVE)] = paths.from_here(logs / packets.COPIES)
    # Before it is up a virtual machine has no client yet, and will have one.
    shares = apps.share(int(trial.cell["connections"]), max(1, len(bed.clients)))
    loads = []
    for index, connections in enumerate(shares):
        part = connections / sum(shares)
        cell = dict(trial.cell)
        if "idle" in cell:
            cell["idle"] = apps.share(int(cell["idle"]), len(shares))[index]
        if "keys" in cell and len(shares) > 1:
            # Every generator has keys of its own: together as many as one would have.
            cell["keys"] = max(connections, round(int(cell["keys"]) * part))
        loads.append(
            apps.load_argv(
                trial.app,
                cell,
                trial.sampling,
                bed.server_address,
                port,
                connections=connections,
                threads=min(connections, threads_of(bed, index)),
                seed=trial.repeat * 1000 + index,
                rate=trial.rate * part,
                together=_waits(trial, len(shares)),
                # One client is enough to take the snapshots.
                snapshots=snapshots if index == 0 else {},
                remote_dir=None if bed.kind == "vm" else apps.remote_dir(bed.kind),
            )
        )
    return server, loads


def _waits(trial: Trial, clients: int) -> bool:
    """Whether the generators say that they are ready, and begin when they are told to."""
    return clients > 1 or "idle" in trial.cell


def threads_of(bed: Bed, client: int) -> int:
    """How many threads a client's generator may have."""
    given: Sequence[int] = getattr(bed, "client_threads", ())
    return given[client] if given else LOAD_THREADS[bed.is_virtual]


def _capture(
    bed: Bed, trial: Trial, number: int, logs: Path
) -> AbstractContextManager[dict[str, int]]:
    """The capture of a trial that wants one, where there is an interface to do it on."""
    if not (trial.capture and bed.capture_on):
        return nullcontext({})
    program = apps.binary(packets.PROGRAM, None)
    port = apps.port_of(number)
    return packets.captured(bed.clients[0], program, bed.capture_on, port, logs)


class Growth:
    """What a server's kernel grows by, from now until it is called."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.before = self._at_rest()
        self.bytes = 0

    def __call__(self) -> None:
        self.bytes = self._at_rest() - self.before

    def _look(self) -> int:
        return parse_memory(self.host.run(["sh", "-c", MEMORY], timeout=READ_S).stdout)

    def _at_rest(self) -> int:
        last, end = self._look(), time.monotonic() + REST_S
        while time.monotonic() < end:
            time.sleep(LOOK_S)
            now = self._look()
            if abs(now - last) < ALIKE_BYTES:
                break
            last = now
        return last


def parse_memory(meminfo: str) -> int:
    """Bytes in slabs and in vmalloc's areas, of /proc/meminfo."""
    values = {line.split(":")[0]: line.split()[1] for line in meminfo.splitlines() if ":" in line}
    return 1024 * (int(values["Slab"]) + int(values["VmallocUsed"]))


class Meter:
    """The rate of all clients, told by what the first one says of itself now and then."""

    def __init__(self, clients: int, watch: Watch) -> None:
        self.clients, self.watch = clients, watch
        self.last: tuple[float, int] | None = None

    def __call__(self, said: Mapping[str, Any]) -> None:
        """Hear an event."""
        if said.get("event") not in ("measure_begin", "progress"):
            return
        now = (said["time_ns"] / 1e9, int(said.get("transactions", 0)))
        if self.last is not None and now[0] > self.last[0]:
            self.watch(self.clients * (now[1] - self.last[1]) / (now[0] - self.last[0]))
        self.last = now


def _load(
    clients: Sequence[Host],
    argvs: list[list[str]],
    trial: Trial,
    logs: Path,
    watch: Watch | None,
    growth: Growth | None,
) -> list[dict[str, Any]]:
    """Run every client at once; their results."""
    if watch is not None:
        argvs = [[*argvs[0], "--progress", "1"], *argvs[1:]]
    seconds = apps.longest_s(trial.cell, trial.sampling)
    programs = [
        apps.Program(client, argv, logs / f"load{index}.log")
        for index, (client, argv) in enumerate(zip(clients, argvs, strict=True))
    ]
    running: list[apps.Program] = []
    try:
        for program in programs:
            running.append(program.__enter__())
        if _waits(trial, len(running)):
            begin_together(running, seconds, growth)
        meter = Meter(len(running), watch) if watch is not None else None
        results = [
            _whole(program.wait_for("result", seconds, meter if index == 0 else None), program)
            for index, program in enumerate(running)
        ]
        for program in running:
            program.end()
        return results
    finally:
        for program in running:
            program.__exit__(None, None, None)


def begin_together(
    programs: Sequence[apps.Program], seconds: float, look: Callable[[], None] | None = None
) -> None:
    """When every generator is ready, look at what is there so far, and tell them all to go."""
    for program in programs:
        program.wait_for("ready", seconds)
    if look is not None:
        look()
    for program in programs:
        program.process.say("go")


def _whole(result: dict[str, Any], program: apps.Program) -> dict[str, Any]:
    """A result whose window was measured to its end."""
    if not result.get("complete", True):
        raise CommandError(
            program.argv,
            1,
            host=program.host.name,
            problem=f"did not measure: {result.get('failure', 'no reason given')}",
        )
    return result


def _kept(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what is recorded elsewhere."""
    return {name: value for name, value in result.items() if name != "histogram"}


def load_notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of the numbers should know of the load."""
    notes = []
    for result in results:
        if result.get("bottleneck") == "client":
            notes.append(f"{CLIENT_BOUND}: {result.get('bottleneck_why', '')}")
        if result.get("behind_s", 0) > LATE_S:
            notes.append(f"{RATE_TOO_HIGH}: {result['behind_s']:.2f} s behind at the window's end")
        outside = sum(result.get("errors_outside", {}).values())
        if outside:
            notes.append(f"{outside} errors outside the measured window")
        if result.get("histogram_out_of_range"):
            notes.append(f"{result['histogram_out_of_range']} latencies beyond the histogram")
    return notes


def retransmits(hosts: Sequence[Host]) -> list[int]:
    """Segments sent again so far, on each host (of its network namespace)."""
    return [
        parse_retransmits(host.run(["cat", "/proc/net/snmp"], timeout=READ_S).stdout)
        for host in hosts
    ]


def busy_s(host: Host, cpus: Sequence[int] = ()) -> float:
    """Seconds of CPU spent so far on a host, by anyone, in the kernel or not; on `cpus` or all."""
    return parse_busy(host.run(["cat", "/proc/stat"], timeout=READ_S).stdout, cpus)


def parse_busy(stat: str, cpus: Sequence[int] = ()) -> float:
    """user nice system idle iowait irq softirq steal, in hundredths of a second."""
    names = [f"cpu{cpu}" for cpu in cpus] or ["cpu"]
    busy = 0.0
    for line in stat.splitlines():
        name, *words = line.split()[:9] or [""]
        if name in names:
            ticks = [int(word) for word in words]
            busy += (sum(ticks) - ticks[3] - ticks[4]) / 100
    return busy


def all_served(result: Mapping[str, Any]) -> int:
    """All that a load asked for: warm-up, window, and what it set before."""
    return sum(
        int(result.get(key, 0)) for key in ("transactions", "transactions_outside", "prepared")
    )


def parse_retransmits(snmp: str) -> int:
    """RetransSegs of /proc/net/snmp: a line of names, then a line of values."""
    rows = [line.split() for line in snmp.splitlines() if line.startswith("Tcp:")]
    for names, values in zip(rows[::2], rows[1::2], strict=False):
        if "RetransSegs" in names:
            return int(values[names.index("RetransSegs")])
    return 0


def retransmit_notes(measured: Measured) -> list[str]:
    """A trial with many retransmissions measures them too, not the interface alone."""
    served = sum(int(thread.get("transactions", 0)) for thread in measured.server["threads"])
    served = served or sum(map(all_served, measured.load))
    again = sum(measured.metrics[f"retransmits_{side}"] for side in ("server", "client"))
    if again <= MANY_RETRANSMITS * served:
        return []
    return [f"{again} {RETRANSMITTED} in {served} transactions"]


def merge_results(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The clients' results as one: rates add up, quantiles come from the common histogram."""
    errors: dict[str, int] = {}
    for result in results:
        for kind, count in result["errors"].items():
            errors[kind] = errors.get(kind, 0) + int(count)
    if len(results) == 1:
        latency = results[0]["latency_us"]
    else:
        merged = merge_histograms(results)
        shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        latency = {name: quantile(merged, share) for name, share in shares.items()}
    return {
        "throughput": sum(float(result["throughput"]) for result in results),
        "connections": sum(float(result["connections_s"]) for result in results),
        "latency_p50": latency["p50"],
        "latency_p99": latency["p99"],
        "latency_p999": latency["p999"],
        "bandwidth": sum(float(result.get("gigabits_s", 0)) for result in results),
        "errors": sum(errors.values()),
        "resets": errors.get("reset", 0),
        "timeouts": errors.get("timeout", 0),
        "client_cpu": max(float(result["client_cpu"]) for result in results),
    }


def merge_histograms(results: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Sparse lists of [lower edge in us, count], added up."""
    bins: dict[float, float] = {}
    for result in results:
        for lower, count in result.get("histogram", []):
            bins[lower] = bins.get(lower, 0) + count
    return [[lower, bins[lower]] for lower in sorted(bins)]


def stranded(histogram: Sequence[Sequence[float]], usual_us: float, window_s: float) -> float:
    """Connections that at any moment wait for an answer much longer than is usual.

    By Little's law: the time that all such waits took together, over the window's. A closed loop
    has as many waits under way as connections, so this is how many of them are stuck.
    """
    waits = sum(lower * count for lower, count in histogram if lower > STRANDED_TIMES * usual_us)
    return waits / 1e6 / window_s


def quantile(histogram: Sequence[Sequence[float]], q: float) -> float:
    """The lower edge of the bin that holds the q-quantile."""
    total = sum(count for _, count in histogram)
    if not total:
        return math.nan
    seen = 0.0
    for lower, count in histogram:
        seen += count
        if seen >= q * total:
            return lower
    return histogram[-1][0]


def server_metrics(final: Mapping[str, Any]) -> dict[str, Any]:
    """Shares per core and system calls per transaction from a server's last counters."""
    threads = final.get("threads", [])
    served = [int(thread.get("transactions", 0)) for thread in threads]
    total = sum(served)
    if not total:
        return {}
    metrics: dict[str, Any] = {
        "share_per_core": [round(count / total, 4) for count in served],
        "imbalance": max(served) * len(served) / total,
    }
    calls = [thread["syscalls"] for thread in threads if thread.get("syscalls") is not None]
    if calls:
        metrics["syscalls"] = sum(calls) / total
    foreign = [t["foreign_accepts"] for t in threads if t.get("foreign_accepts") is not None]
    if foreign:
        metrics["foreign_accepts"] = sum(foreign)
    return metrics


def _count(measured: Measured, logs: Path) -> None:
    """Counters of the window, divided by its transactions."""
    begin, end = logs / "counters.begin", logs / "counters.end"
    transactions = sum(int(result["transactions"]) for result in measured.load)
    if not transactions or measured.metrics["throughput"] < MIN_RATE:
        measured.notes.append(f"counts left out: below {MIN_RATE:.0f} txn/s")
    elif contention.is_lines(begin):
        _count_lines(measured, logs, transactions)
    else:
        _count_instructions(measured, logs, transactions)
    # 8 vCPUs times thousands of functions, twice: the tables made of them say what they held.
    begin.unlink(missing_ok=True)
    end.unlink(missing_ok=True)


def _count_lines(measured: Measured, logs: Path, transactions: int) -> None:
    window = contention.diff(
        contention.read(logs / "counters.begin"), contention.read(logs / "counters.end")
    )
    found = contention.summary(window, contention.symbols(), transactions)
    write_json(logs / contention.LINES, found)
    measured.metrics |= contention.metrics(found)


def _count_instructions(measured: Measured, logs: Path, transactions: int) -> None:
    begin, end = logs / "counters.begin", logs / "counters.end"
    window = instructions.diff(instructions.read(begin), instructions.read(end))
    summary: Mapping[str, Any] = dict(instructions.summary(window, transactions))
    measured.metrics |= {name: summary[name] for name in INSTRUCTIONS if name in summary}
    events = summary.get("events", {})
    measured.metrics |= {name: events[of] for of, name in EVENTS.items() if of in events}
    _write_functions(logs, summary.get("by_function", {}))


def _write_functions(logs: Path, functions: Mapping[str, float]) -> None:
    """All that a tenth of an instruction can be seen of: what is left out is far less than 1 %."""
    shares = {name: round(value, 1) for name, value in functions.items()}
    ordered = sorted(shares.items(), key=lambda row: (-row[1], row[0]))
    write_json(logs / FUNCTIONS, {name: value for name, value in ordered if value})
