# SPDX-License-Identifier: MIT
"""Confine a machine to its first n CPUs, so that "on n cores" means all of it; or its packets.

A server of one thread on a machine whose other CPUs receive packets runs on more than one core. So
the others are taken off line, and packets are spread over those that are left; n = all of them
puts everything back. The first n are not always 0 to n - 1: of hyperthreads that are switched off
(smt = "off") only one of each core is left, 0 and 2 where 0 and 1 are one core's.

Where flows are to be unequal, packets are spread over fewer of the CPUs than serve: those of a
card, or of RPS, that has fewer queues than there are cores.
"""

from typing import Any

from megabench import tune
from megabench.errors import TestbedError
from megabench.knobs import cpus_in

PRESENT = "/sys/devices/system/cpu/present"


def online_file(cpu: int) -> str:
    """What takes a CPU on and off line."""
    return f"/sys/devices/system/cpu/cpu{cpu}/online"


def usable(bed: Any) -> tuple[int, ...]:
    """The CPUs of the server when all that may be are on line; asked once, before any is taken
    off, and after hyperthreads have been switched off: those refuse to come back."""
    if not bed.usable_cpus:
        host = bed.server
        first, *others = cpus_in(host.read_text(PRESENT))
        files = {online_file(cpu): "1" for cpu in others}
        have = tune.read_back(host, files)
        # A run that was killed may have left some off line.
        if "0" in have.values():
            tune.write(host, {path: "1" for path, text in have.items() if text == "0"})
            have = tune.read_back(host, files)
        found = [first, *(cpu for cpu in others if have.get(online_file(cpu)) == "1")]
        bed.usable_cpus = tuple(found[: bed.cores])
    return tuple(bed.usable_cpus)


def confine(bed: Any, cores: int, receiving: int) -> None:
    """Leave `cores` of the testbed's CPUs on line, and spread packets over the first `receiving`
    of them alone."""
    host = bed.server
    if receiving < cores and not any(tuning.spreads_flows for _, tuning in bed.tunings()[:1]):
        raise TestbedError(
            f"{host.name}: its packets cannot be spread over {receiving} of {cores} CPUs",
            hint='[tune.server] says neither rps = "all" nor rss = "equal"; '
            f"or measure --only receiving_cpus={cores} alone",
        )
    if bed.kind == "namespaces":
        bed.confine(cores)
        return
    # The first always stays.
    first, *others = usable(bed)
    left = {first, *others[: cores - 1]}
    wanted = {online_file(cpu): "1" if cpu in left else "0" for cpu in others}
    have = tune.read_back(host, wanted)
    if have != wanted:
        tune.write(host, {path: text for path, text in wanted.items() if have.get(path) != text})
        have = tune.read_back(host, wanted)
    wrong = [path for path, text in wanted.items() if have.get(path) != text]
    if wrong or len(left) < cores:
        holds = f"{wrong[0]} holds {have.get(wrong[0], 'nothing')!r}" if wrong else (
            f"only {len(others) + 1} can be on line"
        )  # fmt: skip
        raise TestbedError(
            f"{host.name}: cannot confine it to {cores} of {bed.cores} CPUs: {holds}",
            hint="it needs root and a kernel with CPU hotplug; or measure cores="
            f"{bed.cores} alone: --only cores={bed.cores}",
        )
    for server, tuning in bed.tunings()[:1]:
        tune.apply(server, tuning, cores, receiving=receiving)
