# SPDX-License-Identifier: MIT
"""pingpong-server, natively.

Python or megabench-load --- loopback --- pingpong-server (epoll; megapipe needs the kernel)
"""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from programs import BIN, Load, Server, build, has_ipv6, server

SERVER = str(BIN / "pingpong-server")


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    build("harness/load", "apps/pingpong")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [SERVER, *options], capture_output=True, text=True, timeout=10, check=False
    )


def interfaces() -> list[str]:
    """What this build has."""
    line = next(line for line in run("--help").stdout.splitlines() if "Interfaces:" in line)
    return line.split("Interfaces: ")[1].split(".")[0].split(", ")


def connect(running: Server) -> socket.socket:
    return socket.create_connection((running.ready["address"], running.ready["port"]), timeout=10)


def wait_for(running: Server, counter: str, value: int) -> None:
    deadline = time.monotonic() + 10
    while running.total(counter) != value:
        assert time.monotonic() < deadline, running.counters()


def test_ready__says_everything() -> None:
    with server("--size", "128", "--backlog", "77") as running:
        ready = running.ready
    assert ready["api"] == "epoll"
    assert ready["size"] == 128
    assert ready["backlog"] == 77
    assert ready["threads"] == 1
    assert ready["cpus"] == [min(os.sched_getaffinity(0))]
    assert ready["pid"] == running.process.pid
    assert 0 < ready["port"] < 65536


