# SPDX-License-Identifier: MIT
"""Tuning, on files of our own in place of /proc/sys and /sys."""

import os
from pathlib import Path

import pytest
from fakes import ETHTOOL, ETHTOOL_STATE, SYSTEMCTL

from megabench import knobs, tune
from megabench.errors import TestbedError
from megabench.host import LocalHost
from megabench.knobs import Machine, Tuning


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sysctls, a card of two queues, two CPUs."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/somaxconn").write_text("4096\n")
    (tmp_path / "net/range").write_text("32768\t60999\n")
    queues = tmp_path / "sys/class/net/eth0/queues"
    for queue in ("rx-0", "rx-1", "tx-0", "tx-1"):
        (queues / queue).mkdir(parents=True)
        name = "rps_cpus" if queue.startswith("rx") else "xps_cpus"
        (queues / queue / name).write_text("00\n")
    (tmp_path / "queues").symlink_to(queues)
    for irq in ("30", "31", "32"):
        (tmp_path / "sys/class/net/eth0/device/msi_irqs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/class/net/eth0/device/msi_irqs" / irq).write_text("msix\n")
        (tmp_path / "proc/irq" / irq).mkdir(parents=True)
        (tmp_path / "proc/irq" / irq / "smp_affinity").write_text("3\n")
    (tmp_path / "proc/interrupts").write_text(
        "           CPU0       CPU1\n"
        "  9:          0          0   IO-APIC   9-fasteoi   acpi\n"
        " 30:         11          0  PCI-MSIX-0000:01:00.0   0-edge      eth0\n"
        " 31:          5          7  PCI-MSIX-0000:01:00.0   1-edge      eth0-TxRx-1\n"
        " 32:          1          2  PCI-MSIX-0000:01:00.0   2-edge      eth0-TxRx-0\n"
        "NMI:          0          0   Non-maskable interrupts\n"
    )
    cpus = tmp_path / "sys/devices/system/cpu"
    for cpu in ("cpu0", "cpu1"):
        (cpus / cpu / "cpufreq").mkdir(parents=True)
        (cpus / cpu / "cpufreq/scaling_governor").write_text("schedutil\n")
    (cpus / "cpu1/online").write_text("1\n")
    (cpus / "online").write_text("0-1\n")
    (cpus / "intel_pstate").mkdir()
    (cpus / "intel_pstate/no_turbo").write_text("0\n")
    (cpus / "smt").mkdir()
    (cpus / "smt/control").write_text("on\n")
    monkeypatch.setattr(knobs, "sysctl_path", lambda name: str(tmp_path / name.replace(".", "/")))
    monkeypatch.setattr(knobs, "SYS", str(tmp_path / "sys"))
    monkeypatch.setattr(knobs, "PROC", str(tmp_path / "proc"))
    return tmp_path


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ethtool and systemctl of a machine that runs irqbalance."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ethtool", ETHTOOL), ("systemctl", SYSTEMCTL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "ethtool.state").write_text(ETHTOOL_STATE)
    (folder / "irqbalance.service").write_text("active\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


TUNING = Tuning(
    interface="eth0",
    rps="all",
    xps="one-to-one",
    sysctl={"net.somaxconn": "65535", "net.range": "1024 65535"},
)


@pytest.mark.parametrize(
    ("cpus", "mask"),
    [
        ([], "0"),
        ([0], "1"),
        (range(8), "ff"),
        ([31], "80000000"),
        ([32], "1,00000000"),
        ([0, 64], "1,00000000,00000001"),
    ],
)
def test_cpu_mask__as_the_kernel_writes_it(cpus: list[int], mask: str) -> None:
    assert knobs.cpu_mask(cpus) == mask


@pytest.mark.parametrize(
    ("wanted", "have", "equal"),
    [
        ("1024 65535", "1024\t65535", True),
        ("ff", "00ff", True),
        ("0", "00000000,00000000", True),
        ("1,00000000", "00000001,00000000", True),
        ("ff", "0f", False),
        ("1", "", False),
        ("cubic", "reno", False),
    ],
)
def test_same__ignores_what_does_not_matter(wanted: str, have: str, equal: bool) -> None:
    assert tune.same(wanted, have) is equal


def test_settings__queues_by_mode() -> None:
    queues = [f"/q/{kind}-{n}" for kind in ("rx", "tx") for n in range(2)]
    machine = Machine(queues=tuple(queues))
    on = knobs.settings(Tuning("eth0", "all", "one-to-one"), machine, cores=4)
    assert on == {
        "/q/rx-0/rps_cpus": "f",
        "/q/rx-1/rps_cpus": "f",
        "/q/tx-0/xps_cpus": "1",
        "/q/tx-1/xps_cpus": "2",
    }
    off = knobs.settings(Tuning("eth0", "off", "leave"), machine, cores=4)
    assert off == {"/q/rx-0/rps_cpus": "0", "/q/rx-1/rps_cpus": "0"}


def test_settings__packets_on_fewer_cpus_than_serve() -> None:
    machine = Machine(queues=("/q/rx-0", "/q/tx-0", "/q/tx-1"), irqs=(30, 31), cpus=(0, 2, 4, 6))
    by_rps = Tuning("eth0", "all", "one-to-one", irq="one-to-one")
    settings = knobs.settings(by_rps, machine, cores=4, receiving=2)
    assert list(settings.values()) == ["5", "1", "4", "1", "4"]
    by_card = Tuning("eth0", rss="equal")
    assert knobs.settings(by_card, machine, 4, 2) == {"ethtool -X eth0": "equal 2"}


def test_settings__the_cpus_that_are_on_line() -> None:
    """One thread of each core: not 0 to n - 1."""
    machine = Machine(queues=("/q/rx-0", "/q/tx-0", "/q/tx-1"), irqs=(30, 31), cpus=(0, 2, 4, 6))
    tuning = Tuning("eth0", "all", "one-to-one", irq="one-to-one")
    assert list(knobs.settings(tuning, machine, cores=4).values()) == ["55", "1", "4", "1", "4"]
    assert list(knobs.settings(tuning, machine, cores=1).values()) == ["1", "1", "1", "1", "1"]


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", (0, 1, 2, 3, 8)), ("0", (0,)), ("", ()), ("0,2,4", (0, 2, 4))]
)
def test_cpus_in__as_the_kernel_writes_it(text: str, cpus: tuple[int, ...]) -> None:
    assert knobs.cpus_in(text) == cpus


