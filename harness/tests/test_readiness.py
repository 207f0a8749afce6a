# SPDX-License-Identifier: MIT
"""What is fine, will change, must be mended, from surveys of machines that are not there."""

from dataclasses import replace

import pytest

from megabench.deploy import Builder
from megabench.errors import TestbedError
from megabench.knobs import Tuning
from megabench.readiness import (
    CHANGE,
    FINE,
    MEND,
    NOTE,
    Finding,
    Wanted,
    judge,
    judge_builder,
    refuse,
)
from megabench.survey import read_survey, version

HERE = (2, 36)
BARE = {
    "user": "0",
    "distribution": "debian 12 Debian GNU/Linux 12 (bookworm)",
    "libc": "glibc 2.36",
    "release": "6.1.0-50-amd64",
    "architecture": "x86_64",
    "cpus": "8",
    "threads_per_core": "1",
    "whole_cores": "8",
    "smt": "notsupported",
    "load": "0.10",
    "time": "1000.5",
    "disk": "/tmp 9000\n/boot 900\n/lib/modules 9000\n/var/cache 9000",
    "nofile": "524288",
    "tools": "ip ethtool systemctl timeout sha256sum awk sed dpkg update-grub "
    "grub-set-default grub-reboot grub-editenv update-initramfs",
    "card": "eth1",
    "cards": "eth0\neth1\nlo",
    "state": "up",
    "speed": "10000",
    "driver": "ixgbe",
    "queues": "16\n8",
    "receive_queues": "8",
    "rss": "16",
    "loader": "grub",
    "boot_disk": "ext4 /dev/sda1",
    "config": "yes",
}
TUNED = Tuning(interface="eth1", queues="cores", rss="equal", rps="off", xps="one-to-one")


def server(**changed: str) -> str:
    return said({**BARE, "addresses": "198.18.0.2/24", **changed})


def client(**changed: str) -> str:
    route = "198.18.0.2 dev eth1 src 198.18.0.11 uid 0 \\    cache"
    return said({**BARE, "addresses": "198.18.0.11/24", "route": route, **changed})


def said(answers: dict[str, str]) -> str:
    return "".join(f"\x01{name}\n{text}\n" for name, text in answers.items())


def judged(
    of_server: str, *clients: str, tuning: Tuning = TUNED, kernel: bool = True
) -> dict[str, Finding]:
    """The findings by host and subject; of several of one name, the gravest."""
    wanted = [Wanted("server", 8, "eth1", "198.18.0.2", "", tuning, kernel)]
    wanted += [Wanted("client", 1, "eth1") for _ in clients]
    names = ["server", *(f"client{n}" for n, _ in enumerate(clients, start=1))]
    surveys = [
        read_survey(name, text, 1000.0, 1001.0)
        for name, text in zip(names, [of_server, *clients], strict=True)
    ]
    order = [FINE, NOTE, CHANGE, MEND]
    found = sorted(judge(surveys, wanted, HERE), key=lambda one: order.index(one.level))
    return {f"{one.host}: {one.what}": one for one in found}


def test_judge__a_good_cluster() -> None:
    found = judged(server(), client())
    assert [one for one in found.values() if one.level == MEND] == []
    for what in ("root", "distribution", "commands", "cores", "interface", "clock", "disk"):
        assert found[f"server: {what}"].level == FINE
    for what in ("queues", "RSS", "tuning", "boot loader", "kernel"):
        assert found[f"server: {what}"].level == CHANGE
    assert found["client1: subnet"].level == FINE
    refuse(list(found.values()))


