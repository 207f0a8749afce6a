# SPDX-License-Identifier: MIT
"""Definitions of testbeds: the shipped ones load, the malformed ones name file and key."""

import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabench import deploy, paths
from megabench.builder import FOLDER
from megabench.cluster import SshTestbed, no_root
from megabench.definition import Table
from megabench.errors import CommandError, DefinitionError, TestbedError
from megabench.host import Completed
from megabench.ssh import SshHost
from megabench.testbed import Testbed, uninterrupted
from megabench.vm import VmTestbed, pinned

TESTBEDS = paths.harness() / "testbeds"
Write = Callable[[str, str, str], Path]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ACCEL", raising=False)
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path / "build"))


@pytest.fixture
def changed(tmp_path: Path) -> Write:
    """A shipped definition with one piece of text replaced."""

    def write(name: str, old: str, new: str) -> Path:
        text = (TESTBEDS / f"{name}.toml").read_text()
        assert old in text
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return write


def test_load__local() -> None:
    testbed = Testbed.load("local")
    assert isinstance(testbed, VmTestbed)
    assert (testbed.name, testbed.kind, testbed.is_virtual) == ("local", "vm", True)
    assert testbed.server_address == "198.18.0.2"
    assert testbed.server_address6 == "fd6d:6567:6170::2"
    assert testbed.cores == 8
    assert testbed.accel is None
    assert testbed.can_scale == (len(os.sched_getaffinity(0)) > 8)
    assert testbed.can_scale == (testbed.why_not_scale == "")


def test_load__cluster_example() -> None:
    testbed = Testbed.load("cluster-example")
    assert (testbed.kind, testbed.is_virtual, testbed.can_scale) == ("ssh", False, True)
    assert isinstance(testbed.server, SshHost)
    assert testbed.server.address == "server.example.net"
    assert [client.name for client in testbed.clients] == ["client1"]
    tunings = testbed.tunings()
    assert [host.name for host, _ in tunings] == ["server", "client1"]
    assert tunings[0][1].interface == "eth1"


def test_load__every_shipped_definition_is_toml_with_its_own_name() -> None:
    for path in TESTBEDS.glob("*.toml"):
        assert tomllib.loads(path.read_text())["testbed"]["name"] == path.stem


def test_load__unknown_name_lists_the_known() -> None:
    with pytest.raises(TestbedError) as error:
        Testbed.load("nowhere")
    assert "nowhere" in error.value.message
    assert "local" in error.value.hint


def test_load__path_of_a_file(changed: Write) -> None:
    path = changed("local", 'name = "local"', 'name = "mine"')
    assert Testbed.load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("name", "old", "new", "key", "problem"),
    [
        ("local", "[server]", "[server", "", "is not TOML"),
        ("local", 'kind = "vm"', 'kind = "cloud"', "testbed.kind", "must be one of vm, ssh"),
        ("local", 'kind = "vm"', "", "testbed.kind", "is missing"),
        ("local", "cores = 8", "cores = 0", "server.cores", "at least 1"),
        ("local", "cores = 8", "cores = true", "server.cores", "whole number"),
        ("local", "cores = 8", 'cores = "8"', "server.cores", "whole number"),
        ("local", "cores = 8", "cores = 8\ncoers = 8", "server.coers", "not known"),
        ("local", "198.18.0.2/24", "198.18.0.2", "server.address", "address/prefix"),
        ("local", "198.18.0.2/24", "198.18.0.999/24", "server.address", "not an IP address"),
        ("local", "198.18.0.1/24", "fd00::1/64", "client.address", "IPv4"),
        ("local", 'accel = "auto"', 'accel = "hax"', "vm.accel", "one of auto, tcg, kvm"),
        ("local", 'rps = "all"', 'rps = "some"', "tune.server.rps", "one of all, off, leave"),
        ("local", '"65535"', "65535", "tune.server.sysctl.net.core.somaxconn", "string"),
        ("local", "[vm]", "[virtual]", "vm", "is missing"),
        ("cluster-example", 'interface = "eth1"', "", "server.interface", "is missing"),
        ("cluster-example", "[[client]]", "[client]", "client", "list of tables"),
        ("cluster-example", 'host = "client1', 'hots = "client1', "client[0].host", "is missing"),
    ],
)
def test_load__malformed(
    changed: Write, name: str, old: str, new: str, key: str, problem: str
) -> None:
    path = changed(name, old, new)
    with pytest.raises(DefinitionError) as error:
        Testbed.load(str(path))
    assert error.value.message.startswith(f"{path}: {key}")
    assert problem in error.value.message


@pytest.mark.parametrize(("accel", "wanted"), [("tcg", "tcg"), ("kvm", "kvm")])
def test_load__accel_from_environment(
    monkeypatch: pytest.MonkeyPatch, accel: str, wanted: str
) -> None:
    monkeypatch.setenv("ACCEL", accel)
    testbed = Testbed.load("local")
    assert isinstance(testbed, VmTestbed)
    assert testbed.machine.accel == wanted


def test_load__unknown_accel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL", "xen")
    with pytest.raises(TestbedError, match="ACCEL=xen"):
        Testbed.load("local")


def test_attach__not_up() -> None:
    with pytest.raises(TestbedError, match="not up"):
        Testbed.load("local").attach()


@pytest.mark.parametrize(
    ("value", "read"),
    [(3, lambda table: table.text("key")), ([], lambda table: table.tables("key"))],
)
def test_table__wrong_type(value: Any, read: Callable[[Table], Any]) -> None:
    with pytest.raises(DefinitionError, match=r"file: part\.key: must be"):
        read(Table(Path("file"), "part", {"key": value}))


