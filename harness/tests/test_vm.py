# SPDX-License-Identifier: MIT
"""The local testbed. Most of it without a VM: a shell stands in for the emulator.

up:  image? -> sshd -> token -> accel -> namespace -> tap -> guest files -> VM -> SSH -> tuning
     a Ctrl-C or a failure after any of these must leave nothing
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megabench import cores, namespace, paths, vm
from megabench.errors import TestbedError
from megabench.guest import SSHD_CONFIG, console_tail, find_sshd, make_key, write_guest
from megabench.host import LocalHost, wait_until
from megabench.namespace import Namespace
from megabench.state import TOKEN, State, processes_with
from megabench.testbed import Testbed
from megabench.vm import Machine, VmTestbed, plugin_options, virtme_argv

MACHINE = Machine(
    cores=2,
    memory_mib=512,
    address="198.18.0.2/24",
    address6="fd00::2/64",
    client_address="198.18.0.1/24",
    client_address6="fd00::1/64",
    kernel="vm",
    accel="tcg",
    count_instructions=True,
    boot_timeout_s=5,
)


class OpenNamespace(Namespace):
    """No namespace at all: commands run where we are."""

    def argv(self, argv: Any) -> list[str]:
        return list(argv)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """A checkout with a kernel, and a shell script in place of the emulator."""
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("ACCEL", raising=False)
    image = tmp_path / "build/kernel-vm/arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    sshd = tmp_path / "build/guest/usr/sbin/sshd"
    sshd.parent.mkdir(parents=True)
    sshd.write_bytes(b"")

    def hold(environment: dict[str, str]) -> Namespace:
        holder = subprocess.Popen(
            ["sleep", "600"], env={**os.environ, **environment}, start_new_session=True
        )
        return OpenNamespace(holder.pid, False)

    def use(script: str) -> None:
        argv = ["sh", "-c", script]
        monkeypatch.setattr(vm, "virtme_argv", lambda *_: argv)

    monkeypatch.setattr(vm, "hold", hold)
    monkeypatch.setattr(VmTestbed, "_make_network", lambda *_: None)
    monkeypatch.setattr(VmTestbed, "_connect", lambda self: setattr(self, "server", LocalHost()))
    monkeypatch.setattr(VmTestbed, "tune", lambda self: [])
    use("echo 'Server listening on 0.0.0.0' >&2; exec sleep 600")
    return use


def load() -> VmTestbed:
    testbed = Testbed.load("local")
    assert isinstance(testbed, VmTestbed)
    testbed.machine = MACHINE
    return testbed


def leftovers(testbed: VmTestbed, token: str) -> list[object]:
    directory = testbed.state.file.parent
    files: list[object] = list(directory.iterdir()) if directory.exists() else []
    return files + list(processes_with(token))


# What is handed to the emulator


def test_virtme_argv__boots_our_kernel_under_tcg() -> None:
    argv = virtme_argv(Path("/b z/Image"), MACHINE, "tcg", "exec sh 'x y'", ["-device", "d"])
    assert argv[argv.index("--kimg") + 1] == "/b z/Image"
    assert argv[argv.index("--cpus") + 1] == "2"
    assert argv[argv.index("--script-sh") + 1] == "exec sh 'x y'"
    assert "--disable-kvm" in argv
    assert "nokaslr" in argv
    assert argv[-3:] == ["--qemu-opts", "-device", "d"]


def test_virtme_argv__kvm() -> None:
    assert "--disable-kvm" not in virtme_argv(Path("i"), MACHINE, "kvm", "true", [])


def test_network_options__a_queue_for_each_cpu_and_no_rss() -> None:
    options = " ".join(vm.network_options(8))
    assert "queues=8" in options
    assert "vectors=18" in options
    assert "vhost=off" in options
    assert "rss" not in options


def test_plugin_options__commas_in_paths() -> None:
    options = plugin_options(Path("/a,b/p.so"), Path("/s/out"), Path("/k/System.map"))
    assert options == ["-plugin", "/a,,b/p.so,out=/s/out,map=/k/System.map"]


# The guest's side


def test_make_key__loads_as_an_ssh_key(tmp_path: Path) -> None:
    import paramiko

    key = make_key()
    (tmp_path / "key").write_bytes(key.private)
    loaded = paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "key"))
    assert key.public.split()[1] == loaded.get_base64()


def test_write_guest__keys_are_private_and_the_script_is_shell(tmp_path: Path) -> None:
    command = write_guest(
        tmp_path / "a b",
        sshd=Path("/x y/usr/sbin/sshd"),
        address="198.18.0.2/24",
        address6="fd00::2/64",
        host_key=make_key(),
        user_key=make_key(),
    )
    assert command == f"exec /bin/sh '{tmp_path}/a b/guest.sh'"
    for name in ("host_key", "user_key"):
        assert (tmp_path / "a b/ssh" / name).stat().st_mode & 0o777 == 0o600
    script = tmp_path / "a b/guest.sh"
    LocalHost().run(["sh", "-n", str(script)], timeout=10)
    assert "'/x y/usr/sbin/sshd'" in script.read_text()
    assert "PasswordAuthentication no" in SSHD_CONFIG


def test_find_sshd__neither_fetched_nor_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(TestbedError, match="no SSH server") as error:
        find_sshd(tmp_path / "guest")
    assert "openssh-server" in error.value.hint


def test_console_tail__of_nothing(tmp_path: Path) -> None:
    assert console_tail(tmp_path / "none") == "(the console said nothing)"


# Coming up and going down


def test_up__then_down_leaves_nothing(emulator: Callable[[str], None]) -> None:
    testbed = load()
    testbed.up()
    token = testbed.state.values["token"]
    assert testbed.is_up()
    assert load().is_up()  # for another command too
    assert len(processes_with(token)) == 2
    testbed.up()  # idempotent
    assert len(processes_with(token)) == 2
    load().down()
    assert leftovers(testbed, token) == []
    assert not testbed.is_up()
    testbed.down()


def test_up__no_kernel_says_how_to_build_it(emulator: Callable[[str], None]) -> None:
    testbed = load()
    testbed.image.unlink()
    with pytest.raises(TestbedError, match="no kernel at") as error:
        testbed.up()
    assert "make -C kernel-patch build CONFIG=vm" in error.value.hint


def test_up__guest_that_panics_shows_its_console(emulator: Callable[[str], None]) -> None:
    emulator("seq 100 >&2; echo 'Kernel panic - not syncing: no init' >&2; exit 1")
    testbed = load()
    with pytest.raises(TestbedError) as error:
        testbed.up()
    lines = error.value.message.splitlines()
    assert "the virtual machine ended" in lines[0]
    assert lines[-1] == "Kernel panic - not syncing: no init"
    assert len(lines) == 21
    assert not list(testbed.state.file.parent.iterdir())


def test_up__guest_that_hangs_shows_its_console(
    emulator: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator("echo 'waiting for root device' >&2; exec sleep 600")
    testbed = load()
    testbed.machine = Machine(**{**MACHINE.__dict__, "boot_timeout_s": 1})
    with pytest.raises(TestbedError, match="was not up in 1 s") as error:
        testbed.up()
    assert "waiting for root device" in error.value.message
    assert not list(testbed.state.file.parent.iterdir())


STAGES = [
    (vm, "find_sshd"),
    (VmTestbed, "_choose_accel"),
    (vm, "hold"),
    (VmTestbed, "_make_network"),
    (vm, "write_guest"),
    (VmTestbed, "_start"),
    (VmTestbed, "_await_guest"),
    (VmTestbed, "_connect"),
    (VmTestbed, "tune"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "stage"), STAGES, ids=[stage for _, stage in STAGES])
def test_up__ctrl_c_at_every_stage_leaves_nothing(
    emulator: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    stage: str,
    when: str,
) -> None:
    step = getattr(owner, stage)
    tokens: list[str] = []
    testbed = load()

    def interrupted(*args: Any, **options: Any) -> Any:
        tokens.append(testbed.state.values.get("token", "none"))
        if when == "after":
            step(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        testbed.up()
    assert tokens
    assert leftovers(testbed, tokens[0]) == []


def test_up__clears_what_a_crashed_run_left(emulator: Callable[[str], None]) -> None:
    crashed = State(paths.build() / "state", "local")
    crashed.begin()
    (crashed.directory / "console.log").write_text("old")
    token = crashed.values["token"]
    orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, TOKEN: token})
    testbed = load()
    testbed.up()
    orphan.wait(5)
    assert processes_with(token) == []
    assert testbed.state.values["token"] != token
    testbed.down()
    assert leftovers(testbed, token) == []


def test_up__while_another_command_is_at_it(emulator: Callable[[str], None]) -> None:
    testbed = load()
    with State(paths.build() / "state", "local").locked():
        with pytest.raises(TestbedError, match="another command"):
            testbed.up()
        with pytest.raises(TestbedError, match="another command"):
            testbed.down()


# KVM


@pytest.fixture
def kvm(emulator: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> VmTestbed:
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(vm, "TRIAL_DEADLINE_S", 2.0)
    testbed = load()
    testbed.machine = Machine(**{**MACHINE.__dict__, "accel": "auto"})
    testbed.state.begin()
    return testbed


TRIALS = {
    "works": ("echo 'Hypervisor detected: KVM' >&2; echo 'megabench: trial guest ran' >&2", "kvm"),
    "falls back to emulation": ("echo 'megabench: trial guest ran' >&2", "tcg"),
    "dies": ("echo 'KVM internal error. Suberror: 1 emulation failure' >&2; exit 1", "tcg"),
    "hangs": ("exec sleep 600", "tcg"),
}


@pytest.mark.parametrize(("script", "accel"), TRIALS.values(), ids=TRIALS)
def test_choose_accel__by_a_trial_guest(
    kvm: VmTestbed,
    emulator: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    script: str,
    accel: str,
) -> None:
    emulator(script)
    assert kvm._choose_accel() == accel
    said = capsys.readouterr().err
    assert "trying KVM" in said
    assert ("the guest is emulated" in said) == (accel == "tcg")
    emulator("exit 1")  # not tried again
    assert kvm._choose_accel() == accel
    assert "trying KVM" not in capsys.readouterr().err
    assert processes_with(kvm.state.values["token"]) == []


def test_choose_accel__kvm_demanded_but_lying(
    kvm: VmTestbed, emulator: Callable[[str], None]
) -> None:
    emulator("echo 'emulation failure' >&2; exit 1")
    kvm.machine = Machine(**{**MACHINE.__dict__, "accel": "kvm"})
    with pytest.raises(TestbedError, match=r"KVM does not work here.*emulation failure") as error:
        kvm._choose_accel()
    assert "ACCEL=tcg" in error.value.hint


def test_choose_accel__no_permission(kvm: VmTestbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "/dev/kvm" in kvm._kvm_problem()


# Namespaces


def as_user(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(namespace, "TUN", Path("/dev/null"))
    monkeypatch.setattr(namespace, "user_namespaces_problem", lambda: problem)


def test_hold__no_permission_for_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, "unshare: Operation not permitted")
    with pytest.raises(TestbedError, match="user namespaces for ordinary users") as error:
        namespace.hold({})
    assert "Operation not permitted" in error.value.message
    assert "run as root" in error.value.hint


def test_hold__no_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "TUN", Path("/no/such/tun"))
    with pytest.raises(TestbedError, match=r"/no/such/tun .*modprobe tun"):
        namespace.hold({})


def test_hold__no_permission_for_tun(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, "")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TestbedError, match="permission to open"):
        namespace.hold({})


def test_hold__tools_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace.shutil, "which", lambda _: None)
    with pytest.raises(TestbedError, match=r"command nsenter \(Debian package util-linux\)"):
        namespace.hold({})


def test_missing__nothing_for_a_user_with_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, "")
    assert namespace.missing() == []


# For real
#
#    this process --SSH through the tap--> guest
#    client, in the namespace 198.18.0.1 --tap mb0--> 198.18.0.2 eth0, guest


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmTestbed]:
    text = (paths.harness() / "testbeds/local.toml").read_text()
    path = tmp_path_factory.mktemp("testbed") / "test-vm.toml"
    path.write_text(text.replace('name = "local"', 'name = "test-vm"'))
    testbed = Testbed.load(str(path), accel="tcg")
    assert isinstance(testbed, VmTestbed)
    testbed.up()
    yield testbed
    testbed.down()


ECHO = """
import socket, sys
listener = socket.create_server(("::", 7777), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
for _ in range(2):
    peer = listener.accept()[0]
    peer.sendall(peer.recv(64))
    peer.close()
"""
CALL = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7777), 20)
s.sendall(b"hello")
print(s.recv(64).decode())
"""


@pytest.mark.vm
def test_real__server_in_the_guest_client_in_the_namespace(real: VmTestbed, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    real.server.put(tmp_path / "echo.py", "/run/megabench/bin/echo.py", mode=0o644)
    server = real.server.start(
        ["python3", "/run/megabench/bin/echo.py"], log=tmp_path / "server.log"
    )
    assert server.readline(60) == "ready"
    for address in (real.server_address, real.server_address6):
        called = real.clients[0].run([sys.executable, "-c", CALL, address], timeout=60)
        assert called.stdout == "hello\n"
    assert server.wait(60) == 0


@pytest.mark.vm
def test_real__shell_logs_in(real: VmTestbed) -> None:
    shell = LocalHost().run([*real.shell_argv(), "echo $HOME; id -u"], timeout=60)
    assert shell.stdout == "/run/megabench/home\n0\n"


@pytest.mark.vm
def test_real__facts_are_read_back(real: VmTestbed) -> None:
    facts = real.facts()
    assert facts["accel"] == "tcg"
    assert facts["server"]["cpus"] == real.cores
    assert facts["server"]["release"].endswith("-megapipe-vm")
    assert facts["server"]["drivers"] == {"eth0": "virtio_net"}
    assert facts["server"]["config_sha256"]
    queues = f"/sys/class/net/eth0/queues/rx-{real.cores - 1}/rps_cpus"
    assert int(facts["tuning"]["server"][queues], 16) == (1 << real.cores) - 1
    assert facts["tuning"]["client"]["/proc/sys/net/ipv4/tcp_tw_reuse"] == "1"
    assert str(paths.root()) not in str(facts)


@pytest.mark.vm
def test_real__confined_to_two_cores_and_back(real: VmTestbed) -> None:
    """The others are off line, and packets are spread over the two alone."""
    online = "/sys/devices/system/cpu/online"
    mask = "/sys/class/net/eth0/queues/rx-0/rps_cpus"
    try:
        cores.confine(real, 2, 2)
        assert real.server.read_text(online) == "0-1\n"
        assert int(real.server.read_text(mask), 16) == 0b11
    finally:
        cores.confine(real, real.cores, real.cores)
    assert real.server.read_text(online) == f"0-{real.cores - 1}\n"
    assert int(real.server.read_text(mask), 16) == (1 << real.cores) - 1


@pytest.mark.vm
def test_real__files_come_back_and_root_is_not_writable(real: VmTestbed, tmp_path: Path) -> None:
    real.server.get("/proc/sys/kernel/osrelease", tmp_path / "osrelease")
    real.server.run(["sh", "-c", "echo x >/etc/megabench-test"], timeout=60)
    assert not Path("/etc/megabench-test").exists()
    assert real.server.run(["touch", "/usr/x"], timeout=60, check=False).exit_status == 1


@pytest.mark.vm
def test_real__signals_and_deadlines_over_ssh(real: VmTestbed, tmp_path: Path) -> None:
    script = "trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.2; done"
    process = real.server.start(["sh", "-c", script], log=tmp_path / "log")
    assert process.readline(60) == "ready"
    process.signal("USR1")
    assert process.readline(60) == "got"
    assert process.wait(60) == 7
    sleeper = real.server.start(["sleep", "600"], log=tmp_path / "log")
    sleeper.kill()
    assert sleeper.wait(60) >= 128
    assert real.server.run(["pidof", "sleep"], timeout=60, check=False).exit_status == 1


@pytest.mark.vm
def test_real__guest_without_a_root_shows_its_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "KERNEL_OPTIONS", ("rootfstype=tmpfs", "init=/nothing"))
    testbed = Testbed.load("local", accel="tcg")
    assert isinstance(testbed, VmTestbed)
    testbed.state = State(paths.build() / "state", "test-panic")
    with pytest.raises(TestbedError, match="virtual machine ended") as error:
        testbed.up()
    assert "Kernel panic" in error.value.message
    assert not testbed.state.file.exists()
    assert not testbed.state.directory.exists()


UP = """
import sys
from megabench.testbed import Testbed
Testbed.load(sys.argv[1], accel="tcg").up()
"""


@pytest.mark.vm
@pytest.mark.parametrize("moment", ["booting", "Linux version", "Server listening"])
def test_real__ctrl_c_while_coming_up_leaves_nothing(tmp_path: Path, moment: str) -> None:
    text = (paths.harness() / "testbeds/local.toml").read_text()
    path = tmp_path / "test-ctrl-c.toml"
    path.write_text(text.replace('name = "local"', 'name = "test-ctrl-c"'))
    state = State(paths.build() / "state", "test-ctrl-c")
    Testbed.load(str(path)).down()  # of a test that failed
    said = tmp_path / "said"
    with said.open("wb") as out:
        up = subprocess.Popen(
            [sys.executable, "-c", UP, str(path)], stderr=out, cwd=paths.harness()
        )
    console = state.directory / "console.log"
    reached = wait_until(
        lambda: any(moment in vm.read_log(log) for log in (said, console)),
        timeout=120,
        every=0.02,
    )
    assert reached
    assert state.load()
    up.send_signal(signal.SIGINT)
    assert up.wait(60) != 0
    assert processes_with(state.values["token"]) == []
    assert not [file for file in state.file.parent.iterdir() if file.name.startswith("test-ctrl-c")]
