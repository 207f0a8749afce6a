# SPDX-License-Identifier: MIT
"""The settings a measurement depends on: apply, read back, restore.

Every setting is a knob (knobs.py) and the text it should hold, so there is one way to set, check
and undo them all, whatever they mean.

On a machine that outlives the run, what was there before is written into a file on that machine
before anything is changed: a harness that crashed, or lost its network, can put it back later
(`megabench restore`), and the next run does so by itself. A reboot undoes the settings and, /run
being in memory, the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import knobs
from .errors import TestbedError
from .host import Host
from .knobs import TIMEOUT_S, Tuning

MEMORY = "/run/megabench/restore.json"

# One round trip and one process for all files, either way: forks are slow in an emulated machine.
READ = ["grep", "-sH", ""]
WRITE = """\
while IFS="$(printf '\\t')" read -r file text; do
	printf '%s\\n' "$text" >"$file" || echo "$file" >&2
done"""
# The knobs that are commands.
READ_COMMANDS = """\
while IFS="$(printf '\\t')" read -r knob; do
	set -- $knob
	case "$1 $2" in
	"systemctl "*) text=$(systemctl is-active "$2") ;;
	"ethtool -C") text=$(ethtool -c "$3" | sed 's/^Adaptive RX: *\\([a-z]*\\).*/adaptive-rx: \\1/' |
		sed -n "s/^$4:[[:space:]]*//p") ;;
	"ethtool -K") text=$(ethtool -k "$3" | sed -n "s/^$4:[[:space:]]*//p" | cut -d' ' -f1) ;;
	"ethtool -L") text=$(ethtool -l "$3" | sed -n '/^Current/,$s/^Combined:[[:space:]]*//p') ;;
	"ethtool -X") text=$(ethtool -x "$3" | awk '
		/^ *[0-9]+:/ { for (i = 2; i <= NF; i++) queue[n++] = $i }
		END {
			for (i = 0; i < n; i++) if (queue[i] >= most) most = queue[i] + 1
			for (i = 0; i < n; i++) if (queue[i] != i % most) { print "default"; exit }
			if (n) print "equal " most
		}') ;;
	*) text= ;;
	esac 2>/dev/null
	case $text in
	"" | n/a) ;; # the card has no such thing
	*) printf '%s\\t%s\\n' "$knob" "$text" ;;
	esac
done"""
WRITE_COMMANDS = """\
while IFS="$(printf '\\t')" read -r knob text; do
	set -- $knob
	case "$1" in
	systemctl) if [ "$text" = active ]; then systemctl start "$2"; else systemctl stop "$2"; fi ;;
	ethtool) "$@" $text ;;
	esac >&2
done"""
KEEP = 'mkdir -p -- "${1%/*}" && cat >"$1.new" && mv -f -- "$1.new" "$1"'


def same(wanted: str, have: str) -> bool:
    """Equal but for spacing, and for the commas and leading zeros of a mask."""
    return normal(wanted) == normal(have)


def normal(text: str) -> str:
    text = " ".join(text.split())
    # What a service that is not there, or broke down, comes to.
    if text in ("failed", "unknown", "not-found"):
        return "inactive"
    # Hyperthreads that the firmware or the command line keeps off.
    if text == "forceoff":
        return "off"
    if re.fullmatch(r"[0-9a-f]+(,[0-9a-f]{8})*", text):
        return text.replace(",", "").lstrip("0") or "0"
    return text


def read_back(host: Host, names: Iterable[str]) -> dict[str, str]:
    """What the knobs hold now; those that are not there are left out."""
    files, commands = _kinds(names)
    held: dict[str, list[str]] = {}
    if files:
        out = host.run([*READ, "--", *files], timeout=TIMEOUT_S, check=False).stdout
        for line in out.splitlines():
            path, _, text = line.partition(":")
            held.setdefault(path, []).extend(text.split())
    if commands:
        lines = "".join(f"{name}\n" for name in commands)
        argv = ["sh", "-c", READ_COMMANDS]
        out = host.run(argv, timeout=TIMEOUT_S, input=lines, check=False).stdout
        for line in out.splitlines():
            name, _, text = line.partition("\t")
            held[name] = text.split()
    return {name: " ".join(words) for name, words in held.items()}


def write(host: Host, values: Mapping[str, str]) -> None:
    files, commands = _kinds(values)
    for script, names in ((WRITE, files), (WRITE_COMMANDS, commands)):
        if names:
            lines = "".join(f"{name}\t{values[name]}\n" for name in names)
            host.run(["sh", "-c", script], timeout=TIMEOUT_S, input=lines, check=False)


def _kinds(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Files, and commands."""
    every = list(names)
    return [n for n in every if n.startswith("/")], [n for n in every if not n.startswith("/")]


