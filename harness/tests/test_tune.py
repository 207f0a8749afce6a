# SPDX-License-Identifier: MIT
"""Tuning, on files of our own in place of /proc/sys and /sys."""

from pathlib import Path

import pytest

from megabench import tune
from megabench.errors import TestbedError
from megabench.host import LocalHost
from megabench.tune import Tuning


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sysctls and a card of two queues."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/somaxconn").write_text("4096\n")
    (tmp_path / "net/range").write_text("32768\t60999\n")
    for queue in ("rx-0", "rx-1", "tx-0", "tx-1"):
        (tmp_path / "queues" / queue).mkdir(parents=True)
        name = "rps_cpus" if queue.startswith("rx") else "xps_cpus"
        (tmp_path / "queues" / queue / name).write_text("00\n")
    monkeypatch.setattr(tune, "sysctl_path", lambda name: str(tmp_path / name.replace(".", "/")))
    monkeypatch.setattr(tune, "QUEUES", f"ls -d {tmp_path}/queues/*")
    return tmp_path


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
    assert tune.cpu_mask(cpus) == mask


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
    on = tune.settings(Tuning("eth0", "all", "one-to-one"), queues, cores=4)
    assert on == {
        "/q/rx-0/rps_cpus": "f",
        "/q/rx-1/rps_cpus": "f",
        "/q/tx-0/xps_cpus": "1",
        "/q/tx-1/xps_cpus": "2",
    }
    off = tune.settings(Tuning("eth0", "off", "leave"), queues, cores=4)
    assert off == {"/q/rx-0/rps_cpus": "0", "/q/rx-1/rps_cpus": "0"}


def test_sysctl_path() -> None:
    assert tune.sysctl_path("net.ipv4.tcp_tw_reuse") == "/proc/sys/net/ipv4/tcp_tw_reuse"


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
