# SPDX-License-Identifier: MIT
"""Whether the machines of a cluster can do what an experiment needs: fine, will change, must mend.

The judgement is made of surveys and the definition alone, before anything is changed; deploy and
run refuse to begin while something must be mended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .builder import FOLDER, Builder
from .errors import TestbedError
from .knobs import Tuning
from .survey import BOOT_TOOLS, Survey, deployment

FINE, CHANGE, MEND, NOTE = "fine", "will change", "must mend", "note"

SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
# Programs, traces and libraries; an image, its modules and an initial file system of a full kernel.
TMP_MB = 100
BOOT_MB = 200
MODULES_MB = 400
PACKAGE_MB = 150
# Objects, modules and packages of a kernel, and its source, on the machine that builds it.
BUILD_MB = {"reduced": 5000, "full": 12000}
# More than any experiment has connections (1,536), with what a program has open besides.
FILES = 4096
# Clocks order the logs of machines; nothing that is measured compares two of them.
CLOCK_S = 1.0
BUSY = 0.5
CURES = {"noexec": "exec", "ro": "rw"}
# GRUB forgets a one-shot entry by writing to its disk, which it can do on these.
GRUB_WRITES = ("ext2", "ext3", "ext4", "xfs", "vfat")
PACKAGE_OF = {
    "ip": "iproute2",
    "ethtool": "ethtool",
    "awk": "mawk",
    "update-initramfs": "initramfs-tools",
}


@dataclass(frozen=True)
class Finding:
    """One thing on one host."""

    host: str
    what: str
    level: str
    said: str


@dataclass(frozen=True)
class Wanted:
    """What the definition says of one machine."""

    role: str
    cores: int
    interface: str
    address: str = ""
    address6: str = ""
    tuning: Tuning = field(default_factory=Tuning)
    kernel: bool = False  # ours to install


# What, level, said.
Row = tuple[str, str, str]


def judge(
    surveys: Sequence[Survey], wanted: Sequence[Wanted], here: tuple[int, ...]
) -> list[Finding]:
    """Every machine by itself, the server first, then all together; `here` is our own glibc."""
    found: list[Finding] = []
    for survey, want in zip(surveys, wanted, strict=True):
        for what, level, said in _one(survey, want, here):
            found.append(Finding(survey.name, what, level, said))
    found += _together(surveys, wanted)
    return found


def judge_builder(machine: Builder | None, config: str) -> list[Finding]:
    """The machine that builds the server's kernel."""
    if machine is None:
        return [Finding("here", "kernel packages", FINE, "they are built")]
    return [Finding(machine.name, *row) for row in _builder(machine, config)]


def _builder(machine: Builder, config: str) -> Iterator[Row]:
    if machine.architecture != "x86_64":
        yield "architecture", MEND, f"{machine.architecture}: the kernel is built on x86_64"
    if not machine.python:
        yield "Python", MEND, "3.11 or newer is needed to patch the kernel's source"
    if machine.lacking and machine.can_install:
        yield "build packages", CHANGE, f"{' '.join(machine.lacking)} will be installed"
    elif machine.lacking:
        said = f"apt-get install --no-install-recommends {' '.join(machine.lacking)}"
        yield "build packages", MEND, f"{machine.distribution}: {said}"
    else:
        yield "build packages", FINE, f"all are there ({machine.distribution})"
    need = max(500, BUILD_MB[config] - machine.used_mb)
    said = f"{machine.free_mb} MB free"
    if machine.free_mb < need:
        where = "build/deploy" if machine.name == "here" else FOLDER
        said += f", {need} MB are needed to build the kernel ({config}) in {where}"
        yield "disk for a build", MEND, said
    else:
        yield "disk for a build", FINE, said


def refuse(found: Sequence[Finding]) -> None:
    """An error with everything that must be mended, if anything must."""
    bad = [one for one in found if one.level == MEND]
    if bad:
        raise TestbedError(
            "the testbed is not ready, and nothing was changed:\n"
            + "\n".join(f"  {one.host}: {one.what}: {one.said}" for one in bad),
            "`megabench check --testbed …` shows everything; docs/reproducing.md has the cures",
        )


def _one(s: Survey, want: Wanted, here: tuple[int, ...]) -> Iterator[Row]:
    yield _root(s)
    if s.text("user") != "0":
        # What an ordinary user is told of a machine is not the whole of it.
        return
    yield from _system(s, want, here)
    yield _tools(s, want)
    yield _cores(s, want)
    yield _files(s)
    yield from _card(s, want)
    yield from _state(s, want)
    if want.kernel:
        yield from _kernel(s)


