# SPDX-License-Identifier: MIT
"""Machines that are not there, and commands: they say what real ones would."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megabench import deploy
from megabench.errors import CommandError, CommandTimeoutError
from megabench.host import Completed

SNMP = """Tcp: RtoAlgorithm RtoMin ActiveOpens InSegs OutSegs RetransSegs InErrs
Tcp: 1 200 5 100 100 {retransmits} 0
Udp: InDatagrams NoPorts
Udp: 1 0
"""

# Stand-ins that keep what they are told in a file, and print it as the real ones do.
ETHTOOL = r"""#!/bin/sh
state=$0.state
get() { sed -n "s/^$1=//p" "$state"; }
put() { sed -i "s/^$1=.*/$1=$2/" "$state"; }
case "$1" in
-c) printf 'Coalesce parameters for %s:\nAdaptive RX: %s  TX: on\n' "$2" "$(get adaptive-rx)"
    printf 'rx-usecs:\t%s\n' "$(get rx-usecs)" ;;
-C) put "$3" "$4" ;;
-k) printf 'Features for %s:\ngeneric-receive-offload: %s [fixed]\n' "$2" "$(get gro)" ;;
-K) put gro "$4" ;;
-l) printf 'Channel parameters:\nPre-set maximums:\nCombined:\t63\n'
    printf 'Current hardware settings:\nCombined:\t%s\n' "$(get queues)" ;;
-L) put queues "$4" ;;
-x) get rss | sed 's/^equal //' | awk '{
	for (i = 0; i < 8; i++)
		printf "%s%d", i ? " " : "    0: ", $1 == "default" ? int(i / 4) : i % $1
	print ""
    }' ;;
-X) shift 2; put rss "$*" ;;
esac
"""
ETHTOOL_STATE = "adaptive-rx=on\nrx-usecs=3\ngro=on\nqueues=63\nrss=default\n"
SYSTEMCTL = """#!/bin/sh
state=$(dirname "$0")/$2.service
case "$1" in
is-active) cat "$state" 2>/dev/null || { echo unknown; exit 4; } ;;
start) echo active >"$state" ;;
stop) echo inactive >"$state" ;;
esac
"""


class Answers:
    """A host whose commands say what they are told to."""

    name = "server"

    def __init__(self, **said: str) -> None:
        self.said = said
        self.ran: list[list[str]] = []
        self.status = 0

    def run(self, argv, *, timeout, check=True, input=None):  # type: ignore[no-untyped-def]
        self.ran.append(list(argv))
        text = next((said for word, said in self.said.items() if word in " ".join(argv)), "")
        return Completed(list(argv), self.status, text, "")

    def read_text(self, path: str) -> str:
        return self.run(["cat", path], timeout=1).stdout


# In place of scripts/server-kernel.sh.
NEVER_ENDS = """\
sleep 600 &
echo $! >"$1/child"
echo the last word
wait
"""


def make_checkout(folder: Path) -> Path:
    """A checkout of files that a kernel's package is made of, each in little."""
    for name in deploy.SOURCES:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/sh\n")
        else:
            path.mkdir(parents=True)
            (path / "file").write_text("1")
    (folder / "versions.toml").write_text("")
    (folder / "build/cache").mkdir(parents=True)
    return folder


def script_says(checkout: Path, text: str) -> None:
    """What scripts/server-kernel.sh of such a checkout does."""
    path = checkout / "scripts/server-kernel.sh"
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def result(**changed: Any) -> dict[str, Any]:
    """A load generator's result line."""
    line: dict[str, Any] = {
        "event": "result",
        "complete": True,
        "transactions": 4000,
        "connections": 4000,
        "elapsed_s": 2.0,
        "throughput": 2000.0,
        "connections_s": 2000.0,
        "errors": dict.fromkeys(("connect", "reset", "timeout", "short", "content", "other"), 0),
        "errors_outside": {"reset": 0},
        "latency_us": {"p50": 100.0, "p90": 150.0, "p99": 900.0, "p999": 1e3, "max": 2e3},
        "histogram": [[90.0, 3000], [110.0, 1000]],
        "client_cpu": 0.3,
        "bottleneck": "server",
    }
    return {**line, **changed}


def load(argv: Sequence[str], **changed: Any) -> list[Any]:
    """What a load generator says: that it is ready, if it is to wait, then its result."""
    return [*([{"event": "ready"}] if "--wait" in argv else []), result(**changed)]