def test_discover__no_hyperthreads_to_switch(machine: Path) -> None:
    (machine / "sys/devices/system/cpu/smt/control").write_text("notsupported\n")
    assert knobs.discover(LocalHost(), FULL).smt == ""


def test_sysctl_path() -> None:
    assert knobs.sysctl_path("net.ipv4.tcp_tw_reuse") == "/proc/sys/net/ipv4/tcp_tw_reuse"


def test_apply__sets_reads_back_and_restores(machine: Path) -> None:
    applied = tune.apply(LocalHost(), TUNING, cores=2)
    assert (machine / "net/somaxconn").read_text() == "65535\n"
    assert applied.read_back()[str(machine / "net/range")] == "1024 65535"
    assert (machine / "queues/rx-1/rps_cpus").read_text() == "3\n"
    applied.restore()
    assert (machine / "net/somaxconn").read_text() == "4096\n"
    assert (machine / "net/range").read_text().split() == ["32768", "60999"]
    assert (machine / "queues/tx-1/xps_cpus").read_text() == "00\n"


def test_apply__what_does_not_hold_is_named_and_all_undone(machine: Path) -> None:
    (machine / "net/range").unlink()
    (machine / "net/range").symlink_to("/proc/version")  # read-only, even for root
    with pytest.raises(TestbedError, match=r"net/range could not be set to '1024 65535'") as error:
        tune.apply(LocalHost("server"), TUNING, cores=2)
    assert "server" in error.value.message
    assert error.value.hint
    assert (machine / "net/somaxconn").read_text() == "4096\n"


def test_apply__missing_file_is_said_to_be_missing(machine: Path) -> None:
    with pytest.raises(TestbedError, match="there is no such file"):
        tune.apply(LocalHost(), Tuning(sysctl={"no.such.knob/x": "1"}), cores=2)


def test_apply__nothing_to_do(machine: Path) -> None:
    assert tune.apply(LocalHost(), Tuning(), cores=2).values == {}


FULL = Tuning(
    interface="eth0",
    irq="one-to-one",
    queues="cores",
    rss="equal",
    governor="performance",
    turbo="off",
    smt="off",
    stop_services=("irqbalance", "not-there"),
    coalesce={"adaptive-rx": "off", "rx-usecs": "20"},
    offloads={"generic-receive-offload": "off"},
)


def state(machine: Path, commands: Path) -> dict[str, str]:
    """Everything that FULL is about."""
    files = [
        *sorted((machine / "proc/irq").glob("*/smp_affinity")),
        *sorted((machine / "sys/devices/system/cpu").rglob("scaling_governor")),
        machine / "sys/devices/system/cpu/intel_pstate/no_turbo",
        machine / "sys/devices/system/cpu/smt/control",
        commands / "ethtool.state",
        commands / "irqbalance.service",
    ]
    return {str(path.relative_to(machine)): path.read_text() for path in files}