def _root(s: Survey) -> Row:
    if s.text("user") == "0":
        return "root", FINE, "commands run as root"
    return "root", MEND, 'commands run as an ordinary user: user = "root", or become_root = true'


def _system(s: Survey, want: Wanted, here: tuple[int, ...]) -> Iterator[Row]:
    name, number = s.distribution
    known = ", ".join(f"{one.capitalize()} {'/'.join(all_)}" for one, all_ in SUPPORTED.items())
    if number in SUPPORTED.get(name, ()):
        yield "distribution", FINE, s.pretty
    elif want.kernel:
        yield "distribution", MEND, f"{s.pretty or 'unknown'}: a kernel is installed on {known}"
    else:
        yield "distribution", NOTE, f"{s.pretty or 'unknown'}, untried; known are {known}"
    if s.text("architecture") != "x86_64":
        yield "architecture", MEND, f"{s.text('architecture')}: the programs are for x86_64"
    if s.glibc < here:
        yield (
            "C library",
            MEND,
            f"glibc {dotted(s.glibc)} is older than the {dotted(here)} that the programs are "
            "built with: drive from a machine with this host's distribution, or an older one",
        )
    else:
        yield "C library", FINE, f"glibc {dotted(s.glibc)}, programs need {dotted(here)} or older"


def dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers)) or "unknown"


def _tools(s: Survey, want: Wanted) -> Row:
    needed = ["ip", "timeout", "sha256sum", "awk", "sed"]
    t = want.tuning
    if t.coalesce or t.offloads or "leave" not in (t.queues, t.rss):
        needed.append("ethtool")
    if t.stop_services:
        needed.append("systemctl")
    if want.kernel:
        needed += ["dpkg", "update-initramfs"]
    lacking = [tool for tool in needed if tool not in s.words("tools")]
    if not lacking:
        return "commands", FINE, " ".join(needed)
    packages = " ".join(sorted({PACKAGE_OF.get(tool, tool) for tool in lacking}))
    return "commands", MEND, f"no {', '.join(lacking)}: apt-get install {packages}"


def _cores(s: Survey, want: Wanted) -> Row:
    now = s.number("cpus")
    have, said = _cpus_when_tuned(s, want.tuning.smt)
    if have < want.cores:
        return "cores", MEND, f"{said}, the testbed says cores = {want.cores}"
    if want.role == "server" and have > want.cores:
        cures = [f"cores = {have}"]
        if want.tuning.smt != "off" and s.number("whole_cores") == want.cores < now:
            cures.append('smt = "off"')
        cures.append(f"boot with maxcpus={want.cores}")
        return (
            "cores",
            MEND,
            f"{said}, the testbed says cores = {want.cores}: those beyond would work too; "
            + ", or ".join(cures),
        )
    if have != now:
        return "cores", CHANGE, said
    smt = ", hyperthreads among them" if s.number("threads_per_core", 1) > 1 else ""
    return "cores", FINE, f"{have} CPUs{smt}"


def _cpus_when_tuned(s: Survey, smt: str) -> tuple[int, str]:
    """How many CPUs will be on line, with hyperthreads as [tune] says."""
    now = s.number("cpus")
    if smt == "off" and s.number("threads_per_core", 1) > 1:
        left = s.number("whole_cores", now)
        return left, f"{left} of {now} CPUs stay on line without hyperthreads"
    if smt == "on" and s.text("smt") == "off":
        # x86's have two threads each.
        return 2 * now, f"{2 * now} CPUs will be on line with hyperthreads, {now} are"
    return now, f"{now} CPUs are on line"


def _files(s: Survey) -> Row:
    """Programs raise their own limit as far as they may, which is this."""
    most = s.number("nofile", FILES)
    if most < FILES:
        return (
            "open files",
            MEND,
            f"at most {most} for a process, {FILES} are needed: `* hard nofile 65536` in "
            "/etc/security/limits.conf, then a new login",
        )
    return "open files", FINE, f"up to {most} for a process"


