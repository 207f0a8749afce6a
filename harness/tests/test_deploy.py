# SPDX-License-Identifier: MIT
"""The kernel on a server: what is read of packages and GRUB; and, slowly, all of it for real.

    hub: megabench deploy ── SSH ──> server: a virtual machine with a disk of its own, on it
                                     Debian, Debian's kernel, GRUB
    client1, client2: namespaces (lab.py)

The slow part runs in `make test-deploy`, or with TEST_DEPLOY=1. It builds the kernel from the
server's own configuration; TEST_DEPLOY=/folder takes the packages in there instead.
"""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import disk_image
import lab
import pytest
from fakes import NEVER_ENDS, Answers, make_checkout, script_says
from test_lab import EXPERIMENT

from megabench import builder, deploy, paths
from megabench.errors import CommandError, CommandTimeoutError, TestbedError
from megabench.host import LocalHost, wait_until
from megabench.state import start_time

GRUB = """\
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
fi
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-cf6a' {
	linux	/boot/vmlinuz-6.12.117-megapipe root=UUID=cf6a ro
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-cf6a' {
	menuentry 'with 6.12' --class os $menuentry_id_option 'gnulinux-6.12.117-megapipe-advanced-cf6a' {
		linux	/boot/vmlinuz-6.12.117-megapipe root=UUID=cf6a ro
	}
	menuentry 'with 6.12 (sysvinit)' $menuentry_id_option 'gnulinux-6.12.117-megapipe-init-sysvinit-cf6a' {
		linux	/boot/vmlinuz-6.12.117-megapipe root=UUID=cf6a ro init=/lib/sysvinit/init
	}
	menuentry 'with 6.12 (recovery)' $menuentry_id_option 'gnulinux-6.12.117-megapipe-recovery-cf6a' {
		linux	/boot/vmlinuz-6.12.117-megapipe root=UUID=cf6a ro single
	}
	menuentry 'with 6.1' --class os $menuentry_id_option 'gnulinux-6.1.0-50-amd64-advanced-cf6a' {
		linux	/vmlinuz-6.1.0-50-amd64 root=UUID=cf6a ro
	}
}
"""  # noqa: E501 - as GRUB writes it


def test_menu_entries__each_kernel_by_its_own_name() -> None:
    assert deploy.menu_entries(GRUB) == {
        "6.12.117-megapipe": "gnulinux-6.12.117-megapipe-advanced-cf6a",
        "6.1.0-50-amd64": "gnulinux-6.1.0-50-amd64-advanced-cf6a",
    }


def test_image_banner__as_the_boot_protocol_has_it() -> None:
    banner = b"6.12.117-megapipe (megapipe@megapipe) #1 SMP PREEMPT_DYNAMIC @0\0"
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x100)
    image[0x300 : 0x300 + len(banner)] = banner
    assert deploy.image_banner(bytes(image)) == banner[:-1].decode()
    assert deploy.version_of(banner[:-1].decode()) == "#1 SMP PREEMPT_DYNAMIC @0"
    assert deploy.image_banner(b"no kernel") == ""


def test_find_package__the_newest_image_without_its_symbols(tmp_path: Path) -> None:
    assert deploy.find_package(tmp_path) is None
    names = ("6.12.1_1", "6.12.2_1", "6.12.2-dbg_1")
    for number, name in enumerate([*(f"linux-image-{one}_amd64.deb" for one in names), "x.deb"]):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (number, number))
    found = deploy.find_package(tmp_path)
    assert found is not None
    assert found.name == "linux-image-6.12.2_1_amd64.deb"


def test_read_package__what_is_no_kernel(tmp_path: Path) -> None:
    package = tmp_path / "linux-image-6.12.2_1_amd64.deb"
    package.write_text("nothing")
    with pytest.raises(TestbedError, match=r"holds no kernel 6\.12\.2"):
        deploy.read_package(package)


def test_read_package__one_that_cannot_be_read_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "linux-image-6.12.2_1_amd64.deb"
    os.mkfifo(package)
    monkeypatch.setattr(deploy, "COMMAND_S", 0.5)
    with pytest.raises(TestbedError, match=r"was not read in 0\.5 s"):
        deploy.read_package(package)


# Building, by a script that stands in for scripts/server-kernel.sh


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEGABENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path / "build"))
    return make_checkout(tmp_path)


def built(checkout: Path) -> deploy.Kernel:
    host = Answers(config="CONFIG_NET=y\n")
    return deploy.build("lab", host, deploy.Options(), "6.1", lambda text: None)