def test_discover__queues_interrupts_and_cpus(machine: Path) -> None:
    found = knobs.discover(LocalHost(), FULL)
    assert [queue.rpartition("/")[2] for queue in found.queues] == ["rx-0", "rx-1", "tx-0", "tx-1"]
    # In the order of the queues; the card's own interrupt has none.
    assert found.irqs == (32, 31)
    assert len(found.governors) == 2
    assert found.turbo.endswith("no_turbo")
    assert found.cpus == (0, 1)
    assert [path.rpartition("cpu/")[2] for path in found.online] == ["cpu1/online"]


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("eth1-TxRx-3", True),
        ("mlx5_comp3@pci:0000:01:00.0", True),
        ("virtio1-input.0", True),
        ("mlx5_async@pci:0000:01:00.0", False),
        ("eth1", False),
        ("virtio1-config", False),
    ],
)
def test_parse_discovery__interrupts_of_queues(name: str, queue: bool) -> None:
    assert bool(knobs.parse_discovery(f"irq 40\nname 40 {name}\n", "eth1").irqs) is queue


def test_apply__a_whole_machine_and_back(machine: Path, commands: Path) -> None:
    before = state(machine, commands)
    memory = machine / "run/restore.json"
    applied = tune.apply(LocalHost(), FULL, cores=2, memory=str(memory))
    now = state(machine, commands)
    assert now["proc/irq/32/smp_affinity"] == "1\n"
    assert now["proc/irq/31/smp_affinity"] == "2\n"
    assert now["proc/irq/30/smp_affinity"] == before["proc/irq/30/smp_affinity"]
    assert (
        now["bin/ethtool.state"] == "adaptive-rx=off\nrx-usecs=20\ngro=off\nqueues=2\nrss=equal 2\n"
    )
    assert now["bin/irqbalance.service"] == "inactive\n"
    cpus = "sys/devices/system/cpu"
    assert now[f"{cpus}/cpu1/cpufreq/scaling_governor"] == "performance\n"
    assert now[f"{cpus}/intel_pstate/no_turbo"] == "1\n"
    assert now[f"{cpus}/smt/control"] == "off\n"
    assert memory.exists()
    kept = tune.in_force(LocalHost(), FULL, 2)
    assert kept["ethtool -X eth0"] == "equal 2"
    # By queue: its interrupt may have another number after the next boot.
    assert kept["interrupt of eth0's queue 1: affinity"] == "2"
    assert not [name for name in kept if "/irq/" in name]
    applied.restore()
    assert state(machine, commands) == before
    assert not memory.exists()


def test_read_back__what_a_card_has_not(machine: Path, commands: Path) -> None:
    kept = commands / "ethtool.state"
    kept.write_text(kept.read_text().replace("queues=63", "queues=n/a"))
    knob = "ethtool -L eth0 combined"
    assert knob not in tune.read_back(LocalHost(), [knob, "ethtool -C eth0 rx-usecs"])


def test_restore__what_a_crashed_run_left(machine: Path, commands: Path) -> None:
    before = state(machine, commands)
    memory = str(machine / "run/restore.json")
    tune.apply(LocalHost(), FULL, cores=2, memory=memory)
    # An experiment with one core, and then nothing more is heard of it.
    (machine / "sys/devices/system/cpu/cpu1/online").write_text("0\n")
    assert tune.restore(LocalHost(), memory) > 8
    assert state(machine, commands) == before
    assert (machine / "sys/devices/system/cpu/cpu1/online").read_text() == "1\n"
    assert tune.restore(LocalHost(), memory) == 0


def test_apply__the_next_run_puts_back_what_the_last_one_left(
    machine: Path, commands: Path
) -> None:
    before = state(machine, commands)
    memory = str(machine / "run/restore.json")
    tune.apply(LocalHost(), FULL, cores=2, memory=memory)
    tune.apply(LocalHost(), FULL, cores=1, memory=memory).restore()
    assert state(machine, commands) == before


def test_restore__a_file_that_is_not_ours(machine: Path) -> None:
    memory = machine / "restore.json"
    memory.write_text("[1, 2\n")
    with pytest.raises(TestbedError, match=r"restore\.json") as error:
        tune.restore(LocalHost(), str(memory))
    assert "reboot" in error.value.hint
