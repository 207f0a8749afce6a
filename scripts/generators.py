#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Our load generator beside those that everybody knows, natively on loopback.

    make generators, or scripts/generators.py [--rounds 15] [--seconds 2] [PAIR...]

The server has one CPU and the generator another, so the server is the limit and a generator that
does its work well finds the same rate as any other. Runs are short and interleaved, the order
turned from round to round, so that what else the machine does hits both alike; compared are
medians. The CPU that the server spends on a request is beside it: other programs disturb it less.
All of it runs in a network namespace of its own (unshare); docs/generators.md has the table.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(__file__).resolve().parents[1] / "build/bin"
PORT = 9700
TARGET = f"127.0.0.1:{PORT}"
CONNECTIONS = "64"
SERVER_CPU, LOAD_CPU = "0", "1"

MEMASLAP = """\
key
64 64 1
value
1024 1024 1
cmd
0 0.1
1 0.9
"""
NGINX = """\
user root;
worker_processes 1;
daemon off;
error_log stderr warn;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 100000000;
    open_file_cache max=16 inactive=600s;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    server {{
        listen {port} backlog=4096;
        root {folder};
        {work}
        location = /status {{ stub_status; }}
    }}
}}
"""


# Rules that never fit, tried for every request. Without them ab, at one request a connection, has
# used its CPU up before the server has.
WORK = "\n        ".join(f"rewrite ^/never-{number}$ /;" for number in range(300))


def say(*words: object) -> None:
    """Progress, beside the table."""
    print(*words, file=sys.stderr, flush=True)


def run(argv: list[str], seconds: int) -> str:
    """A generator's output; it has the generators' CPU."""
    done = subprocess.run(
        ["taskset", "-c", LOAD_CPU, *argv],
        capture_output=True,
        text=True,
        timeout=10 * seconds + 30,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def found(pattern: str, said: str) -> float:
    """The number that a pattern finds."""
    match = re.search(pattern, said)
    if match is None:
        sys.exit(f"no {pattern} in:\n{said}")
    return float(match[1])


def ours(words: list[str]) -> Callable[[int, Path], float]:
    """By megabench-load; any error ends everything."""

    def measure(seconds: int, folder: Path) -> float:
        argv = [str(BIN / "megabench-load"), "--target", TARGET, "--connections", CONNECTIONS]
        argv += [word.format(folder=folder) for word in words]
        result = json.loads(run([*argv, "--duration", str(seconds)], seconds).splitlines()[-1])
        if any(result["errors"].values()):
            sys.exit(f"errors: {result['errors']}")
        return float(result["throughput"])

    return measure


def memaslap(seconds: int, folder: Path) -> float:
    """By memaslap, which Debian calls memcaslap."""
    config = folder / "memaslap.conf"
    config.write_text(MEMASLAP)
    program = shutil.which("memcaslap") or "memaslap"
    argv = [program, "-s", TARGET, "-T", "1", "-c", CONNECTIONS, "-w", "1k", "-F", str(config)]
    return found(r"TPS: (\d+)", run([*argv, "-t", f"{seconds}s"], seconds))


def wrk(seconds: int, folder: Path) -> float:
    """By wrk."""
    del folder
    argv = ["wrk", "-t", "1", "-c", CONNECTIONS, "-d", f"{seconds}s", f"http://{TARGET}/small"]
    return found(r"Requests/sec:\s+([\d.]+)", run(argv, seconds))


def ab(seconds: int, folder: Path) -> float:
    """By ApacheBench: a connection for each request."""
    del folder
    argv = ["ab", "-q", "-r", "-c", CONNECTIONS, "-t", str(seconds), "-n", "10000000"]
    said = run([*argv, f"http://{TARGET}/small"], seconds)
    return found(r"Requests per second:\s+([\d.]+)", said)


@contextmanager
def serving(argv: list[str]) -> Iterator[int]:
    """A server on its CPU, until it is not wanted any more; its process group."""
    server = subprocess.Popen(["taskset", "-c", SERVER_CPU, *argv], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", PORT), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{argv[0]} does not serve")
                time.sleep(0.05)
        yield server.pid
    finally:
        server.terminate()
        server.wait(10)


def cpu_s(group: int) -> float:
    """Seconds of CPU that the processes of a group have had."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[2]) == group:
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def ask(text: str, end: str) -> str:
    """What the server answers to a line of text, up to a word at its end."""
    said = ""
    with socket.create_connection(("127.0.0.1", PORT), 10) as connection:
        connection.sendall(text.encode())
        while end not in said:
            said += connection.recv(65536).decode()
    return said


def memcached_served() -> float:
    """Requests that memcached has served so far."""
    said = ask("stats\r\n", "END\r\n")
    return found(r"cmd_get (\d+)", said) + found(r"cmd_set (\d+)", said)


def nginx_served() -> float:
    """Requests that nginx has served so far."""
    said = ask("GET /status HTTP/1.0\r\n\r\n", "Waiting")
    return found(r"requests\s+\d+ \d+ (\d+)", said)


def memcached(folder: Path) -> list[str]:
    """memcached's command line."""
    del folder
    argv = [str(BIN / "memcached-stock"), "-u", "root", "-U", "0", "-t", "1", "-m", "512"]
    return [*argv, "-c", "1024", "-l", "127.0.0.1", "-p", str(PORT)]


def nginx(folder: Path) -> list[str]:
    """nginx's command line; its configuration and one document are written."""
    small = b"x" * 64
    (folder / "small").write_bytes(small)
    (folder / "small.trace").write_text(f"object /small 64 {zlib.crc32(small):08x}\n")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=TARGET, work=WORK))
    conf = str(folder / "nginx.conf")
    return [str(BIN / "nginx-stock"), "-p", str(folder), "-c", conf, "-e", "stderr"]