def test_uninterrupted__holds_ctrl_c_off() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.usefixtures("eight_cores")
def test_load__one_machine_example() -> None:
    testbed = Testbed.load("one-machine-example")
    assert isinstance(testbed, VmTestbed)
    assert (testbed.kind, testbed.cores, testbed.can_scale) == ("vm", 4, True)
    assert testbed.client_threads == [4]
    assert pinned(testbed.machine.server_host_cores) == ["taskset", "--cpu-list", "0-3"]
    assert pinned("") == []


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"4-7"', '"3-7"', r"client\.host_cores: core 3 is the server's as well"),
        ('"4-7"', '"4-8"', r"client\.host_cores: this machine has no core 8"),
        ('"0-3"', '"all"', r"server\.host_cores: must be a list of cores like 0-3"),
    ],
)
def test_load__host_cores_that_cannot_be(changed: Write, old: str, new: str, problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem):
        Testbed.load(str(changed("one-machine-example", old, new)))


@pytest.mark.usefixtures("eight_cores")
def test_load__fewer_host_cores_than_virtual_ones_cannot_scale(changed: Write) -> None:
    testbed = Testbed.load(str(changed("one-machine-example", '"0-3"', '"0,2"')))
    assert not testbed.can_scale
    assert testbed.why_not_scale == "4 virtual CPUs share 2 host core(s)"


def test_load__cluster_deploys_a_reduced_kernel_unless_told_otherwise(changed: Write) -> None:
    testbed = Testbed.load("cluster-example")
    assert isinstance(testbed, SshTestbed)
    assert (testbed.options.kernel, testbed.options.config) == ("deploy", "reduced")
    assert testbed.wanted[0].kernel
    assert testbed.client_threads == [8]
    assert testbed.server_address6 == ""
    path = changed("cluster-example", 'kernel = "deploy"', 'kernel = "latest"')
    with pytest.raises(DefinitionError, match=r"deploy\.kernel: must be one of deploy, own, any"):
        Testbed.load(str(path))


@pytest.mark.parametrize(
    ("become_root", "status", "tail", "words"),
    [
        (True, 1, "sudo: a password is required", "is not allowed to me: sudo: a password"),
        (True, 127, "sh: 1: sudo: not found", "there is no sudo for me to become root by"),
        (False, 1, "no", "ended with status 1"),
    ],
)
def test_no_root__says_what_is_lacking(
    become_root: bool, status: int, tail: str, words: str
) -> None:
    host = SshHost("server", "server.example.net", user="me", become_root=become_root)
    assert words in no_root(host, CommandError(["true"], status, tail))


def test_load__cluster_with_a_machine_that_builds(changed: Write) -> None:
    plain = Testbed.load("cluster-example")
    assert isinstance(plain, SshTestbed)
    assert plain.builder is None
    part = '[builder]\nhost = "builder.example.net"\nuser = "me"\n[[client]]'
    other = Testbed.load(str(changed("cluster-example", "[[client]]", part)))
    assert isinstance(other, SshTestbed)
    assert other.builder is not None
    assert (other.builder.name, other.builder.user) == ("builder", "me")
    path = changed("cluster-example", "[[client]]", part.replace("host", "hots"))
    with pytest.raises(DefinitionError, match=r"builder\.host: is missing"):
        Testbed.load(str(path))


class Rebooting:
    """A host of which only the boot is known; it may not answer at first, or not at all."""

    def __init__(self, name: str) -> None:
        self.name, self.boot, self.failures = name, "one\n", 0

    def read_text(self, path: str) -> str:
        if self.failures:
            self.failures -= 1
            raise TestbedError("no SSH to it: Unable to connect\nmore")
        return self.boot

    def run(self, argv: Any, **given: Any) -> Completed:
        return Completed(list(argv), 0, "6.12-megapipe #1 SMP\n", "")

    def close(self) -> None:
        pass


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SshTestbed:
    """cluster-example, come up on machines that are not there."""
    bed = Testbed.load("cluster-example")
    assert isinstance(bed, SshTestbed)
    bed.ssh_hosts = [Rebooting("server"), Rebooting("client1")]  # type: ignore[list-item]
    monkeypatch.setattr(bed, "bring_kernel", lambda: None)
    monkeypatch.setattr(bed, "tune", list)
    bed.up()
    return bed


def test_remove__on_the_machine_that_built_too(
    cluster: SshTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    builder = Rebooting("builder")
    monkeypatch.setattr(builder, "run", lambda argv, **given: asked.append(list(argv)))
    monkeypatch.setattr(deploy, "remove", lambda host, seconds, say: True)
    cluster.remove()
    cluster.builder = builder  # type: ignore[assignment]
    cluster.remove()
    assert asked == [["rm", "-rf", "--", FOLDER]]


def test_gone__all_are_there(cluster: SshTestbed) -> None:
    assert cluster.gone() == ""
    cluster.ssh_hosts[0].failures = 1  # type: ignore[attr-defined]
    assert cluster.gone() == ""


def test_gone__one_does_not_answer(cluster: SshTestbed) -> None:
    cluster.ssh_hosts[1].failures = 2  # type: ignore[attr-defined]
    assert cluster.gone() == "client1 does not answer: no SSH to it: Unable to connect"


@pytest.mark.parametrize("which", [0, 1])
def test_gone__rebooted_into_the_same_kernel(cluster: SshTestbed, which: int) -> None:
    """Its settings went with the reboot, so what it measures now is something else."""
    host = cluster.ssh_hosts[which]
    host.boot = "two\n"  # type: ignore[attr-defined]
    assert cluster.gone() == (
        f"{host.name} has been rebooted, into 6.12-megapipe: its settings are gone"
    )
