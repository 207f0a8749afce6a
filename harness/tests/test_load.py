# SPDX-License-Identifier: MIT
"""megabench-load against honest and lying servers.

megabench-load --- loopback --- pingpong-server, or a Python server that misbehaves in one way
"""

import ctypes
import json
import math
import random
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import (
    BIN,
    DEADLINE_S,
    ROOT,
    Load,
    Program,
    Server,
    build,
    has_ipv6,
    listening,
    server,
)

LOAD_SOURCES = ROOT / "harness" / "load"

# A lie: it gets the connection, the request, and the number of the reply on this connection.
Lie = Callable[[socket.socket, bytes, int], None]


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    build("harness/load", "apps/pingpong")


@pytest.fixture(scope="module")
def pingpong(_programs: None) -> Iterator[Server]:
    with server() as running:
        yield running


@contextmanager
def lying_server(lie: Lie, size: int = 64) -> Iterator[str]:
    """A thread per connection that reads requests of one size and leaves the reply to the lie."""

    def serve(connection: socket.socket) -> None:
        with connection:
            for number in range(1 << 30):
                try:
                    request = connection.recv(size, socket.MSG_WAITALL)
                    if len(request) < size:
                        return
                    lie(connection, request, number)
                except OSError:
                    return

    with listening(serve) as address:
        yield address


def honest(connection: socket.socket, request: bytes, number: int) -> None:
    del number
    connection.sendall(request)


def on_third(lie: Lie) -> Lie:
    """Two right replies first, on each connection."""

    def sometimes(connection: socket.socket, request: bytes, number: int) -> None:
        (lie if number == 2 else honest)(connection, request, number)

    return sometimes


def corrupt(connection: socket.socket, request: bytes, number: int) -> None:
    del number
    connection.sendall(request[:40] + bytes([request[40] ^ 1]) + request[41:])


def truncate(connection: socket.socket, request: bytes, number: int) -> None:
    del number
    connection.sendall(request[:-1])
    connection.close()


def hang_up(connection: socket.socket, request: bytes, number: int) -> None:
    del request, number
    connection.close()


def reset(connection: socket.socket, request: bytes, number: int) -> None:
    del request, number
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def prolong(connection: socket.socket, request: bytes, number: int) -> None:
    del number
    connection.sendall(request + b"x")


def swap(connection: socket.socket, request: bytes, number: int) -> None:
    """The right length, in the wrong order."""
    del number
    connection.sendall(request[32:] + request[:32])


def say_nothing(connection: socket.socket, request: bytes, number: int) -> None:
    del connection, request, number


def dribble(connection: socket.socket, request: bytes, number: int) -> None:
    del number
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request:
        connection.sendall(bytes([byte]))


# ---- Counting -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("connections", "transactions", "count"),
    [(1, 1, 100), (8, 1, 1000), (8, 7, 1001), (64, 128, 5000), (64, 0, 5000), (100, 3, 5)],
)
def test_count__is_exact(
    pingpong: Server, connections: int, transactions: int, count: int, threads: int
) -> None:
    if threads > connections:
        pytest.skip("a thread needs a connection")
    before = pingpong.total("transactions")
    load = Load(
        *("--target", pingpong.target, "--connections", str(connections)),
        *("--transactions", str(transactions), "--threads", str(threads), "--count", str(count)),
    )
    assert load.status == 0
    assert load.result["complete"] is True
    assert load.result["transactions"] == count
    assert pingpong.total_reaching("transactions", before + count) == before + count
    assert sum(n for _, n in load.result["histogram"]) == count
    assert sum(thread["transactions"] for thread in load.result["threads"]) == count
    assert load.errors == {}
    if transactions == 0:
        assert load.result["connections"] <= connections
    else:
        assert load.result["connections"] >= count / transactions
        assert load.result["connections"] <= count / transactions + connections