@pytest.fixture(params=["epoll", "reuseport", "io_uring"])
def api(request: pytest.FixtureRequest) -> list[str]:
    """The options of each interface that an ordinary kernel has, or may have."""
    options = ["--api", request.param]
    if request.param == "io_uring":
        with subprocess.Popen(
            [str(BIN / "pingpong-server"), *options, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as trial:
            assert trial.stdout is not None
            trial.stdout.readline()
            trial.terminate()
        if trial.returncode == 77:
            pytest.skip("this kernel has no io_uring, or forbids it")
    return options


def test_echo__bytes_and_end_of_file(api: list[str]) -> None:
    with server(*api) as running, connect(running) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""


def test_echo__to_a_client_that_reads_late(api: list[str]) -> None:
    """More than all buffers hold: the server must keep the rest, in order."""
    message = os.urandom(1 << 16) * 1024
    with server(*api, "--size", str(len(message) // 4)) as running, connect(running) as connection:
        sender = threading.Thread(target=connection.sendall, args=(message,))
        sender.start()
        sender.join(0.3)
        assert sender.is_alive(), "nothing held the sender back"
        received = bytearray()
        while len(received) < len(message):
            received += connection.recv(1 << 20)
        sender.join()
        assert received == message
        wait_for(running, "transactions", 4)
        assert running.total("errors") == 0


def test_transactions__count_messages_not_reads() -> None:
    with server("--size", "10") as running, connect(running) as connection:
        for piece in (b"1234", b"567890" + b"12", b"34567890" * 4):
            connection.sendall(piece)
            time.sleep(0.02)
        received = b""
        while len(received) < 44:
            received += connection.recv(100)
        wait_for(running, "transactions", 4)
        assert running.total("connections") == 1
        assert running.total("syscalls") > 8


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_threads__pinned_and_all_serving() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    with server("--threads", "2", "--cpus", f"{cpus[1]},{cpus[0]}", "--count-foreign") as running:
        load = Load(
            *("--target", running.target, "--connections", "64", "--transactions", "1"),
            *("--count", "4000", "--threads", "2"),
        )
        assert load.errors == {}
        wait_for(running, "connections", 4000)
        threads = running.counters()["threads"]
        assert [thread["cpu"] for thread in threads] == [cpus[1], cpus[0]]
        assert all(thread["connections"] > 0 for thread in threads)
        assert sum(thread["transactions"] for thread in threads) == 4000
        assert all(thread["foreign_accepts"] is not None for thread in threads)
        tasks = Path(f"/proc/{running.process.pid}/task")
        masks = [os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()]
        assert {cpus[0]} in masks
        assert {cpus[1]} in masks


def test_threads__may_share_a_cpu() -> None:
    cpu = min(os.sched_getaffinity(0))
    with server("--threads", "3", "--cpus", ",".join([str(cpu)] * 3)) as running:
        load = Load("--target", running.target, "--connections", "9", "--count", "300")
        assert load.errors == {}


def test_foreign__unknown_unless_asked_for() -> None:
    with server() as running:
        assert running.counters()["threads"][0]["foreign_accepts"] is None


def test_client__resets_are_errors_and_survived(api: list[str]) -> None:
    with server(*api) as running:
        with connect(running) as connection:
            connection.sendall(b"x")
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wait_for(running, "errors", 1)
        with connect(running) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"


def test_files__out_of_descriptors_then_goes_on() -> None:
    """More clients at once than descriptors: those that wait are served as others leave."""
    running = Server.__new__(Server)
    argv = ["bash", "-c", 'ulimit -n 40; exec "$@"', "bash", SERVER, "--port", "0"]
    super(Server, running).__init__(argv)
    try:
        running.ready = running.event("ready")
        load = Load(
            *("--target", f"127.0.0.1:{running.ready['port']}", "--connections", "64"),
            *("--transactions", "1", "--count", "2000"),
        )
        assert load.errors == {}
        assert load.result["transactions"] == 2000
        running.signal(signal.SIGTERM)
        final = running.event("final")
        assert final["threads"][0]["errors"] > 0
        assert running.end() == (0, "")
    finally:
        running.process.kill()
        running.end()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
def test_address__ipv6() -> None:
    with server("--address", "::1") as running, connect(running) as connection:
        connection.sendall(b"six")
        assert connection.recv(10) == b"six"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal__ends_with_final_counters(number: signal.Signals) -> None:
    running = Server("--threads", "1")
    with connect(running) as connection:
        connection.sendall(b"x" * 64)
        connection.recv(64, socket.MSG_WAITALL)
        running.signal(number)
        final = running.event("final")
        assert running.end() == (0, "")
    assert final["threads"][0]["connections"] == 1
    assert final["threads"][0]["transactions"] == 1
    assert final["time_ns"] > running.ready["time_ns"]


def test_port__in_use_names_it() -> None:
    with server() as running:
        port = str(running.ready["port"])
        second = run("--port", port)
    assert second.returncode == 1
    assert f"port {port}: Address already in use (choose another with --port)" in second.stderr


def test_address__not_ours() -> None:
    done = run("--address", "203.0.113.1", "--port", "0")
    assert done.returncode == 1
    assert "cannot bind address 203.0.113.1" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--api kqueue", "--api: no 'kqueue'; this build has: epoll"),
        ("--api epoll --batch 4", "mean nothing to --api epoll"),
        ("--no-partition", "mean nothing to --api epoll"),
        ("--no-lwsocket", "mean nothing to --api epoll"),
        ("--mask 2", "mean nothing to --api epoll"),
        ("--accept 2", "mean nothing to --api epoll"),
        ("--hand-on 2", "mean nothing to --api epoll"),
        ("--mask 0", "--mask: '0' is not within 1..1024"),
        ("--api megapipe-raw --mask 2 --no-partition", "--mask: there are none"),
        ("--threads 0", "--threads: '0' is not within 1..1024"),
        ("--threads two", "--threads: 'two' is not a whole number"),
        ("--threads 1000", "--threads 1000: there are only"),
        ("--port 65536", "--port: '65536' is not within 0..65535"),
        ("--size 0", "--size: '0' is not within"),
        ("--cpus 0,x", "--cpus: '0,x' is not a list"),
        ("--cpus 0,0", "--cpus names 2 CPUs for 1 --threads"),
        ("--cpus 1000", "--cpus: there is no CPU 1000 here"),
        ("--cpus 5-2", "--cpus: '5-2' is out of range"),
        ("--address nowhere.example", "--address: 'nowhere.example'"),
        ("--bogus", "unrecognized option '--bogus'"),
        ("stray", "'stray' is not an option"),
    ],
)
def test_usage__bad_flag(options: str, message: str) -> None:
    done = run(*options.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_megapipe__without_the_device_is_skipped() -> None:
    if "megapipe" not in interfaces():
        pytest.skip("this build has no libmegapipe")
    if Path("/dev/megapipe").exists():
        pytest.skip("this kernel has MegaPipe")
    done = run("--api", "megapipe", "--port", "0")
    assert done.returncode == 77
    assert "--api megapipe is not to be had" in done.stderr
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize("options", [(), ("--fin-with-data",)])
def test_messages__the_server_closes_after_the_last(
    api: list[str], options: tuple[str, ...]
) -> None:
    with server(*api, "--messages", "3", "--size", "10", *options) as running:
        for pieces in ([b"0123456789" * 3], [b"0123456789", b"01234", b"56789" + b"0123456789"]):
            with connect(running) as connection:
                received = b""
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.02)
                while more := connection.recv(100):
                    received += more
                assert received == b"0123456789" * 3
        # And who ends it earlier is served as ever.
        with connect(running) as connection:
            connection.sendall(b"0123456789")
            assert connection.recv(100) == b"0123456789"
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        wait_for(running, "transactions", 7)
        assert running.total("errors") == 0


def test_messages__the_last_is_long(api: list[str]) -> None:
    """More than all buffers hold, to a client that reads late: all of it comes before the end."""
    message = os.urandom(1 << 16) * 256
    size = ("--size", str(len(message)), "--messages", "1", "--fin-with-data")
    with server(*api, *size) as running, connect(running) as connection:
        sender = threading.Thread(target=connection.sendall, args=(message,))
        sender.start()
        sender.join(0.3)
        received = bytearray()
        while more := connection.recv(1 << 20):
            received += more
        sender.join()
        assert received == message
        wait_for(running, "transactions", 1)
        assert running.total("errors") == 0


def test_messages__usage() -> None:
    done = run("--fin-with-data")
    assert (done.returncode, "--messages" in done.stderr) == (2, True)
    done = run("--api", "floor", "--messages", "1")
    assert (done.returncode, "end of file only" in done.stderr) == (2, True)