@dataclass(frozen=True)
class Pair:
    """Two generators that are given the same to do."""

    what: str
    server: Callable[[Path], list[str]]
    served: Callable[[], float]
    other: str
    measure_other: Callable[[int, Path], float]
    measure_ours: Callable[[int, Path], float]


# memaslap begins with none, and sets some ten thousand.
MEMCACHED = ["--workload", "memcached", "--size", "1024", "--keys", "4096"]
HTTP = ["--workload", "http", "--trace", "{folder}/small.trace"]
PAIRS = {
    "memcached": Pair(
        f"memcached, {CONNECTIONS} endless connections, 64 B keys, 1 KiB values, 9 gets to 1 set",
        memcached,
        memcached_served,
        "memaslap",
        memaslap,
        ours(MEMCACHED),
    ),
    "http-keepalive": Pair(
        f"nginx, {CONNECTIONS} connections, keep-alive, 64 B object",
        nginx,
        nginx_served,
        "wrk",
        wrk,
        ours([*HTTP, "--transactions", "0"]),
    ),
    "http-close": Pair(
        f"nginx, {CONNECTIONS} connections, 1 request each, 64 B object",
        nginx,
        nginx_served,
        "ab",
        ab,
        # As ab: the server closes.
        ours([*HTTP, "--transactions", "1", "--ask-close", "1"]),
    ),
}


def compare(pair: Pair, rounds: int, seconds: int) -> str:
    """One row of the table."""
    rates: dict[str, list[float]] = {"ours": [], pair.other: []}
    costs: dict[str, list[float]] = {"ours": [], pair.other: []}
    both = [("ours", pair.measure_ours), (pair.other, pair.measure_other)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with serving(pair.server(folder)) as group:
            for turn in range(rounds):
                for who, measure in both if turn % 2 == 0 else both[::-1]:
                    before, begun = cpu_s(group), pair.served()
                    rates[who].append(measure(seconds, folder))
                    spent, served_now = cpu_s(group) - before, pair.served() - begun
                    costs[who].append(1e6 * spent / served_now)
                say(pair.other, turn + 1, *(f"{values[-1]:,.0f}" for values in rates.values()))
    cells = [pair.what, pair.other]
    for who in (pair.other, "ours"):
        low, high = min(rates[who]), max(rates[who])
        cells.append(f"{statistics.median(rates[who]):,.0f} ({low:,.0f} – {high:,.0f})")
    middle = {who: statistics.median(values) for who, values in rates.items()}
    cells.append(f"{middle['ours'] / middle[pair.other]:.2f}")
    cost = {who: statistics.median(values) for who, values in costs.items()}
    cells += [f"{cost[pair.other]:.1f}", f"{cost['ours']:.1f}"]
    cells.append(f"{cost['ours'] / cost[pair.other]:.2f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Enter a namespace, compare, print."""
    parser = argparse.ArgumentParser(description="Compare our load generator with others.")
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"of {', '.join(PAIRS)}; or all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name in given.pairs:
        if name not in PAIRS:
            parser.error(f"no pair {name!r}; there are {', '.join(PAIRS)}")
    if not given.inside:
        again = [sys.executable, *sys.argv, "--inside"]
        scope = "-n" if os.geteuid() == 0 else "-Urn"
        os.execvp("unshare", ["unshare", scope, *again])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for setting in ("ip_local_port_range=1024 65535", "tcp_tw_reuse=1"):
        subprocess.run(["sysctl", "-qw", f"net.ipv4.{setting}"], check=True)
    print(
        "| what | other | requests/s: other | ours | ratio | server CPU, µs: other | ours | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in given.pairs or PAIRS:
        print(compare(PAIRS[name], given.rounds, given.seconds), flush=True)


if __name__ == "__main__":
    main()
