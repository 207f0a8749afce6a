# SPDX-License-Identifier: MIT
"""What can be tuned on a machine, by which knob, and what a testbed's [tune] wants of each.

A knob is named by the text that finds it: the path of a file of /proc or /sys, or the first words
of the command that sets it.

    /proc/sys/net/core/somaxconn      a file
    ethtool -C eth1 rx-usecs          interrupt coalescing of a card
    ethtool -K eth1 gro               an offload
    ethtool -L eth1 combined          how many queues the card has
    ethtool -X eth1                   how its receive side spreads flows: "equal N", or "default"
    systemctl irqbalance              a service: "active" or "inactive"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .host import Host

TIMEOUT_S = 60.0
RPS_MODES = ("all", "off", "leave")
XPS_MODES = ("one-to-one", "off", "leave")
IRQ_MODES = ("one-to-one", "leave")
QUEUE_MODES = ("cores", "leave")
RSS_MODES = ("equal", "leave")
GOVERNORS = ("performance", "powersave", "schedutil", "ondemand", "leave")
ON_OFF = ("on", "off", "leave")

SYS = "/sys"
PROC = "/proc"

# One shell for all that has to be known before a setting can be named; $1 is the interface.
DISCOVER = """\
card=$2/class/net/$1 cpus=$2/devices/system/cpu interrupts=$3/interrupts
list() { kind=$1; shift; for file; do [ ! -e "$file" ] || echo "$kind $file"; done; }
list queue "$card"/queues/*
# Behind a bus of its own (virtio) the interrupts are a folder further up.
for file in "$card"/device/msi_irqs/* "$card"/device/../msi_irqs/*; do
	[ ! -e "$file" ] || echo "irq ${file##*/}"
done
awk 'sub(":$", "", $1) && $1 ~ /^[0-9]+$/ { print "name", $1, $NF }' "$interrupts"
list governor "$cpus"/cpu[0-9]*/cpufreq/scaling_governor
list online "$cpus"/cpu[0-9]*/online
list turbo "$cpus"/intel_pstate/no_turbo "$cpus"/cpufreq/boost
# "notsupported" where there are no hyperthreads to switch.
grep -qs '^not' "$cpus"/smt/control || list smt "$cpus"/smt/control
[ ! -e "$cpus"/online ] || echo "cpus $(cat "$cpus"/online)"
true"""


@dataclass(frozen=True)
class Tuning:
    """What a testbed's [tune.<role>] says; "leave" leaves a knob alone."""

    interface: str = ""
    rps: str = "leave"
    xps: str = "leave"
    irq: str = "leave"
    queues: str = "leave"
    rss: str = "leave"
    governor: str = "leave"
    turbo: str = "leave"
    smt: str = "leave"
    stop_services: tuple[str, ...] = ()
    coalesce: Mapping[str, str] = field(default_factory=dict)
    offloads: Mapping[str, str] = field(default_factory=dict)
    sysctl: Mapping[str, str] = field(default_factory=dict)
    # The CPUs to spread over, where not all of the machine's are for this.
    cpus: tuple[int, ...] = ()

    @property
    def spreads_flows(self) -> bool:
        """Whether it says which CPUs get packets."""
        return self.rps == "all" or self.rss == "equal"

    @property
    def needs_discovery(self) -> bool:
        """Whether it names knobs that have first to be found."""
        found = (self.rps, self.xps, self.irq, self.governor, self.turbo, self.smt)
        return any(value != "leave" for value in found)


@dataclass(frozen=True)
class Machine:
    """The knobs that a machine has."""

    queues: tuple[str, ...] = ()
    irqs: tuple[int, ...] = ()
    governors: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    turbo: str = ""
    smt: str = ""
    cpus: tuple[int, ...] = ()  # on line: not 0 to n - 1 where hyperthreads are switched off


def discover(host: Host, tuning: Tuning, *, always: bool = False) -> Machine:
    """Look for the knobs that `tuning` needs; for all of them, if `always`."""
    if not (tuning.needs_discovery or always):
        return Machine()
    argv = ["sh", "-c", DISCOVER, "sh", tuning.interface, SYS, PROC]
    return parse_discovery(host.run(argv, timeout=TIMEOUT_S).stdout, tuning.interface)