def test_count__after_exact_warmup(pingpong: Server) -> None:
    before = pingpong.total("transactions")
    load = Load(
        *("--target", pingpong.target, "--connections", "16", "--transactions", "4"),
        *("--warmup-count", "640", "--count", "1280"),
    )
    assert load.result["transactions"] == 1280
    assert load.result["transactions_outside"] == 640
    # Which flows end the warm-up in the middle of a connection is left to chance.
    assert load.result["connections"] == pytest.approx(320, abs=16)
    assert pingpong.total_reaching("transactions", before + 1920) == before + 1920


def test_connections__are_spread_after_warmup(pingpong: Server) -> None:
    """Ten transactions of each flow, far less than a connection's 64: a tenth of steady state."""
    load = Load(
        *("--target", pingpong.target, "--connections", "64", "--transactions", "64"),
        *("--warmup-count", "64", "--count", "640"),
    )
    assert 5 <= load.result["connections"] <= 20


def test_count__after_timed_warmup_starts_in_silence(pingpong: Server) -> None:
    before = pingpong.total("transactions")
    load = Load(
        *("--target", pingpong.target, "--connections", "32", "--transactions", "0"),
        *("--warmup", "0.2", "--count", "1000"),
    )
    result = load.result
    assert result["transactions"] == 1000
    assert result["connections"] == 0
    assert pingpong.total("transactions") - before == 1000 + result["transactions_outside"]


def test_duration__is_kept(pingpong: Server) -> None:
    load = Load(
        *("--target", pingpong.target, "--connections", "16", "--transactions", "8"),
        *("--warmup", "0.1", "--duration", "0.5"),
    )
    result = load.result
    assert load.status == 0
    assert load.errors == {}
    assert [event["event"] for event in load.events] == ["measure_begin", "measure_end", "result"]
    assert load.events[0]["connections_ready"] == 16
    assert 0.5 <= result["elapsed_s"] < 0.7
    assert result["throughput"] == pytest.approx(
        result["transactions"] / result["elapsed_s"], rel=1e-3
    )
    assert result["connections_s"] == pytest.approx(result["throughput"] / 8, rel=0.1)
    assert 0 < result["client_cpu"] <= 1.05
    assert result["bottleneck"] in ("client", "server", "unknown")
    assert result["bottleneck_why"]
    latency = result["latency_us"]
    quantiles = [latency[key] for key in ("p50", "p90", "p99", "p999", "max")]
    assert quantiles == sorted(quantiles)
    assert result["options"]["duration_s"] == 0.5
    assert result["options"]["seed"] == 1


@pytest.mark.parametrize("size", [1, 7, 64, 65, 256, 1024, 4096, 65535, 65536, 200000])
def test_size__any(pingpong: Server, size: int) -> None:
    load = Load(
        *("--target", pingpong.target, "--size", str(size), "--connections", "10"),
        *("--transactions", "3", "--count", "60", "--threads", "2"),
    )
    assert load.status == 0
    assert load.result["transactions"] == 60
    assert load.errors == {}


def test_connections__over_the_default_limit_of_files() -> None:
    with server() as running:
        load = Load(
            *("--target", running.target, "--connections", "1500", "--transactions", "1"),
            *("--count", "3000", "--threads", "2"),
            prefix=("bash", "-c", 'ulimit -Sn 256; exec "$@"', "bash"),
        )
        assert load.status == 0
        assert load.result["transactions"] == 3000
        assert load.errors == {}


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
def test_target__ipv6() -> None:
    with server("--address", "::1") as running:
        load = Load("--target", running.target, "--count", "100", "--transactions", "1")
        assert load.result["transactions"] == 100
        assert load.errors == {}


# ---- Faults of the server -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (corrupt, "content"),
        (swap, "content"),
        (prolong, "content"),
        (truncate, "short"),
        (hang_up, "short"),
        (reset, "reset"),
    ],
)
def test_fault__is_counted_and_survived(lie: Lie, kind: str) -> None:
    with lying_server(on_third(lie)) as target:
        load = Load("--target", target, "--connections", "4", "--count", "40")
    assert load.status == 0
    assert load.result["transactions"] == 40
    assert set(load.errors) == {kind}
    # Two right replies on each connection, then the lie; in flight at the end: one per flow.
    assert 40 / 2 - 4 <= load.errors[kind] <= 40 / 2


