# SPDX-License-Identifier: MIT
"""A virtual machine for a kernel that is tested: fewer processors, nothing measured, patience."""

from pathlib import Path

from megabench.testbed import Testbed

DEFINITION = """\
[testbed]
name = "tests-{kernel}"
kind = "vm"
title = "virtual machine, {kernel} kernel"

[server]
cores = 4
memory_mib = 2048
address = "198.18.0.2/24"
address6 = "fd6d:6567:6170::2/64"

[client]
address = "198.18.0.1/24"
address6 = "fd6d:6567:6170::1/64"

[vm]
kernel = "{kernel}"
count_instructions = false
boot_timeout_s = 600
"""


def bed_of(kernel: str, folder: Path) -> Testbed:
    """That of build/kernel-<kernel>, not up yet, its definition in `folder`."""
    definition = folder / f"{kernel}.toml"
    definition.write_text(DEFINITION.format(kernel=kernel))
    return Testbed.load(str(definition))