def parse_discovery(said: str, interface: str) -> Machine:
    """What DISCOVER printed."""
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        kind, _, rest = line.partition(" ")
        found.setdefault(kind, []).append(rest)
    of_card = {int(number) for number in found.get("irq", [])}
    names = dict(line.split(" ", 1) for line in found.get("name", []))
    # A queue's interrupt bears its number: eth1-TxRx-3, mlx5_comp3@pci:…, virtio1-input.0. One
    # without a number is for the link or the card as a whole.
    with_queue = [
        (int(number[1]), irq)
        for irq in sorted(of_card)
        for name in [names.get(str(irq), "").partition("@")[0].removeprefix(interface)]
        if (number := re.search(r"(\d+)$", name))
    ]
    return Machine(
        queues=tuple(sorted(found.get("queue", []))),
        irqs=tuple(irq for _, irq in sorted(with_queue)),
        governors=tuple(sorted(found.get("governor", []))),
        online=tuple(sorted(found.get("online", []))),
        turbo=next(iter(found.get("turbo", [])), ""),
        smt=next(iter(found.get("smt", [])), ""),
        cpus=cpus_in(next(iter(found.get("cpus", [])), "")),
    )


def cpus_in(text: str) -> tuple[int, ...]:
    """A list as the kernel writes it: `0-3,8`."""
    found: list[int] = []
    for part in text.strip().split(",") if text.strip() else []:
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def sysctl_path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def affinity_path(irq: int) -> str:
    return f"{PROC}/irq/{irq}/smp_affinity"


def cpu_mask(cpus: Iterable[int]) -> str:
    """As the kernel writes it: hexadecimal, a comma between every 32 bits."""
    value = sum(1 << cpu for cpu in set(cpus))
    words = []
    while True:
        words.append(value & 0xFFFFFFFF)
        value >>= 32
        if not value:
            break
    first, *rest = reversed(words)
    return ",".join([f"{first:x}", *(f"{word:08x}" for word in rest)])


def of_machine(tuning: Tuning, machine: Machine, cores: int) -> dict[str, str]:
    """What to set first, since other knobs come and go with it: services, CPUs, queues."""
    wanted = {f"systemctl {name}": "inactive" for name in tuning.stop_services}
    if tuning.smt != "leave" and machine.smt:
        wanted[machine.smt] = tuning.smt
    if tuning.governor != "leave":
        wanted |= dict.fromkeys(machine.governors, tuning.governor)
    if tuning.turbo != "leave" and machine.turbo:
        # One file says "no turbo", the other "boost".
        inverted = machine.turbo.endswith("no_turbo")
        wanted[machine.turbo] = "1" if (tuning.turbo == "on") != inverted else "0"
    if tuning.queues == "cores":
        wanted[f"ethtool -L {tuning.interface} combined"] = str(cores)
    return wanted


def settings(
    tuning: Tuning, machine: Machine, cores: int, receiving: int | None = None
) -> dict[str, str]:
    """Everything else: each knob and the text it is to hold.

    Of `cores` CPUs, `receiving` get packets, where RPS or RSS decides that: all, if None.
    """
    receiving = receiving or cores
    wanted = {sysctl_path(name): value for name, value in tuning.sysctl.items()}
    mine = (tuning.cpus or machine.cpus)[:cores] or tuple(range(cores))
    for queue in machine.queues:
        kind, _, number = queue.rpartition("/")[2].partition("-")
        if kind == "rx" and tuning.rps != "leave":
            cpus = mine[:receiving] if tuning.rps == "all" else ()
            wanted[f"{queue}/rps_cpus"] = cpu_mask(cpus)
        if kind == "tx" and tuning.xps != "leave":
            one = [mine[int(number) % len(mine)]] if tuning.xps == "one-to-one" else ()
            wanted[f"{queue}/xps_cpus"] = cpu_mask(one)
    if tuning.irq == "one-to-one":
        for place, irq in enumerate(machine.irqs):
            wanted[affinity_path(irq)] = cpu_mask([mine[place % len(mine)]])
    if tuning.rss == "equal":
        wanted[f"ethtool -X {tuning.interface}"] = f"equal {receiving}"
    wanted |= {f"ethtool -C {tuning.interface} {k}": v for k, v in tuning.coalesce.items()}
    wanted |= {f"ethtool -K {tuning.interface} {k}": v for k, v in tuning.offloads.items()}
    return wanted
