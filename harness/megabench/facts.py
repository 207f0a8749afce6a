# SPDX-License-Identifier: MIT
"""What a machine says of itself: all that decides a measurement and is not in its definition."""

from __future__ import annotations

import hashlib
from typing import Any

from .host import Host

TIMEOUT_S = 60.0

# One round trip; sections are told apart by a line that no file holds.
REPORT = r"""
section() { printf '\001%s\n' "$1"; }
section release; uname -r
section version; uname -v
section architecture; uname -m
section cpu_model; sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1
section cpus; getconf _NPROCESSORS_ONLN
section memory_kib; sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo
section files_limit; ulimit -Hn
section clocksource; cat /sys/devices/system/clocksource/clocksource0/current_clocksource
section congestion_control; cat /proc/sys/net/ipv4/tcp_congestion_control
section distribution; sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release
section drivers
for device in /sys/class/net/*/device/driver; do
	[ -e "$device" ] || continue
	interface=${device#/sys/class/net/}
	driver=$(readlink -f "$device")
	echo "${interface%%/*}:${driver##*/}"
done
section mitigations
cd /sys/devices/system/cpu/vulnerabilities 2>/dev/null && grep -H '' *
section config
gzip -dc /proc/config.gz 2>/dev/null || cat "/boot/config-$(uname -r)" 2>/dev/null
exit 0
"""


def parse_report(text: str) -> dict[str, str]:
    found = {}
    for part in text.split("\x01")[1:]:
        name, _, body = part.partition("\n")
        found[name] = body.strip()
    return found


def pairs(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def machine_facts(host: Host) -> dict[str, Any]:
    report = parse_report(host.run(["sh", "-c", REPORT], timeout=TIMEOUT_S, check=False).stdout)
    config = report.pop("config", "")
    facts: dict[str, Any] = {"name": host.name, **report}
    for key in ("cpus", "memory_kib"):
        facts[key] = int(report.get(key) or 0)
    for key in ("drivers", "mitigations"):
        facts[key] = pairs(report.get(key, ""))
    # A hash tells two kernels apart; the options that matter most are there to read.
    facts["config_sha256"] = hashlib.sha256(config.encode()).hexdigest() if config else None
    facts["megapipe"] = "CONFIG_MEGAPIPE=y" in config.splitlines()
    return facts