@pytest.mark.parametrize(
    ("changed", "what", "words"),
    [
        ({"user": "1000"}, "root", "become_root = true"),
        ({"distribution": "fedora 41 Fedora Linux 41"}, "distribution", "Debian 12/13"),
        ({"libc": "glibc 2.31"}, "C library", "2.31 is older than the 2.36"),
        ({"architecture": "aarch64"}, "architecture", "x86_64"),
        ({"tools": "ip timeout sha256sum awk sed"}, "commands", "apt-get install"),
        ({"cpus": "4"}, "cores", "4 CPUs are on line, the testbed says cores = 8"),
        ({"cpus": "16"}, "cores", "maxcpus=8"),
        ({"card": ""}, "interface", "no eth1; there are: eth0 eth1"),
        ({"state": "down"}, "interface", "the link is down"),
        ({"addresses": "10.0.0.1/8"}, "address", "has not 198.18.0.2 but 10.0.0.1"),
        ({"queues": "4\n4", "receive_queues": "4"}, "queues", "at most 4 queues for 8 cores"),
        ({"queues": "n/a\n1", "receive_queues": "1"}, "queues", "at most 1 queues for 8 cores"),
        ({"rss": "0"}, "RSS", 'rps = "all" does it in software'),
        ({"time": "2000.0"}, "clock", "999.0 s away"),
        ({"disk": "/tmp 5\n/boot 900"}, "disk", "/tmp has 5 MB free, 100 MB are needed"),
        ({"tmp": "rw nosuid noexec"}, "disk", "/tmp is mounted noexec: no program runs from it"),
        ({"tmp": "ro relatime"}, "disk", "remount,rw /tmp"),
        ({"disk": "/tmp 900\n/boot 90"}, "disk for a kernel", "/boot has 90 MB free"),
        ({"disk": "/tmp 900\n/var/cache 9"}, "disk for a kernel", "/var/cache has 9 MB free"),
        ({"nofile": "1024"}, "open files", "at most 1024 for a process, 4096 are needed"),
        ({"loader": "systemd-boot"}, "boot loader", 'kernel = "own"'),
        ({"loader": "grub", "boot_disk": "btrfs /dev/sda1"}, "boot loader", "cannot write"),
        ({"boot_disk": "ext4 /dev/mapper/vg-root"}, "boot loader", "cannot write to /boot"),
        ({"secure_boot": "SecureBoot enabled"}, "secure boot", "not signed"),
        ({"config": ""}, "configuration", "no /boot/config-6.1.0-50-amd64"),
    ],
)
def test_judge__what_must_be_mended(changed: dict[str, str], what: str, words: str) -> None:
    found = judged(server(**changed), client())
    one = found[f"server: {what}"]
    assert one.level == MEND
    assert words in one.said
    with pytest.raises(TestbedError, match="nothing was changed"):
        refuse(list(found.values()))


HYPERTHREADS = {"cpus": "16", "threads_per_core": "2", "whole_cores": "8", "smt": "on"}


@pytest.mark.parametrize(
    ("changed", "smt", "level", "words"),
    [
        (HYPERTHREADS, "off", CHANGE, "8 of 16 CPUs stay on line without hyperthreads"),
        (HYPERTHREADS, "leave", MEND, 'cores = 16, or smt = "off"'),
        ({**HYPERTHREADS, "whole_cores": "4", "cpus": "8"}, "off", MEND, "4 of 8 CPUs stay"),
        ({"cpus": "4", "smt": "off"}, "on", CHANGE, "8 CPUs will be on line"),
        ({}, "off", FINE, "8 CPUs"),
    ],
)
def test_judge__cores_are_counted_as_they_will_be(
    changed: dict[str, str], smt: str, level: str, words: str
) -> None:
    tuning = replace(TUNED, smt=smt)
    found = judged(server(**changed), client(), tuning=tuning)["server: cores"]
    assert found.level == level
    assert words in found.said


@pytest.mark.parametrize(
    ("here", "config", "level", "words"),
    [
        (None, "full", FINE, "they are built"),
        (Builder((), False, 9000, 0), "reduced", FINE, "9000 MB free"),
        (Builder(("bison", "flex"), True, 9000, 0), "reduced", CHANGE, "flex will be installed"),
        (Builder(("bison", "flex"), False, 9000, 0), "reduced", MEND, "apt-get install"),
        (Builder((), True, 900, 0), "reduced", MEND, "5000 MB are needed"),
        (Builder((), True, 9000, 0), "full", MEND, "12000 MB are needed"),
        (Builder((), True, 9000, 0, architecture="arm64"), "reduced", MEND, "arm64: the kernel is"),
        (Builder((), True, 9000, 0, python=False), "reduced", MEND, "3.11 or newer is needed"),
        # An earlier build's objects need not be found again.
        (Builder((), True, 900, 4800), "reduced", FINE, "900 MB free"),
    ],
)
def test_judge_builder__the_machine_that_drives(
    here: Builder | None, config: str, level: str, words: str
) -> None:
    found = judge_builder(here, config)
    assert any(one.level == level and words in one.said for one in found), found
    assert {one.level for one in found} <= {FINE, level}