@dataclass
class Applied:
    """Settings in force, and what was there before them, in the order in which they were made."""

    host: Host
    memory: str | None = None
    values: dict[str, str] = field(default_factory=dict)
    before: list[dict[str, str]] = field(default_factory=list)

    def read_back(self) -> dict[str, str]:
        return read_back(self.host, self.values)

    def note(self, names: Iterable[str]) -> dict[str, str]:
        """Write down what the knobs hold, to be put back."""
        before = read_back(self.host, names)
        self.before.append(before)
        if before and self.memory is not None:
            _keep(self.host, self.memory, self.before)
        return before

    def set(self, wanted: Mapping[str, str]) -> None:
        """Change what differs, after writing down how it was; TestbedError if it does not hold."""
        before = self.note(wanted)
        self.values |= wanted
        write(self.host, {n: wanted[n] for n, text in before.items() if not same(wanted[n], text)})
        have = read_back(self.host, wanted)
        for name, text in wanted.items():
            if not same(text, have.get(name, "")):
                holds = f"it holds {have[name]!r}" if name in have else _absent(name)
                raise TestbedError(
                    f"{self.host.name}: {name} could not be set to {text!r}: {holds}",
                    "it needs root, and a machine that has it; "
                    "else take it out of the testbed's [tune]",
                )

    def restore(self) -> None:
        for values in reversed(self.before):
            have = read_back(self.host, values)
            write(self.host, {n: t for n, t in values.items() if not same(t, have.get(n, ""))})
        if self.memory is not None:
            _forget(self.host, self.memory)
        self.before = []


def _absent(name: str) -> str:
    return "there is no such file" if name.startswith("/") else "it cannot be read"


def _keep(host: Host, memory: str, before: list[dict[str, str]]) -> None:
    argv = ["sh", "-c", KEEP, "sh", memory]
    host.run(argv, timeout=TIMEOUT_S, input=json.dumps(before) + "\n")


def _forget(host: Host, memory: str) -> None:
    host.run(["rm", "-f", "--", memory], timeout=TIMEOUT_S, check=False)


def restore(host: Host, memory: str = MEMORY) -> int:
    """Put back what a run that broke off has left; how many settings that were."""
    text = host.run(["cat", "--", memory], timeout=TIMEOUT_S, check=False).stdout
    if not text.strip():
        return 0
    try:
        before = json.loads(text)
        left = Applied(host, memory, before=[dict(values) for values in before])
    except (ValueError, TypeError) as error:
        raise TestbedError(
            f"{host.name}: {memory}: {error}", "a reboot undoes the settings and removes the file"
        ) from error
    count = sum(len(values) for values in left.before)
    left.restore()
    return count


def apply(
    host: Host,
    tuning: Tuning,
    cores: int,
    memory: str | None = None,
    receiving: int | None = None,
) -> Applied:
    """Set everything and make sure of it; what was changed is undone if anything would not hold."""
    if memory is not None:
        restore(host, memory)
    applied = Applied(host, memory)
    try:
        machine = knobs.discover(host, tuning, always=memory is not None)
        # Experiments take CPUs off line.
        if memory is not None:
            applied.note(machine.online)
        first = knobs.of_machine(tuning, machine, cores)
        if first:
            applied.set(first)
            # Queues and their interrupts are others now.
            machine = knobs.discover(host, tuning)
        applied.set(knobs.settings(tuning, machine, cores, receiving))
    except BaseException:
        applied.restore()
        raise
    return applied


def in_force(host: Host, tuning: Tuning, cores: int) -> dict[str, str]:
    """What the knobs of `tuning` hold now, by names that the next boot does not change."""
    machine = knobs.discover(host, tuning)
    wanted = knobs.of_machine(tuning, machine, cores) | knobs.settings(tuning, machine, cores)
    lasting = {
        knobs.affinity_path(irq): f"interrupt of {tuning.interface}'s queue {queue}: affinity"
        for queue, irq in enumerate(machine.irqs)
    }
    return {lasting.get(name, name): text for name, text in read_back(host, wanted).items()}
