# SPDX-License-Identifier: MIT
"""Confine a machine to its first n CPUs, so that "on n cores" means all of it.

A server of one thread on a machine whose other CPUs receive packets runs on more than one core. So
the others are taken off line, and packets are spread over those that are left; n = all of them
puts everything back.
"""

from typing import Any

from megabench import tune
from megabench.errors import TestbedError


def online_files(cores: int, whole: int) -> dict[str, str]:
    """What the files that take CPUs on and off line are to hold. CPU 0 always stays."""
    return {
        f"/sys/devices/system/cpu/cpu{cpu}/online": "1" if cpu < cores else "0"
        for cpu in range(1, whole)
    }


def confine(bed: Any, cores: int) -> None:
    """Leave `cores` of the testbed's CPUs on line, and spread packets over them alone."""
    wanted = online_files(cores, bed.cores)
    host = bed.server
    have = tune.read_back(host, wanted)
    if have != wanted:
        tune.write(host, {path: text for path, text in wanted.items() if have.get(path) != text})
        have = tune.read_back(host, wanted)
    wrong = [path for path, text in wanted.items() if have.get(path) != text]
    if wrong:
        raise TestbedError(
            f"{host.name}: cannot confine it to {cores} of {bed.cores} CPUs: {wrong[0]} holds "
            f"{have.get(wrong[0], 'nothing')!r}",
            hint="it needs root and a kernel with CPU hotplug; or measure cores="
            f"{bed.cores} alone: --only cores={bed.cores}",
        )
    for server, tuning in bed.tunings()[:1]:
        tune.apply(server, tuning, cores)