def test_judge__without_a_kernel_of_ours_its_boot_loader_does_not_matter() -> None:
    found = judged(
        server(loader="", distribution="arch rolling Arch Linux"), client(), kernel=False
    )
    assert "server: boot loader" not in found
    assert found["server: distribution"].level == NOTE


def test_judge__an_ordinary_user_is_told_of_that_alone() -> None:
    found = judged(server(user="1000", queues="", receive_queues="1", rss=""), client())
    assert [name for name in found if name.startswith("server: ")] == ["server: root"]


def test_judge__without_ip_its_addresses_are_not_known() -> None:
    found = judged(server(tools="ethtool timeout sha256sum awk sed", addresses=""), client())
    assert found["server: commands"].level == MEND
    assert "server: address" not in found


def test_judge__rps_instead_of_rss() -> None:
    found = judged(server(rss="0"), client(), tuning=Tuning(interface="eth1", rps="all"))
    assert found["server: RPS"].level == CHANGE
    assert "server: RSS" not in found


@pytest.mark.parametrize(
    ("changed", "what", "words"),
    [
        ({"route": "198.18.0.2 via 10.0.0.1 dev eth1 src 10.0.0.9"}, "subnet", "a router is"),
        ({"route": "198.18.0.2 dev eth0 src 10.0.0.9"}, "subnet", "is not by eth1"),
    ],
)
def test_judge__clients_beside_the_subnet(changed: dict[str, str], what: str, words: str) -> None:
    one = judged(server(), client(**changed))[f"client1: {what}"]
    assert one.level == MEND
    assert words in one.said


def test_judge__clients_slower_than_the_server() -> None:
    slow = judged(server(), client(speed="1000"), client(speed="1000"))
    assert "2000 Mbit/s together" in slow["clients: speed"].said
    few = judged(server(), client(cpus="2"), client(cpus="2"))
    assert few["clients: cores"].level == MEND
    assert "4 in all for a server of 8" in few["clients: cores"].said


def test_judge__mixed_distributions_are_noted() -> None:
    found = judged(server(), client(distribution="ubuntu 24.04 Ubuntu 24.04", libc="glibc 2.39"))
    assert found["all: distributions"].level == NOTE
    assert "client1 ubuntu 24.04" in found["all: distributions"].said


def test_judge__one_machine_under_two_names() -> None:
    found = judged(server(boot_id="a"), client(boot_id="a", addresses="198.18.0.2/24"))
    assert found["all: hosts"].level == MEND


def test_judge__what_an_earlier_run_left_is_said() -> None:
    found = judged(server(untidy="yes", deployed='{"release": "6.12-megapipe", "old": "6.1"}',
                          release="6.12-megapipe"), client())  # fmt: skip
    assert "earlier run" in found["server: tuning"].said
    assert found["server: kernel"].level == FINE


def test_read_survey__clock_within_the_round_trip_is_right() -> None:
    assert read_survey("a", said({"time": "1000.9"}), 1000.0, 1001.0).clock_offset_s == 0
    assert read_survey("a", said({"time": "990.0"}), 1000.0, 1001.0).clock_offset_s == -10
    assert read_survey("a", said({"time": "1005.0"}), 1000.0, 1001.0).clock_offset_s == 4


@pytest.mark.parametrize(
    ("text", "numbers"), [("glibc 2.36", (2, 36)), ("2.36.1", (2, 36, 1)), ("musl", ())]
)
def test_version(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers
