# SPDX-License-Identifier: MIT
"""A server's kernel built on another machine: a namespace with an SSH server (lab.py).

this machine: deploy.build ── SSH, as an ordinary user ──> builder: a stand-in for the script
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import lab
import pytest
from fakes import NEVER_ENDS, Answers, make_checkout, script_says

from megabench import builder, deploy, paths
from megabench.errors import CommandError, CommandTimeoutError, TestbedError
from megabench.host import wait_until
from megabench.readiness import FINE, MEND, judge_builder
from megabench.ssh import SshHost

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(bool(lab.available()), reason=lab.available() or "-"),
]

# What the script is given, and the package that it leaves.
BUILDS = """\
set -e
rm -f "$1"/linux-*.deb
echo "in $1 with $2 jobs, modules of $3, build in $MEGABENCH_BUILD" >&2
cat "$1/config.server" "$3" "$(dirname "$0")/../kernel-patch/net/file" "$LINUX_TARBALL"
echo image >"$1/linux-image-6.12-megapipe_1_amd64.deb"
echo symbols >"$1/linux-image-6.12-megapipe-dbg_1_amd64.deb"
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    there = lab.Lab(tmp_path_factory.mktemp("lab"))
    try:
        there.add_host("builder", 21)
        yield there
    finally:
        there.close()


@pytest.fixture
def host(machines: lab.Lab) -> Iterator[SshHost]:
    """The builder, as somebody who may not become root."""
    found = machines.ssh("builder", "guest")
    yield found
    builder.clear(found)
    found.close()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEGABENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path / "build"))
    return make_checkout(tmp_path)


def build(host: SshHost) -> deploy.Kernel:
    server = Answers(config="CONFIG_NET=y\n", lsmod="ixgbe 1 0\n")
    return deploy.build("mylab", server, deploy.Options(), "6.1", lambda text: None, host)


def test_build__there_and_fetched(
    machines: lab.Lab, host: SshHost, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_says(checkout, BUILDS)
    (checkout / "build/cache/linux-source.tar.xz").write_text("the kernel\n")
    monkeypatch.setattr(deploy, "read_package", lambda path: deploy.Kernel(path, "6.12", ""))
    kernel = build(host)
    folder = checkout / "build/deploy/mylab"
    assert kernel.package == folder / "linux-image-6.12-megapipe_1_amd64.deb"
    assert kernel.package.read_text() == "image\n"
    said = (folder / "build.log").read_text()
    there = builder.FOLDER
    jobs = machines.inside("builder", "nproc").strip()
    packages = f"{there}/packages"
    wanted = f"in {packages} with {jobs} jobs, modules of {packages}/lsmod, build in {there}/build"
    assert wanted in said
    assert "CONFIG_NET=y\nixgbe 1 0\n1the kernel\n" in said
    # What is here is not built again.
    script_says(checkout, BUILDS)
    (folder / "build.log").unlink()
    build(host)
    assert not (folder / "build.log").exists()
    # A newer one takes the place of the older.
    script_says(checkout, BUILDS.replace("6.12-", "6.12.9-"))
    assert build(host).package.name == "linux-image-6.12.9-megapipe_1_amd64.deb"
    assert len(list(folder.glob("*.deb"))) == 1
    builder.clear(host)
    assert machines.inside("builder", "ls -A /var/tmp /tmp") == "/tmp:\n\n/var/tmp:\n"


def test_build__one_that_takes_too_long_is_ended_there(
    machines: lab.Lab, host: SshHost, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_says(checkout, NEVER_ENDS)
    monkeypatch.setattr(builder, "BUILD_S", 2.0)
    with pytest.raises(CommandTimeoutError, match="on builder has not ended after") as caught:
        build(host)
    assert "the last word" in caught.value.message
    there = f"{builder.FOLDER}/packages/child"
    alive = f'kill -0 "$(cat {there})" 2>/dev/null && echo alive'
    assert wait_until(lambda: not machines.inside("builder", alive), timeout=10)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo no space left; exit 2\n", CommandError, "(?s)ended with status 2.*no space left"),
        ("exit 0\n", TestbedError, "has made no package"),
    ],
)
def test_build__a_failure_there(
    host: SshHost, checkout: Path, script: str, error: type[Exception], words: str
) -> None:
    script_says(checkout, script)
    with pytest.raises(error, match=words):
        build(host)


@pytest.fixture
def scripts(checkout: Path) -> Path:
    """The real scripts that look for packages."""
    shutil.rmtree(checkout / "scripts")
    shutil.copytree(paths.HARNESS.parent / "scripts", checkout / "scripts")
    return checkout


def test_look__what_is_there_and_nothing_stays(
    machines: lab.Lab, host: SshHost, scripts: Path
) -> None:
    found = deploy.builder_of("mylab", host)
    assert found is not None
    assert (found.name, found.architecture, found.python) == ("builder", "x86_64", True)
    assert not found.can_install
    assert found.free_mb > 0
    assert machines.inside("builder", "ls -A /var/tmp /tmp") == "/tmp:\n\n/var/tmp:\n"
    levels = {one.what: one.level for one in judge_builder(found, "reduced")}
    assert levels["disk for a build"] == FINE


def test_look__disk_packages_and_distribution(
    machines: lab.Lab, host: SshHost, scripts: Path
) -> None:
    machines.inside(
        "builder",
        "mount -t tmpfs -o size=9m,mode=1777 none /var/tmp; echo 'PRETTY_NAME=\"Other 1\"' >/run/os"
        "; mount --bind /run/os /etc/os-release; mount -t tmpfs none /usr/include/openssl",
    )
    try:
        found = deploy.builder_of("mylab", host)
        assert found is not None
        said = {one.what: (one.host, one.level, one.said) for one in judge_builder(found, "full")}
        where, level, text = said["disk for a build"]
        assert (where, level) == ("builder", MEND)
        assert (
            f"9 MB free, 12000 MB are needed to build the kernel (full) in {builder.FOLDER}" in text
        )
        _, level, text = said["build packages"]
        assert level == MEND
        assert text.startswith("Other 1: apt-get install")
        assert "libssl-dev" in text
    finally:
        machines.inside("builder", "umount /var/tmp /etc/os-release /usr/include/openssl")


def test_run__much_input_at_once(host: SshHost) -> None:
    """A letter at a time would take a quarter of an hour."""
    assert host.run(["wc", "-c"], timeout=20, input="x" * 100_000).stdout == "100000\n"
