# SPDX-License-Identifier: MIT
"""The paper's three ideas, each seen at work on the patched kernel.

this machine: megabench-load --- tap, 8 queues --- guest: pingpong-server, 8 threads on 8 CPUs

Partitioning: who accepts. lwsocket: what a connection leaves behind in the kernel. Batching: how
many system calls a transaction takes. And what all three together cost in instructions.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from kernel_log import complaints

from megabench import apps, instructions
from megabench.testbed import Testbed

pytestmark = pytest.mark.vm

CORES = 8
SERVER = "/run/megabench/bin/pingpong-server"
ports = count(9100)


class Server:
    """pingpong-server in the guest."""

    def __init__(self, bed: Testbed, program: apps.Program, port: int, pid: int) -> None:
        self.bed, self.program, self.port, self.pid = bed, program, port, pid

    def counters(self) -> list[dict[str, Any]]:
        """Each thread's counters, now."""
        self.program.process.signal("USR1")
        return list(self.program.wait_for("counters", 30)["threads"])

    def load_argv(self, **options: object) -> list[str]:
        argv = [str(apps.binary("megabench-load", None)), "--workload", "pingpong"]
        argv += ["--target", apps.target(self.bed.server_address, self.port)]
        defaults = {"threads": 1, "size": 64, "warmup": 0.2, "deadline": 240, "timeout": 60}
        for name, value in {**defaults, **options}.items():
            argv += [f"--{name}", str(value)]
        return argv

    def load(self, **options: object) -> dict[str, Any]:
        """Run the load to its end; its result, every reply verified and none lost."""
        done = self.bed.clients[0].run(self.load_argv(**options), timeout=300)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert result["complete"], result["failure"]
        assert not any(result["errors"].values()), result
        assert not any(result["errors_outside"].values()), result
        return result


@pytest.fixture
def bed(testbed: Testbed) -> Iterator[Testbed]:
    """The testbed, with the programs on it; no test may make the kernel complain."""
    apps.deploy(testbed, ["pingpong"])
    complaints(testbed.server)
    yield testbed
    assert not complaints(testbed.server)


@contextmanager
def server(bed: Testbed, tmp_path: Path, *flags: str, cores: int = CORES) -> Iterator[Server]:
    port = next(ports)
    argv = [SERVER, "--address", bed.server_address, "--port", str(port), "--size", "64"]
    argv += ["--threads", str(cores), *flags]
    with apps.Program(bed.server, argv, tmp_path / f"server-{port}.log") as program:
        ready = program.wait_for("ready", 30)
        yield Server(bed, program, port, ready["pid"])


def slab_objects(bed: Testbed, cache: str) -> int:
    """Objects in use in a slab cache, give or take the slabs that CPUs keep for themselves."""
    for line in bed.server.read_text("/proc/slabinfo").splitlines():
        name, active = line.split()[:2]
        if name == cache:
            return int(active)
    raise AssertionError(f"no slab cache {cache}")


def slab_kib(bed: Testbed) -> int:
    """Slab memory that cannot be reclaimed, KiB."""
    found = re.search(r"SUnreclaim:\s+(\d+) kB", bed.server.read_text("/proc/meminfo"))
    assert found
    return int(found[1])


def test_partition__each_core_accepts_what_its_cpu_received(bed: Testbed, tmp_path: Path) -> None:
    with server(bed, tmp_path, "--api", "megapipe") as megapipe:
        result = megapipe.load(connections=128, transactions=1, count=4000)
        threads = megapipe.counters()
    assert len(threads) == CORES
    assert [thread["foreign_accepts"] for thread in threads] == [0] * CORES
    accepted = [thread["connections"] for thread in threads]
    assert min(accepted) > 0
    assert sum(accepted) >= result["connections"]


def test_no_partition__cores_accept_for_each_other(bed: Testbed, tmp_path: Path) -> None:
    """The check above can fail: without partitions it does."""
    with server(bed, tmp_path, "--api", "megapipe", "--no-partition") as megapipe:
        megapipe.load(connections=128, transactions=1, count=2000)
        assert sum(thread["foreign_accepts"] for thread in megapipe.counters()) > 500