def final(threads: int = 8, each: int = 500) -> dict[str, Any]:
    """A server's last counters."""
    one = {"transactions": each, "connections": each, "errors": 0, "syscalls": 7 * each}
    rows = [{"cpu": cpu, **one, "foreign_accepts": None} for cpu in range(threads)]
    return {"event": "final", "threads": rows}


class FakeProcess:
    """A program of `lines`, each a JSON object, a string, or an exception to raise."""

    def __init__(self, argv: Sequence[str], lines: Sequence[Any], log: Path, status: int = 0):
        self.argv, self.lines, self.log, self.status = list(argv), list(lines), log, status
        self.signals: list[str] = []
        self.told: list[str] = []
        self.killed = self.waited = False

    def readline(self, timeout: float) -> str:
        if not self.lines:
            raise CommandError(self.argv, None, "its last words", problem="ended without a word")
        line = self.lines.pop(0)
        if isinstance(line, BaseException) or (
            isinstance(line, type) and issubclass(line, BaseException)
        ):
            raise line
        if line == "silence":
            raise CommandTimeoutError(self.argv, None, problem=f"said nothing in {timeout:g} s")
        return line if isinstance(line, str) else json.dumps(line)

    def say(self, line: str) -> None:
        self.told.append(line)

    def signal(self, name: str) -> None:
        self.signals.append(name)

    def wait(self, timeout: float) -> int:
        self.waited = True
        return self.status

    def kill(self) -> None:
        self.killed = True


class FakeHost:
    """A host whose programs are made by `program(argv)`."""

    def __init__(self, name: str, program: Callable[[Sequence[str]], Any] = lambda argv: []):
        self.name, self.program = name, program
        self.started: list[FakeProcess] = []
        self.ran: list[list[str]] = []
        self.files: dict[str, str] = {}
        self.put_files: list[str] = []
        self.retransmits = 0
        # /proc/meminfo's Slab in KiB, each time that it is looked at; the last one stays.
        self.slab_kib = [0]

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        check: bool = True,
        input: str | None = None,
    ) -> Completed:
        self.ran.append(list(argv))
        said = SNMP.format(retransmits=self.retransmits) if argv[-1] == "/proc/net/snmp" else ""
        if "/proc/meminfo" in argv[-1]:
            kib = self.slab_kib.pop(0) if len(self.slab_kib) > 1 else self.slab_kib[0]
            said = f"Slab: {kib} kB\nSReclaimable: 5 kB\nVmallocUsed: 100 kB\n"
        return Completed(list(argv), 0, said, "")

    def start(self, argv: Sequence[str], *, log: Path) -> FakeProcess:
        made = self.program(argv)
        process = made if isinstance(made, FakeProcess) else FakeProcess(argv, made, log)
        self.started.append(process)
        return process

    def put(self, local: Path, remote: str, *, mode: int = 0o755) -> None:
        self.put_files.append(remote)

    def get(self, remote: str, local: Path) -> None:
        raise AssertionError(f"nothing fetches files: {remote}")

    def read_text(self, path: str) -> str:
        return self.files[path]


class FakeBed:
    """A testbed of fake hosts, whose server serves and whose client is content."""

    kind = "vm"
    title = "virtual machine"
    server_address = "198.18.0.2"
    is_virtual = True
    accel: str | None = "tcg"
    can_scale = False
    why_not_scale = "8 vCPUs share 2 host cores"
    counter_file: Path | None = None
    capture_on: str = ""
    cores = 8
    usable_cpus: tuple[int, ...] = ()

    def __init__(self, name: str = "local"):
        self.name = name
        self.server = FakeHost("server", lambda argv: [{"event": "ready"}, final()])
        self.clients = [FakeHost("client", load)]
        self.state = "down"
        self.history: list[str] = []

    def up(self) -> None:
        self.history.append("up")
        self.state = "up"

    def down(self) -> None:
        self.history.append("down")
        self.state = "down"

    def remove(self) -> None:
        self.history.append("remove")

    def is_up(self) -> bool:
        return self.state == "up"

    def verify(self, folder: str) -> str:
        return ""

    def gone(self) -> str:
        return "" if self.is_up() else "it went away"

    def attach(self) -> None:
        self.history.append("attach")

    def shell_argv(self) -> list[str]:
        return ["true"]

    def tunings(self) -> list[Any]:
        return []

    def facts(self) -> dict[str, Any]:
        return {"title": self.title, "server": {"release": "6.12.117-megapipe"}}