def _card(s: Survey, want: Wanted) -> Iterator[Row]:
    if not s.text("card"):
        there = " ".join(one for one in s.words("cards") if one != "lo")
        yield "interface", MEND, f"no {want.interface}; there are: {there}"
        return
    driver, speed = s.text("driver") or "no driver", s.number("speed", -1)
    said = f"{want.interface}, {driver}, {f'{speed} Mbit/s' if speed > 0 else 'speed not known'}"
    if s.text("state") not in ("up", "unknown"):
        yield (
            "interface",
            MEND,
            f"{said}: the link is {s.text('state')}: cable, switch, ip link set up",
        )
        return
    yield "interface", FINE, said
    have = [one.partition("/")[0] for one in s.words("addresses")]
    asked = "ip" in s.words("tools")
    for address in (want.address, want.address6):
        if asked and address and address not in have:
            yield (
                "address",
                MEND,
                f"{want.interface} has not {address} but {' '.join(have) or 'none'}: "
                f"ip address add {address}/… dev {want.interface}",
            )
    if (
        want.role == "client"
        and s.text("route")
        and f"dev {want.interface} " not in s.text("route")
    ):
        yield (
            "subnet",
            MEND,
            f"the way to the server is not by {want.interface}: {s.text('route')[:80]}: "
            "give the interface an address of the server's subnet",
        )
    elif want.role == "client" and " via " in f" {s.text('route')}":
        yield "subnet", MEND, f"a router is between client and server: {s.text('route')[:80]}"
    elif want.role == "client":
        yield "subnet", FINE, f"straight to the server by {want.interface}"
    yield from _queues(s, want)


def _queues(s: Survey, want: Wanted) -> Iterator[Row]:
    t = want.tuning
    if t.queues == "cores":
        if s.queues < want.cores:
            yield (
                "queues",
                MEND,
                f"{want.interface} has at most {s.queues} queues for {want.cores} cores: "
                'queues = "leave", rss = "leave", rps = "all"',
            )
        else:
            yield "queues", CHANGE, f"{want.cores} of {s.queues} queues, one a core"
    if t.rss == "equal" or (want.role == "server" and t.rps == "off"):
        if s.number("rss") == 0:
            yield (
                "RSS",
                MEND,
                f'{want.interface} does not spread flows by itself (no RSS): rss = "leave", '
                'rps = "all" does it in software',
            )
        elif t.rss == "equal":
            yield "RSS", CHANGE, "flows spread evenly over the queues"
    elif t.rps == "all":
        yield "RPS", CHANGE, "packets spread over all cores in software"
    elif want.role == "server":
        yield (
            "RSS",
            NOTE,
            "neither rss nor rps is set: MegaPipe's partitions need connections spread over cores",
        )


def _state(s: Survey, want: Wanted) -> Iterator[Row]:
    t = want.tuning
    changed = [
        *(f"{n} knob{'s' * (n > 1)} of /proc/sys" for n in [len(t.sysctl)] if n),
        *(f"{name} {value}" for name in ("irq", "xps", "governor", "turbo", "smt")
          for value in [getattr(t, name)] if value != "leave"),
        *(f"{name} stopped" for name in t.stop_services),
        *("coalescing" for _ in [1] if t.coalesce),
        *("offloads" for _ in [1] if t.offloads),
    ]  # fmt: skip
    if changed:
        yield "tuning", CHANGE, f"{', '.join(changed)}; put back at the end"
    if s.text("untidy"):
        yield "tuning", CHANGE, "an earlier run's settings are put back first"
    offset = abs(s.clock_offset_s)
    if offset > CLOCK_S:
        yield "clock", MEND, f"{offset:.1f} s away from this machine's: timedatectl set-ntp true"
    else:
        yield "clock", FINE, f"within {max(offset, 0.001):.3f} s of this machine's"
    yield _space("disk", s, {"/tmp": TMP_MB})
    for option, cannot in (
        ("noexec", "no program runs from it"),
        ("ro", "nothing can be put there"),
    ):
        if option in s.words("tmp"):
            said = f"/tmp is mounted {option}: {cannot}: mount -o remount,{CURES[option]} /tmp"
            yield "disk", MEND, said
    load = float(s.text("load") or 0)
    if load > BUSY * max(1, s.number("cpus")):
        yield "idle", NOTE, f"the machine is busy: load {load:g}"
    if s.rules:
        yield "firewall", NOTE, f"{s.rules} lines of rules; recorded, left alone"
    if s.text("tracking"):
        yield "firewall", NOTE, "connection tracking is loaded: it takes part in every packet"
    if s.number("mitigations"):
        yield "mitigations", NOTE, f"{s.number('mitigations')} in force; recorded, left alone"