def test_fault__stale_reply_is_content() -> None:
    first: dict[socket.socket, bytes] = {}

    def repeat(connection: socket.socket, request: bytes, number: int) -> None:
        del number
        connection.sendall(first.setdefault(connection, request))

    with lying_server(repeat) as target:
        load = Load("--target", target, "--transactions", "2", "--count", "5")
    assert set(load.errors) == {"content"}


def test_fault__silence_is_timeout() -> None:
    with lying_server(on_third(say_nothing)) as target:
        load = Load("--target", target, "--connections", "2", "--count", "8", "--timeout", "0.1")
    assert load.result["transactions"] == 8
    assert set(load.errors) == {"timeout"}
    assert load.result["latency_us"]["max"] < 100_000


def test_fault__none_in_short_pieces() -> None:
    with lying_server(dribble) as target:
        load = Load("--target", target, "--connections", "4", "--count", "40")
    assert load.status == 0
    assert load.errors == {}


def test_fault__server_goes_away() -> None:
    with server() as running:
        program = Program(
            [
                *(str(BIN / "megabench-load"), "--target", running.target),
                *("--connections", "4", "--warmup", "0.1", "--duration", "0.6", "--timeout", "0.2"),
            ]
        )
        program.event("measure_begin")
    program.event("measure_end")
    result = program.event("result")
    assert result["errors"]["connect"] > 0
    assert result["errors"]["connect"] < 4 * 0.6 / 0.01, "refused connects must not be hammered"
    assert program.end()[0] == 0


def test_connect__refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        begin = time.monotonic()
        load = Load("--target", target, "--count", "10", "--connections", "8", "--threads", "2")
    assert load.status == 1
    assert time.monotonic() - begin < 5
    assert f"cannot connect to {target}: Connection refused" in load.stderr
    assert load.result["complete"] is False
    assert load.result["failure"] in load.stderr
    assert "connect" in load.errors