# Opens connections and keeps them, idle, until it is ended: address, port, how many.
IDLE_CLIENTS = """
import json, resource, signal, socket, sys
address, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (number + 64, number + 64))
kept = [socket.create_connection((address, port), timeout=60) for _ in range(number)]
print(json.dumps({"event": "connected"}), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("lwsocket", [True, False])
def test_lwsocket__no_descriptor_file_dentry_or_inode(
    bed: Testbed, tmp_path: Path, lwsocket: bool
) -> None:
    connections = 4000
    flags = ["--api", "megapipe"] + ([] if lwsocket else ["--no-lwsocket"])
    caches = ("sock_inode_cache", "filp", "dentry")
    with server(bed, tmp_path, *flags) as megapipe:
        before = {cache: slab_objects(bed, cache) for cache in caches}
        argv = [sys.executable, "-c", IDLE_CLIENTS, bed.server_address, str(megapipe.port)]
        clients = apps.Program(bed.clients[0], [*argv, str(connections)], tmp_path / "clients.log")
        with clients:
            clients.wait_for("connected", 120)
            assert sum(thread["connections"] for thread in megapipe.counters()) == connections
            fds = len(bed.server.run(["ls", f"/proc/{megapipe.pid}/fd"], timeout=60).stdout.split())
            grown = {cache: slab_objects(bed, cache) - before[cache] for cache in caches}
    if lwsocket:
        assert fds < 64
        assert max(grown.values()) < connections // 4, grown
    else:
        assert fds >= connections
        assert min(grown.values()) > connections * 3 // 4, grown


def test_batching__divides_the_system_calls(bed: Testbed, tmp_path: Path) -> None:
    per_transaction = []
    for threshold in (1, 4, 16, 64):
        flags = ["--api", "megapipe", "--batch", str(threshold)]
        with server(bed, tmp_path, *flags, cores=1) as megapipe:
            megapipe.load(connections=256, transactions=0, count=6000)
            (thread,) = megapipe.counters()
        per_transaction.append(thread["syscalls"] / thread["transactions"])
    assert all(more > less for more, less in pairwise(per_transaction)), per_transaction
    assert per_transaction[0] / per_transaction[-1] > 8, per_transaction


def test_short_connections__none_lost_and_memory_back(bed: Testbed, tmp_path: Path) -> None:
    connections = 20_000
    with server(bed, tmp_path, "--api", "megapipe") as megapipe:
        megapipe.load(connections=64, transactions=1, count=500)
        before = slab_objects(bed, "TCP"), slab_kib(bed)
        result = megapipe.load(connections=64, transactions=1, count=connections)
        assert result["transactions"] == connections
        after = slab_objects(bed, "TCP"), slab_kib(bed)
    # 64 connections are open at a time; lwsockets share their slab cache with others.
    assert after[0] - before[0] < 500
    assert after[1] - before[1] < 256 * connections // 1024


def test_kill__port_free_and_channels_gone(bed: Testbed, tmp_path: Path) -> None:
    """A killed owner leaves nothing: the same port is bound again at once."""
    with server(bed, tmp_path, "--api", "megapipe") as megapipe:
        port = megapipe.port
        argv = megapipe.load_argv(connections=64, transactions=1, duration=30)
        with apps.Program(bed.clients[0], argv, tmp_path / "load.log") as load:
            load.wait_for("measure_begin", 60)
            bed.server.run(["kill", "-9", str(megapipe.pid)], timeout=30)
            load.process.signal("INT")
    argv = [SERVER, "--api", "megapipe", "--address", bed.server_address, "--port", str(port)]
    with apps.Program(bed.server, argv, tmp_path / "again.log") as again:
        again.wait_for("ready", 30)


@pytest.mark.parametrize("transactions", [1, 128])
def test_instructions__megapipe_below_its_peers(
    bed: Testbed, tmp_path: Path, transactions: int
) -> None:
    if bed.counter_file is None:
        pytest.skip("no instruction counter: not emulated")
    cost = {}
    for api in ("epoll", "reuseport", "io_uring", "megapipe"):
        with server(bed, tmp_path, "--api", api) as running:
            number = 2000 if transactions == 1 else 16000
            copy = tmp_path / api
            running.load(
                connections=64,
                transactions=transactions,
                count=number,
                snapshot=f"{bed.counter_file}:{copy}",
            )
        window = instructions.diff(
            instructions.read(copy.with_suffix(".begin")),
            instructions.read(copy.with_suffix(".end")),
        )
        cost[api] = instructions.summary(window, number)["instructions"]
    assert min(cost, key=lambda api: cost[api]) == "megapipe", cost