def _space(what: str, s: Survey, needs: Mapping[str, int]) -> Row:
    short = [
        f"{at} has {s.disk[at]} MB free, {mb} MB are needed"
        for at, mb in needs.items()
        if at in s.disk and s.disk[at] < mb
    ]
    if short:
        return what, MEND, "; ".join(short)
    said = ", ".join(f"{at} {s.disk[at]} MB free" for at in needs if at in s.disk)
    return what, FINE, said or "not known"


def _kernel(s: Survey) -> Iterator[Row]:
    loaders = s.words("loader")
    if "grub" not in loaders:
        yield (
            "boot loader",
            MEND,
            f"{' '.join(loaders) or 'unknown'}: only GRUB is booted once from here; boot the "
            'kernel by hand (kernel-patch/README.md) and set kernel = "own"',
        )
    else:
        yield _grub(s)
    if "enabled" in s.text("secure_boot"):
        yield "secure boot", MEND, "on: the kernel is not signed; switch it off in the firmware"
    if not s.text("config") and not deployment(s):
        yield "configuration", MEND, f"no /boot/config-{s.text('release')} to build a kernel from"
    needs = {"/boot": BOOT_MB, "/lib/modules": MODULES_MB, "/var/cache": PACKAGE_MB}
    yield _space("disk for a kernel", s, needs)
    kept = deployment(s)
    if kept and s.text("release") == kept.get("release"):
        yield "kernel", FINE, f"{s.text('release')}; before it was {kept.get('old')}"
    else:
        yield (
            "kernel",
            CHANGE,
            f"{s.text('release')} stays the default; MegaPipe's is installed beside it and "
            "booted once",
        )


def _grub(s: Survey) -> Row:
    lacking = [tool for tool in BOOT_TOOLS[:4] if tool not in s.words("tools")]
    if lacking:
        return "boot loader", MEND, f"GRUB without {', '.join(lacking)}"
    words = [*s.words("boot_disk"), "", ""]
    kind, source = words[0], words[1]
    if kind not in GRUB_WRITES or source.startswith(("/dev/mapper", "/dev/md", "/dev/dm-")):
        return (
            "boot loader",
            MEND,
            f"GRUB cannot write to /boot ({kind} on {source}), so an entry for one boot would "
            'stay: boot the kernel by hand and set kernel = "own"',
        )
    return "boot loader", CHANGE, "GRUB: today's kernel is made the default, a new entry added"


def _together(surveys: Sequence[Survey], wanted: Sequence[Wanted]) -> list[Finding]:
    found = []
    server, clients = surveys[0], surveys[1:]
    names = {survey.distribution for survey in surveys}
    if len(names) > 1:
        said = ", ".join(f"{s.name} {' '.join(s.distribution)}" for s in surveys)
        found.append(Finding("all", "distributions", NOTE, f"mixed: {said}"))
    speeds = [client.number("speed", -1) for client in clients]
    speed = server.number("speed", -1)
    if speed > 0 and all(one > 0 for one in speeds) and sum(speeds) < speed:
        found.append(
            Finding(
                "clients",
                "speed",
                MEND,
                f"their links ({sum(speeds)} Mbit/s together) are slower than the server's "
                f"({speed}): it could not be loaded; more clients, or faster links",
            )
        )
    cores = sum(client.number("cpus") for client in clients)
    if cores < wanted[0].cores:
        found.append(
            Finding(
                "clients",
                "cores",
                MEND,
                f"{cores} in all for a server of {wanted[0].cores}: slower than the server; "
                "more clients, or fewer cores on the server",
            )
        )
    elif clients:
        found.append(Finding("clients", "cores", FINE, f"{cores} for {wanted[0].cores}"))
    boots = [survey.text("boot_id") + survey.text("cards") for survey in surveys]
    twice = [s.name for s, one in zip(surveys, boots, strict=True) if boots.count(one) > 1]
    if twice and surveys[0].text("boot_id") and _same_address(surveys):
        found.append(Finding("all", "hosts", MEND, f"one machine under several names: {twice}"))
    return found


def _same_address(surveys: Sequence[Survey]) -> bool:
    """Whether two hosts have an address in common (namespaces share a boot, not an address)."""
    seen: set[str] = set()
    for survey in surveys:
        own = {one for one in survey.words("addresses") if not one.startswith("fe80")}
        if own & seen:
            return True
        seen |= own
    return False
