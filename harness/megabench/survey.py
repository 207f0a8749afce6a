# SPDX-License-Identifier: MIT
"""What a machine of a cluster has, asked in one round trip that changes nothing there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from .facts import parse_report
from .host import Host

TIMEOUT_S = 120.0
# What the harness calls on a host; servers need those that boot a kernel too.
TOOLS = ("ip", "ethtool", "systemctl", "timeout", "sha256sum", "awk", "sed", "dpkg", "apt-get")
BOOT_TOOLS = ("update-grub", "grub-set-default", "grub-reboot", "grub-editenv", "update-initramfs")

# $1 the interface, $2 an address that the load goes to, the rest: commands to look for.
SURVEY = r"""
section() { printf '\001%s\n' "$1"; }
card=$1 target=$2; shift 2
PATH=$PATH:/usr/sbin:/sbin
section user; id -u
section distribution; (. /etc/os-release; echo "$ID ${VERSION_ID:-rolling} $PRETTY_NAME")
section libc; getconf GNU_LIBC_VERSION
section release; uname -r
section architecture; uname -m
section boot_id; cat /proc/sys/kernel/random/boot_id
section cpus; getconf _NPROCESSORS_ONLN
section threads_per_core
sed 's/.*[-,].*/2/; s/^[0-9]*$/1/' /sys/devices/system/cpu/cpu0/topology/thread_siblings_list
section whole_cores
sort -u /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list | grep -c .
section smt; cat /sys/devices/system/cpu/smt/control
section nofile; ulimit -Hn | sed "s/unlimited/$(cat /proc/sys/fs/nr_open)/"
section load; cut -d' ' -f1 /proc/loadavg
section time; date +%s.%N
section clock; timedatectl show -p NTPSynchronized --value
section disk; for at in /tmp /boot /lib/modules /var/cache; do
	[ -d "$at" ] && df -Pm "$at" | awk -v at="$at" 'NR == 2 { print at, $4 }'
done
section tmp; findmnt -no OPTIONS -T /tmp | tr , ' '
section tools; for tool; do command -v "$tool" >/dev/null && echo "$tool"; done
section libraries; ldconfig -p | awk '/x86-64/ { print $1 }'
section card; [ -e "/sys/class/net/$card" ] && echo "$card"
section cards; ls /sys/class/net
section state; cat "/sys/class/net/$card/operstate"
section speed; cat "/sys/class/net/$card/speed"
section driver; basename "$(readlink -f "/sys/class/net/$card/device/driver")"
section queues; ethtool -l "$card" | awk '/^Combined:/ { print $2 }'
section receive_queues; ls -d "/sys/class/net/$card"/queues/rx-* | wc -l
section rss; ethtool -x "$card" | awk '/^ *[0-9]+:/ { n++ } END { print n + 0 }'
section addresses; ip -o address show dev "$card" | awk '{ print $4 }'
section route; ip -o route get "$target"
section management; echo "$SSH_CONNECTION"
section loader
[ -e /boot/grub/grub.cfg ] && echo grub
bootctl is-installed 2>/dev/null | grep -qx yes && echo systemd-boot
[ -e /boot/extlinux/extlinux.conf ] && echo extlinux
section boot_disk; findmnt -no FSTYPE,SOURCE -T /boot
section secure_boot; mokutil --sb-state
section config; [ -r "/boot/config-$(uname -r)" ] && echo yes
section megapipe; [ -c /dev/megapipe ] && echo yes
section firewall; nft list ruleset | grep -c . ; iptables-save | grep -c '^-A'
section tracking; [ -d /proc/sys/net/netfilter ] && cat /proc/sys/net/netfilter/nf_conntrack_max
section mitigations; grep -l Mitigation /sys/devices/system/cpu/vulnerabilities/* | wc -l
section deployed; cat "$DEPLOYED"
section untidy; [ -s /run/megabench/restore.json ] && echo yes
exit 0
"""


@dataclass(frozen=True)
class Survey:
    """A machine's answers; an empty text is a question it has no answer to."""

    name: str
    answers: Mapping[str, str]
    clock_offset_s: float = 0.0
    disk: Mapping[str, int] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.answers.get(name, "")

    def words(self, name: str) -> list[str]:
        return self.text(name).split()

    def number(self, name: str, default: int = 0) -> int:
        """The last number of an answer."""
        found = re.findall(r"-?\d+", self.text(name))
        return int(found[-1]) if found else default

    @property
    def distribution(self) -> tuple[str, str]:
        """Id and version, as /etc/os-release has them."""
        words = [*self.words("distribution"), "", ""]
        return words[0], words[1]

    @property
    def pretty(self) -> str:
        return self.text("distribution").split(" ", 2)[-1]

    @property
    def glibc(self) -> tuple[int, ...]:
        return version(self.text("libc"))

    @property
    def rules(self) -> int:
        """Lines of the firewall's rules, of nftables and iptables."""
        return sum(int(word) for word in self.words("firewall") if word.isdigit())

    @property
    def queues(self) -> int:
        """How many receive queues the card can have; ethtool may say n/a."""
        most = self.words("queues")[:1]
        return max([self.number("receive_queues"), *(int(one) for one in most if one.isdigit())])


def version(text: str) -> tuple[int, ...]:
    """The first dotted number of a text."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def survey(host: Host, interface: str, target: str, deployed: str) -> Survey:
    """Ask a machine; raises if no command runs there as root."""
    script = f"DEPLOYED={deployed}\nexec 2>/dev/null\n{SURVEY}"
    words = [*TOOLS, *BOOT_TOOLS]
    argv = ["sh", "-c", script, "sh", interface, target, *words]
    before = time.time()
    said = host.run(argv, timeout=TIMEOUT_S).stdout
    return read_survey(host.name, said, before, time.time())


def read_survey(name: str, said: str, before: float, after: float) -> Survey:
    """What SURVEY printed, between two looks at our own clock."""
    answers = parse_report(said)
    try:
        theirs = float(answers.get("time", ""))
    except ValueError:
        theirs = after
    offset = max(0.0, theirs - after) or min(0.0, theirs - before)
    rows = [line.split() for line in answers.get("disk", "").splitlines()]
    disk = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    return Survey(name, answers, offset, disk)


def deployment(found: Survey) -> dict[str, str]:
    """What an earlier deploy has written down there; empty if there was none."""
    try:
        kept = json.loads(found.text("deployed") or "{}")
    except ValueError:
        return {}
    return kept if isinstance(kept, dict) else {}