def test_build__one_that_takes_too_long_is_ended_whole(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_says(checkout, NEVER_ENDS)
    monkeypatch.setattr(builder, "BUILD_S", 1.0)
    with pytest.raises(CommandTimeoutError, match="has not ended after") as caught:
        built(checkout)
    assert "the last word" in caught.value.message
    child = int((checkout / "build/deploy/lab/child").read_text())
    assert wait_until(lambda: start_time(child) is None, timeout=10)


def test_build__a_failure_names_its_log(checkout: Path) -> None:
    script_says(checkout, "echo no space left; exit 2\n")
    with pytest.raises(CommandError, match="no space left") as caught:
        built(checkout)
    assert "build.log" in caught.value.hint


def test_build__again_only_when_something_has_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_says(checkout, 'echo x >>"$1/count"; : >"$1/linux-image-6.12_1_amd64.deb"\n')
    monkeypatch.setattr(deploy, "read_package", lambda package: KERNEL)
    count = checkout / "build/deploy/lab/count"

    def builds() -> int:
        built(checkout)
        return len(count.read_text().splitlines())

    assert builds() == 1
    assert builds() == 1
    noted = checkout / "build/cache/linux-source.json"
    noted.write_text('{"version": "6.12.118", "path": "/somewhere"}')
    assert builds() == 2
    noted.write_text('{"version": "6.12.118", "path": "/elsewhere"}')
    assert builds() == 2
    for expected, name in enumerate(deploy.SOURCES, start=3):
        path = checkout / name
        path = path / "file" if path.is_dir() else path
        path.write_text(path.read_text() + "\n# changed\n")
        assert builds() == expected, name


def test_builder__what_is_lacking_here_until_the_packages_are_built(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = checkout / "scripts/packages.sh"
    packages.write_text(
        "#!/bin/sh\n[ $1 = missing ] && printf 'rsync\\tthe same\\nflex\\tparser\\n'\n"
    )
    packages.chmod(0o755)
    here = deploy.builder_of("lab", LocalHost())
    assert here is not None
    assert here.lacking == ("flex", "rsync")
    assert (here.free_mb > 0, here.used_mb) == (True, 0)
    script_says(checkout, ': >"$1/linux-image-6.12_1_amd64.deb"\n')
    monkeypatch.setattr(deploy, "read_package", lambda package: KERNEL)
    built(checkout)
    assert deploy.builder_of("lab", LocalHost()) is None
    script_says(checkout, "# another\n")
    assert deploy.builder_of("lab", LocalHost()) is not None


KERNEL = deploy.Kernel(Path("x"), "6.12-megapipe", "6.12-megapipe (m@m) #3 SMP @0")


@pytest.mark.parametrize(
    ("uname", "config", "words"),
    [
        ("6.1 #1 SMP Debian", "", "is back on 6.1: 6.12-megapipe did not come up"),
        ("6.12-megapipe #2 SMP @0", "", "not 6.12-megapipe"),
        ("6.12-megapipe #3 SMP @0", "# CONFIG_MEGAPIPE is not set", "without CONFIG_MEGAPIPE=y"),
        # What the experiments' `floor` needs: better said here than by each of its trials.
        ("6.12-megapipe #3 SMP @0", "CONFIG_MEGAPIPE=y", "without CONFIG_MEGAPIPE_FLOOR=y"),
    ],
)
def test_verify__another_kernel(uname: str, config: str, words: str) -> None:
    host = Answers(uname=uname, config=config)
    with pytest.raises(TestbedError, match=words):
        deploy.verify(host, KERNEL, "6.1")  # type: ignore[arg-type]


def test_verify__the_right_one() -> None:
    config = "CONFIG_MEGAPIPE=y\nCONFIG_MEGAPIPE_FLOOR=y\n"
    host = Answers(uname="6.12-megapipe #3 SMP @0\n", config=config)
    deploy.verify(host, KERNEL, "6.1")  # type: ignore[arg-type]


def test_remove__nothing_was_deployed() -> None:
    host = Answers()
    assert not deploy.remove(host, 1, lambda text: None)  # type: ignore[arg-type]
    assert host.ran == [["cat", "--", deploy.DEPLOYED]]


@pytest.mark.parametrize(
    ("uname", "kept"),
    [
        ("6.12-megapipe #2 SMP @0", '{"old": "6.1", "release": "6.12-megapipe", "digest": "1"}'),
        ("6.1 #1 SMP Debian", '{"old": "6.1", "release": "6.11-megapipe", "digest": "1"}'),
    ],
)
def test_ensure__another_kernel_of_ours_goes_first(
    uname: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "build", lambda *given: KERNEL)
    monkeypatch.setattr(deploy.Kernel, "digest", "2")
    host = Answers(uname=uname, deploy=kept)
    with pytest.raises(TestbedError, match="another kernel of ours") as caught:
        deploy.ensure("lab", host, deploy.Options(), lambda text: None)  # type: ignore[arg-type]
    assert "down --remove" in caught.value.hint


def test_install__a_kernel_of_somebody_else_is_left_alone() -> None:
    host = Answers(dpkg="Status: install ok installed")
    with pytest.raises(TestbedError, match="was not installed from here"):
        deploy.install(host, KERNEL, {}, "6.1", lambda text: None)  # type: ignore[arg-type]
    assert host.ran == [["dpkg", "-s", "linux-image-6.12-megapipe"]]


def test_ask_megapipe__library_and_kernel_must_agree() -> None:
    host = Answers()
    assert deploy.ask_megapipe(host, "/there/megapipe-info") == ""
    host.status = 3
    with pytest.raises(TestbedError, match="ends with 3"):
        deploy.ask_megapipe(host, "/there/megapipe-info")


def test_remembered__what_cannot_be_read_is_not_overwritten() -> None:
    with pytest.raises(TestbedError, match="mend or remove"):
        deploy.remembered(Answers(deploy="{"))


# The slow part

WANTED = os.environ.get("TEST_DEPLOY", "")
slow = [
    pytest.mark.deploy,
    pytest.mark.skipif(not WANTED, reason="slow: make test-deploy"),
    pytest.mark.skipif(bool(lab.available()), reason=lab.available() or "-"),
    pytest.mark.skipif(bool(disk_image.available()), reason=disk_image.available() or "-"),
]
# An emulated machine takes a minute and a half to boot, on an idle host of two cores.
BOOT_S = 600.0
DEPLOY_S = 4 * 3600.0


def slowly(test):  # type: ignore[no-untyped-def]
    for mark in slow:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    disk_image.make_image(f"{lab.NET}.2/24", f"{lab.NET6}:2/64")
    there = lab.Lab(tmp_path_factory.mktemp("lab"))
    try:
        there.add_machine("server", 2, disk_image.image())
        there.know(f"{lab.NET}.2", disk_image.host_key())
        for name, number in (("client1", 11), ("client2", 12)):
            there.add_host(name, number)
        there.wait_for_ssh("server", BOOT_S)
        yield there
    finally:
        there.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with one small experiment, on MegaPipe too."""
    there = tmp_path_factory.mktemp("root")
    (there / "harness/experiments").mkdir(parents=True)
    shutil.copy(paths.HARNESS / "systems.toml", there / "harness")
    text = EXPERIMENT.replace('"reuseport"', '"megapipe"').replace("repeats = 2", "repeats = 1")
    (there / "harness/experiments/small.toml").write_text(text)
    for folder in ("kernel-patch", "scripts", "versions.toml", "Makefile"):
        (there / folder).symlink_to(paths.HARNESS.parent / folder)
    return there


def inventory(machines: lab.Lab, root: Path, packages: str) -> Path:
    known = f'known_hosts = "{machines.known_hosts}"\n'
    text = (
        '[testbed]\nname = "lab-vm"\nkind = "ssh"\ntitle = "a virtual server"\nvirtual = true\n'
        f'[deploy]\npackages = "{packages}"\nboot_timeout_s = {BOOT_S:.0f}\n'
        f'[server]\nhost = "{lab.NET}.2"\nkey = "{disk_image.user_key()}"\n{known}cores = 2\n'
        f'address = "{lab.NET}.2"\naddress6 = "{lab.NET6}:2"\ninterface = "eth0"\n'
        '[tune.server]\nrps = "all"\nxps = "one-to-one"\nqueues = "cores"\n'
        '[tune.server.sysctl]\n"net.core.somaxconn" = "65535"\n'
    )
    for number in (11, 12):
        text += f'[[client]]\nhost = "{lab.NET}.{number}"\nkey = "{machines.key}"\n{known}'
        text += 'interface = "eth1"\nthreads = 1\n'
    path = root / "lab-vm.toml"
    path.write_text(text)
    return path


def given() -> str:
    """Where ready packages are; empty: they are built."""
    return WANTED if "/" in WANTED else ""


def on_server(machines: lab.Lab, script: str, *, timeout: float = 120.0) -> str:
    known = f"UserKnownHostsFile={machines.known_hosts}"
    argv = ["ssh", "-i", str(disk_image.user_key()), "-o", known, f"root@{lab.NET}.2", script]
    return machines.run(argv, timeout=timeout)


def state(machines: lab.Lab) -> list[str]:
    """All of a server that deploy may have changed."""
    return on_server(
        machines,
        "uname -r; ls /boot /lib/modules /etc/default/grub.d /var/cache /var/lib;"
        " dpkg -l 'linux-image*' | grep ^ii; grub-editenv list;"
        " grep -o 'menuentry_id_option .*' /boot/grub/grub.cfg; sysctl -n net.core.somaxconn",
    ).splitlines()


def environment(root: Path) -> dict[str, str]:
    return {"MEGABENCH_ROOT": str(root), "MEGABENCH_BUILD": str(paths.build())}


@slowly
def test_deploy__installs_boots_once_verifies_runs_and_removes(
    machines: lab.Lab, root: Path
) -> None:
    bed = str(inventory(machines, root, given()))
    before = state(machines)
    done = machines.megabench("check", "--testbed", bed, timeout=300, **environment(root))
    assert "beside it and booted once" in " ".join(done.stdout.split()), done.stdout
    assert state(machines) == before

    done = machines.megabench("deploy", "--testbed", bed, timeout=DEPLOY_S, **environment(root))
    assert done.returncode == 0, done.stderr[-3000:]
    release = on_server(machines, "uname -r").strip()
    assert release.startswith("6.12")
    assert release.endswith("-megapipe")
    assert "CONFIG_MEGAPIPE=y" in on_server(machines, "cat /boot/config-$(uname -r)")
    assert on_server(machines, "test -c /dev/megapipe && echo yes") == "yes\n"
    assert "ABI version" in done.stderr, done.stderr  # megapipe-info's
    # It was booted once: the next entry is used up, and the default is the kernel of before.
    grub = dict(line.split("=", 1) for line in on_server(machines, "grub-editenv list").split())
    assert before[0] in grub["saved_entry"]
    assert not grub.get("next_entry")

    # What is there is not done again.
    again = machines.megabench("deploy", "--testbed", bed, timeout=600, **environment(root))
    assert again.returncode == 0, again.stderr
    assert "runs" in again.stderr
    assert "reboots" not in again.stderr

    # MegaPipe serves, loaded by both clients.
    run = machines.megabench("run", "small", "--testbed", bed, timeout=900, **environment(root))
    assert run.returncode == 0, run.stderr[-3000:]
    (path,) = root.glob("results/lab-vm/raw/small/*/points.jsonl")
    points = [json.loads(line) for line in path.read_text().splitlines()]
    assert {point["system"] for point in points} == {"epoll", "megapipe"}
    assert all(point["status"] == "ok" and len(point["load"]) == 2 for point in points)
    meta = json.loads((path.parent / "meta.json").read_text())
    assert meta["testbed"]["facts"]["server"]["megapipe"] is True

    done = machines.megabench(
        "down", "--remove", "--testbed", bed, timeout=1800, **environment(root)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert state(machines) == before


@slowly
def test_deploy__a_broken_kernel_is_gone_after_a_power_cycle(
    machines: lab.Lab, root: Path, tmp_path: Path
) -> None:
    """The image's payload is damaged: it stops before it prints a word."""
    source = deploy.find_package(Path(given()) if given() else paths.build() / "deploy/lab-vm")
    assert source is not None
    broken = tmp_path / "broken"
    subprocess.run(["dpkg-deb", "-R", source, broken], check=True, timeout=300)
    (image,) = broken.glob("boot/vmlinuz-*")
    content = bytearray(image.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 65536] = bytes(65536)
    image.write_bytes(content)
    packages = tmp_path / "packages"
    packages.mkdir()
    subprocess.run(
        ["dpkg-deb", "-b", broken, packages / source.name],
        check=True,
        timeout=600,
        capture_output=True,
    )
    path = inventory(machines, root, str(packages))
    path.write_text(
        path.read_text().replace(f"boot_timeout_s = {BOOT_S:.0f}", "boot_timeout_s = 90")
    )
    before = state(machines)
    done = machines.megabench("deploy", "--testbed", str(path), timeout=1800, **environment(root))
    assert done.returncode == 1
    assert "does not answer 90 s after its reboot" in done.stderr
    assert "switch its power off and on" in done.stderr

    machines.power_cycle("server")
    machines.wait_for_ssh("server", BOOT_S)
    assert on_server(machines, "uname -r").strip() == before[0]
    path.write_text(
        path.read_text().replace("boot_timeout_s = 90", f"boot_timeout_s = {BOOT_S:.0f}")
    )
    done = machines.megabench(
        "down", "--remove", "--testbed", str(path), timeout=1800, **environment(root)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert state(machines) == before