def test_deadline__ends_everything() -> None:
    with lying_server(say_nothing) as target:
        load = Load("--target", target, "--count", "10", "--deadline", "0.3", "--timeout", "0.1")
    assert load.status == 1
    assert "deadline of 0.3 s has passed; latest error: Connection timed out" in load.stderr
    assert load.result["complete"] is False
    assert load.result["transactions"] == 0
    assert set(load.errors) == {"timeout"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal__ends_with_a_result(pingpong: Server, number: signal.Signals) -> None:
    program = Program([str(BIN / "megabench-load"), "--target", pingpong.target, "--duration", "9"])
    program.event("measure_begin")
    program.signal(number)
    result = program.event("result")
    assert result["complete"] is False
    assert result["failure"] == f"stopped by {number.name}"
    assert program.end()[0] == 1


def test_stdout__closed_is_failure(pingpong: Server) -> None:
    done = subprocess.run(
        [
            *("bash", "-c", 'exec 1>&-; exec "$@"', "bash", str(BIN / "megabench-load")),
            *("--target", pingpong.target, "--count", "10"),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "standard output is closed" in done.stderr


def test_ports__exhausted_is_said() -> None:
    """In a network namespace of its own with two local ports."""
    script = (
        "ip link set lo up && sysctl -qw net.ipv4.ip_local_port_range='40000 40001' || exit; "
        'coproc "$0" --port 9999; read -r ready <&"${COPROC[0]}"; '
        '"$1" --target 127.0.0.1:9999 --connections 8 --duration 0.3; '
        "kill $COPROC_PID"
    )
    unshare = ["unshare", "-Urn"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no permission for a network namespace")
    done = subprocess.run(
        [*unshare, "bash", "-c", script, str(BIN / "pingpong-server"), str(BIN / "megabench-load")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ports_exhausted"] > 0
    assert result["errors"]["connect"] + result["errors_outside"]["connect"] > 0
    assert result["transactions"] > 0
    assert "no free local port" in done.stderr
    assert "ip_local_port_range" in done.stderr


# ---- Usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "--target is missing"),
        ("--target 127.0.0.1:1", "give either --duration or --count"),
        ("--target 127.0.0.1:1 --duration 1 --count 1", "give either --duration or --count"),
        ("--target 127.0.0.1 --count 1", "is not ADDR:PORT"),
        ("--target ::1:80 --count 1", "write IPv6 as [ADDR]:PORT"),
        ("--target 127.0.0.1:http --count 1", "--target: '127.0.0.1'"),
        ("--target 127.0.0.1:1 --count x", "--count: 'x' is not a whole number"),
        ("--target 127.0.0.1:1 --count -1", "--count: '-1' is not a whole number"),
        ("--target 127.0.0.1:1 --count 1 --size 0", "--size: '0' is not within"),
        ("--target 127.0.0.1:1 --duration nan", "--duration: 'nan' is not a number"),
        ("--target 127.0.0.1:1 --count 1 --connections", "--connections needs a value"),
        ("--target 127.0.0.1:1 --count 1 --threads 2", "--threads 2 is more than --connections 1"),
        ("--target 127.0.0.1:1 --count 1 --workload web", "no 'web'; there are: pingpong"),
        ("--target 127.0.0.1:1 --count 1 --nonsense 1", "there is no option '--nonsense'"),
        ("--target 127.0.0.1:1 --count 1 stray", "'stray' is not an option"),
        ("--target 127.0.0.1:1 --duration 9 --deadline 5", "--deadline 5 is not longer"),
        ("--target 127.0.0.1:1 --count 1 --snapshot x", "--snapshot: 'x' is not SRC:DST"),
    ],
)
def test_usage__bad_flag(options: str, message: str) -> None:
    load = Load(*options.split())
    assert load.status == 2
    assert message in load.stderr
    assert load.events == []


def test_usage__help() -> None:
    done = subprocess.run(
        [str(BIN / "megabench-load"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--target ADDR:PORT" in done.stdout
    assert "Workloads: pingpong" in done.stdout


def test_files__hard_limit_is_said(pingpong: Server) -> None:
    load = Load(
        *("--target", pingpong.target, "--connections", "200", "--count", "200"),
        prefix=("bash", "-c", 'ulimit -n 100; exec "$@"', "bash"),
    )
    assert load.status == 1
    assert "200 connections need 264 open files, the limit is 100" in load.stderr


# ---- Snapshots ------------------------------------------------------------------------------


def test_snapshot__at_both_edges(pingpong: Server, tmp_path: Path) -> None:
    source = tmp_path / "counters"
    source.write_bytes(b"before")
    program = Program(
        [
            *(str(BIN / "megabench-load"), "--target", pingpong.target, "--duration", "0.3"),
            *("--snapshot", f"{source}:{tmp_path}/a", "--snapshot", f"{source}:{tmp_path}/b"),
        ]
    )
    program.event("measure_begin")
    assert (tmp_path / "a.begin").read_bytes() == b"before"
    with source.open("r+b") as file:
        file.write(b"after!")
    program.event("measure_end")
    assert (tmp_path / "a.end").read_bytes() == b"after!"
    assert (tmp_path / "b.begin").read_bytes() == b"before"
    assert (tmp_path / "b.end").read_bytes() == b"after!"
    assert program.event("result")["complete"] is True
    assert program.end()[0] == 0


def test_snapshot__no_source(pingpong: Server, tmp_path: Path) -> None:
    load = Load("--target", pingpong.target, "--count", "1", "--snapshot", f"{tmp_path}/no:x")
    assert load.status == 1
    assert f"{tmp_path}/no: No such file or directory" in load.stderr


def test_snapshot__no_destination(pingpong: Server, tmp_path: Path) -> None:
    source = tmp_path / "counters"
    source.write_bytes(b"x")
    load = Load(
        *("--target", pingpong.target, "--count", "1"),
        *("--snapshot", f"{source}:{tmp_path}/none/x"),
    )
    assert load.status == 1
    assert f"{tmp_path}/none/x.begin: No such file or directory" in load.stderr
    assert load.result["failure"] == "a snapshot could not be written"


# ---- Histogram and judgement, called as C functions -----------------------------------------

BINS_PER_OCTAVE = 64
BINS = 32 * BINS_PER_OCTAVE


class Histogram(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_uint64),
        ("out_of_range", ctypes.c_uint64),
        ("sum_ns", ctypes.c_uint64),
        ("max_ns", ctypes.c_uint64),
        ("bin", ctypes.c_uint64 * BINS),
    )


class Shares(ctypes.Structure):
    _fields_ = (("cpu", ctypes.c_double), ("wait", ctypes.c_double), ("idle", ctypes.c_double))


class Judgement(ctypes.Structure):
    _fields_ = (("who", ctypes.c_char_p), ("why", ctypes.c_char * 200))


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("load") / "functions.so"
    sources = [str(LOAD_SOURCES / name) for name in ("histogram.c", "evidence.c")]
    subprocess.run(
        ["gcc", "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(library), *sources, "-lm"],
        check=True,
        timeout=60,
    )
    loaded = ctypes.CDLL(str(library))
    loaded.histogram_record.argtypes = (ctypes.POINTER(Histogram), ctypes.c_int64)
    loaded.histogram_percentile_ns.argtypes = (ctypes.POINTER(Histogram), ctypes.c_double)
    loaded.histogram_percentile_ns.restype = ctypes.c_double
    loaded.histogram_mean_ns.argtypes = (ctypes.POINTER(Histogram),)
    loaded.histogram_mean_ns.restype = ctypes.c_double
    loaded.histogram_lower_ns.restype = ctypes.c_uint64
    loaded.judge_bottleneck.argtypes = (ctypes.POINTER(Shares), ctypes.c_double, ctypes.c_double)
    loaded.judge_bottleneck.restype = Judgement
    return loaded


def test_histogram__bins_are_contiguous(functions: ctypes.CDLL) -> None:
    lower = [functions.histogram_lower_ns(i) for i in range(BINS + 1)]
    assert lower[:66] == [*range(64), 64, 65]
    for i in range(1, BINS):
        assert lower[i] > lower[i - 1]
        assert (lower[i + 1] - lower[i]) / lower[i] <= 1 / BINS_PER_OCTAVE or lower[i] < 128
    assert lower[BINS] == 1 << 37
    histogram = Histogram()
    for i in range(BINS):
        functions.histogram_record(histogram, lower[i])
        functions.histogram_record(histogram, lower[i + 1] - 1)
    assert list(histogram.bin) == [2] * BINS
    assert histogram.out_of_range == 0


@pytest.mark.parametrize("shape", ["uniform", "exponential", "two-humps", "one"])
def test_histogram__percentiles_against_exact(functions: ctypes.CDLL, shape: str) -> None:
    rng = random.Random(shape)
    values = {
        "uniform": lambda: rng.randrange(1_000_000),
        "exponential": lambda: int(rng.expovariate(1e-6)),
        "two-humps": lambda: int(rng.gauss(*rng.choice([(5e4, 5e3), (2e7, 1e6)]))),
        "one": lambda: 123_456,
    }[shape]
    samples = sorted(values() for _ in range(5000))
    histogram = Histogram()
    for sample in samples:
        functions.histogram_record(histogram, sample)
    for share in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = samples[math.ceil(share * len(samples)) - 1]
        got = functions.histogram_percentile_ns(histogram, share)
        assert got == pytest.approx(exact, rel=1 / BINS_PER_OCTAVE / 2, abs=1)
    assert functions.histogram_mean_ns(histogram) == pytest.approx(sum(samples) / len(samples))
    assert histogram.max_ns == samples[-1]


def test_histogram__out_of_range_is_not_lost(functions: ctypes.CDLL) -> None:
    histogram = Histogram()
    functions.histogram_record(histogram, 1 << 37)
    functions.histogram_record(histogram, -5)
    functions.histogram_record(histogram, 3)
    assert (histogram.count, histogram.out_of_range) == (3, 1)
    assert functions.histogram_percentile_ns(histogram, 1.0) == 1 << 37
    assert functions.histogram_percentile_ns(histogram, 0.0) == 0
    assert functions.histogram_percentile_ns(Histogram(), 0.5) == 0


@pytest.mark.parametrize(
    ("shares", "machine", "ours", "who"),
    [
        ((0.97, 0.01, 0.02), 0.97, 0.5, b"client"),
        ((0.30, 0.10, 0.60), 0.99, 0.2, b"server"),
        ((0.66, 0.33, 0.01), 0.67, 0.5, b"client"),
        ((0.20, 0.75, 0.05), 0.99, 0.1, b"server"),
        ((0.50, 0.45, 0.05), 0.99, 0.5, b"unknown"),
        ((0.50, -1.0, 0.50), 0.99, 0.5, b"unknown"),
    ],
)
def test_judge__by_the_scheduler(
    functions: ctypes.CDLL,
    shares: tuple[float, float, float],
    machine: float,
    ours: float,
    who: bytes,
) -> None:
    judgement = functions.judge_bottleneck(Shares(*shares), machine, ours)
    assert judgement.who == who
    assert judgement.why


def test_wait__begins_when_it_is_told_to() -> None:
    with server() as one:
        argv = [str(BIN / "megabench-load"), "--target", one.target, "--count", "10", "--wait", "1"]
        load = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert load.stdout
        assert json.loads(load.stdout.readline())["event"] == "ready"
        assert one.total("transactions") == 0
        said, _ = load.communicate("go\n", timeout=DEADLINE_S)
        assert load.returncode == 0
        assert json.loads(said.splitlines()[-1])["transactions"] == 10


def test_idle__are_there_before_and_during_the_load() -> None:
    with server("--threads", "2") as one:
        argv = [str(BIN / "megabench-load"), "--target", one.target, "--idle", "300"]
        load = subprocess.Popen(
            [*argv, "--count", "10", "--wait", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert load.stdout
        assert json.loads(load.stdout.readline())["event"] == "ready"
        assert one.total_reaching("connections", 300) == 300
        said, _ = load.communicate("go\n", timeout=DEADLINE_S)
        assert load.returncode == 0
        result = json.loads(said.splitlines()[-1])
        assert result["transactions"] == 10
        # They are no load.
        assert result["connections"] + result["transactions_outside"] <= 1
        assert one.total("transactions") == 10
        assert one.total_reaching("connections", 301) == 301


def test_idle__that_cannot_be_opened_is_said() -> None:
    with server() as one:
        target = one.target
    load = Load("--target", target, "--idle", "3", "--count", "10")
    assert load.status == 1
    assert f"3 idle connections cannot be opened to {target}: Connection refused" in load.stderr


def test_wait__ends_when_nobody_can_tell_it_any_more() -> None:
    with server() as one:
        argv = [str(BIN / "megabench-load"), "--target", one.target, "--count", "10", "--wait", "1"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 1
        assert "before it was told to begin" in done.stderr


def test_progress__says_how_far_it_is() -> None:
    with server() as one:
        load = Load("--target", one.target, "--duration", "1.1", "--progress", "0.25")
        said = [event for event in load.events if event["event"] == "progress"]
        assert 3 <= len(said) <= 4
        counts = [event["transactions"] for event in said]
        assert counts == sorted(counts)
        assert 0 < counts[0] < load.result["transactions"]
