# SPDX-License-Identifier: MIT
"""What runs before there is a Python environment: scripts/ and the top Makefile.

test --> scripts/*.sh, fetch.py
           |  PATH = a folder of a few real tools + fakes for apt-get, sudo, id ...
           +--> web server in this process, which may lie or hang up
"""

import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabench.experiment import load_experiment
from megabench.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
TOOLS = (
    "awk bash cat cut df dirname du env expr grep id mkdir nproc paste printf rm sed sh sort touch "
    "tr uname"
)


def run(
    *argv: str | Path, env: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Machine:
    """A machine as the scripts see it: the tools in `bin`, a log of what the fakes were told."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "log"
        self.installed = folder / "tool"
        self.packages = folder / "packages.txt"
        for tool in TOOLS.split():
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        self.need("tool", f"file:{self.installed}")

    def need(self, package: str, probe: str) -> None:
        self.packages.write_text(f"# comment\nbuild {package} {probe} does a thing\n")

    def fake(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n{script}\n')
        path.chmod(0o755)

    def debian(self, candidate: str = "1.0", install: str | None = None) -> None:
        self.fake("apt-cache", f"echo '  Candidate: {candidate}'")
        install = install or f'touch "{self.installed}"'
        self.fake("apt-get", f'case "$*" in *" install "*) {install} ;; esac')

    def user(self, uid: int, sudo: bool) -> None:
        self.fake("id", f"echo {uid}")
        if sudo:
            self.fake("sudo", 'exec "$@"')

    def logged(self, word: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(word)]

    def ensure(self, *groups: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.bin), "PACKAGES": str(self.packages)}
        return run(SCRIPTS / "packages.sh", "ensure", *(groups or ("build",)), env=env)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# ---- packages.sh -----------------------------------------------------------


def test_packages__nothing_missing_needs_no_root_and_no_debian(machine: Machine) -> None:
    machine.user(1000, sudo=False)
    machine.need("dash", "cmd:sh")
    done = machine.ensure()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_packages__other_groups_do_not_count(machine: Machine) -> None:
    assert machine.ensure("guest").returncode == 0


def test_packages__installs_what_is_missing_and_only_that(machine: Machine) -> None:
    machine.user(0, sudo=False)
    machine.debian()
    done = machine.ensure()
    assert done.returncode == 0, done.stderr
    assert "tool - does a thing" in done.stderr
    (command,) = machine.logged("apt-get")
    assert "--no-install-recommends tool" in command


def test_packages__user_installs_by_sudo(machine: Machine) -> None:
    machine.user(1000, sudo=True)
    machine.debian()
    assert machine.ensure().returncode == 0
    assert machine.logged("sudo")


def test_packages__user_without_sudo_is_told_the_command(machine: Machine) -> None:
    machine.user(1000, sudo=False)
    machine.debian()
    done = machine.ensure()
    assert done.returncode == 1
    assert "as root: apt-get install --no-install-recommends tool" in done.stderr
    assert not machine.logged("apt-get")


def test_packages__not_debian_lists_what_to_install(machine: Machine) -> None:
    done = machine.ensure()
    assert done.returncode == 1
    assert "neither Debian nor Ubuntu" in done.stderr
    assert "tool does a thing" in done.stderr


def test_packages__lists_are_refreshed_only_when_a_package_is_unknown(machine: Machine) -> None:
    machine.user(0, sudo=False)
    machine.debian(candidate="(none)")
    done = machine.ensure()
    assert done.returncode == 1
    assert "no package source offers: tool" in done.stderr
    assert len(machine.logged("apt-get")) == 1
    assert " update" in machine.logged("apt-get")[0]


def test_packages__stale_lists_are_refreshed_and_the_install_tried_again(machine: Machine) -> None:
    machine.user(0, sudo=False)
    machine.debian(install=f'grep -q " update" "{machine.log}" && touch "{machine.installed}"')
    done = machine.ensure()
    assert done.returncode == 0, done.stderr
    assert [("update" in line) for line in machine.logged("apt-get")] == [False, True, False]


def test_packages__no_network_names_the_cure(machine: Machine) -> None:
    machine.user(0, sudo=False)
    machine.debian(install="exit 100")
    done = machine.ensure()
    assert done.returncode == 1
    assert "apt-get could not install: tool" in done.stderr
    assert "network" in done.stderr


def test_packages__installed_but_still_not_found(machine: Machine) -> None:
    machine.user(0, sudo=False)
    machine.debian(install=":")
    done = machine.ensure()
    assert done.returncode == 1
    assert "still not there after installing: tool" in done.stderr


def test_packages__the_list_is_well_formed_and_starts_no_service() -> None:
    lines = [
        line.split(None, 3)
        for line in (SCRIPTS / "packages.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines
    for words in lines:
        assert len(words) == 4, f"no reason: {words}"
        assert words[2].split(":")[0] in {"cmd", "hdr", "lib", "py", "file"}
        assert not words[1].endswith(("-server", "-daemon", "d")) or words[1] == "kmod", words[1]


# ---- python.sh, venv.sh ----------------------------------------------------


def test_python__too_old_is_said_with_its_version(machine: Machine) -> None:
    machine.fake("python3", 'case "$*" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac')
    script = (SCRIPTS / "python.sh").read_text().replace("/usr/bin/python3", "python3")
    copy = machine.bin / "python.sh"
    copy.write_text(script)
    shutil.copy(SCRIPTS / "lib.sh", machine.bin)
    done = run("bash", copy, env={"PATH": str(machine.bin), "PYTHON": ""})
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; python3 is 3.9.2" in done.stderr
    assert "PYTHON=/path/to" in done.stderr


def test_python__the_one_asked_for_must_fit() -> None:
    done = run(SCRIPTS / "python.sh", env={"PYTHON": "/bin/false"})
    assert done.returncode == 1
    assert "PYTHON=/bin/false is not a Python 3.11 or newer" in done.stderr


FAKE_PYTHON = """#!/bin/sh
echo "$*" >>"{log}"
case "$*" in
"-m venv"*) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
*"pip "*) exit {pip} ;;
esac
"""


class Environment:
    """venv.sh on a Python that makes environments in no time."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.python = folder / "python"
        self.venv = folder / "venv"
        self.harness = folder / "harness"
        self.harness.mkdir()
        for name in ("pyproject.toml", "requirements.lock"):
            (self.harness / name).write_text("nothing")

    def make(self, pip: int = 0) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        self.python.write_text(FAKE_PYTHON.format(log=self.log, pip=pip))
        self.python.chmod(0o755)
        env = {"PYTHON": str(self.python)}
        return run(SCRIPTS / "venv.sh", self.venv, self.harness, env=env)

    def installed(self) -> bool:
        return "pip" in self.log.read_text()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_venv__second_time_does_nothing(environment: Environment) -> None:
    assert environment.make().returncode == 0
    assert "--require-hashes" in environment.log.read_text()
    assert environment.make().returncode == 0
    assert not environment.installed()


def test_venv__made_again_when_the_lock_changes(environment: Environment) -> None:
    environment.make()
    (environment.harness / "requirements.lock").write_text("something")
    environment.make()
    assert environment.installed()


def test_venv__another_pyproject_keeps_what_is_locked(environment: Environment) -> None:
    environment.make()
    (environment.harness / "pyproject.toml").write_text("something")
    environment.make()
    assert environment.installed()
    assert "--require-hashes" not in environment.log.read_text()


def test_venv__without_network_names_the_cure_and_starts_over(environment: Environment) -> None:
    done = environment.make(pip=1)
    assert done.returncode == 1
    assert "pip could not install" in done.stderr
    assert "network" in done.stderr
    environment.make()
    assert environment.installed()


# ---- preflight.sh, plan.sh, the Makefile -----------------------------------


def test_preflight__no_space_left(tmp_path: Path) -> None:
    done = run(SCRIPTS / "preflight.sh", tmp_path / "build", "999999999")
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert "MB are free" in done.stderr


def test_preflight__what_is_built_already_counts(machine: Machine, tmp_path: Path) -> None:
    machine.fake("df", "printf 'fs\\nfs 9 9 600 9%% /\\n'")
    machine.fake("du", "printf '5900\\tbuild\\n'")
    env = {"PATH": str(machine.bin)}
    assert run(SCRIPTS / "preflight.sh", tmp_path / "build", "6000", env=env).returncode == 0
    machine.fake("du", "printf '5000\\tbuild\\n'")
    done = run(SCRIPTS / "preflight.sh", tmp_path / "build", "6000", env=env)
    assert "needs 1000 MB more, 600 MB are free" in done.stderr


def test_preflight__space_in_path(tmp_path: Path) -> None:
    done = run(SCRIPTS / "preflight.sh", tmp_path / "a b")
    assert done.returncode == 1
    assert "has a space" in done.stderr


def test_preflight__other_processor(machine: Machine, tmp_path: Path) -> None:
    machine.fake("uname", 'case "$1" in -m) echo aarch64 ;; *) echo Linux ;; esac')
    done = run(SCRIPTS / "preflight.sh", tmp_path / "build", env={"PATH": str(machine.bin)})
    assert done.returncode == 1
    assert "here is aarch64" in done.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("ONLY=nonsense", "unknown experiment: nonsense"),
        ("SCALE=huge", "SCALE=huge is none of smoke, quick, full"),
        ("TESTBED=nowhere", "unknown testbed: nowhere"),
        ("ACCEL=fast", "ACCEL=fast is none of auto, tcg, kvm"),
    ],
)
def test_make__reproduce_refuses_before_it_builds(argument: str, message: str) -> None:
    started = time.monotonic()
    done = run("make", "-C", ROOT, "reproduce", argument, env={"MAKEFLAGS": ""})
    assert done.returncode != 0
    assert message in done.stderr
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
def test_plan__says_what_the_plan_says(scale: str, tmp_path: Path) -> None:
    names = [path.stem for path in sorted((ROOT / "harness/experiments").glob("*.toml"))]
    done = run(SCRIPTS / "plan.sh", tmp_path, "local", scale, "auto", *names)
    assert done.returncode == 0, done.stderr
    said = re.search(rf"(\d+) min  run at scale {scale}", done.stdout)
    assert said is not None, done.stdout
    minutes = make_plan([load_experiment(name) for name in names], scale).seconds / 60
    assert 0.8 * minutes <= int(said[1]) <= 1.2 * minutes + 1


def test_plan__the_kernel_that_runs_is_not_built(tmp_path: Path) -> None:
    for testbed, built in (("namespaces-example", False), ("cluster-example", True)):
        done = run(SCRIPTS / "plan.sh", tmp_path, testbed, "smoke", "auto", "accept-rate")
        assert done.returncode == 0, done.stderr
        assert ("kernel" in done.stdout) == built, done.stdout


@pytest.mark.parametrize(
    ("testbed", "built"),
    [("local", True), ("cluster-example", False), ("namespaces-example", False)],
)
def test_make__real_machines_need_no_kernel_of_the_virtual_one(testbed: str, built: bool) -> None:
    done = run("make", "-n", "-C", ROOT, "reproduce", f"TESTBED={testbed}", env={"MAKEFLAGS": ""})
    assert done.returncode == 0
    assert ("-C kernel-patch build" in done.stdout) == built
    assert ("-C harness/plugin" in done.stdout) == built
    assert "-C apps/nginx" in done.stdout


def test_make__help_lists_every_target() -> None:
    done = run("make", "-C", ROOT, "help", env={"MAKEFLAGS": ""})
    targets = "reproduce test test-unit lint deps venv kernel lib apps load plugin programs report"
    for target in [*targets.split(), "clean", "distclean", "help"]:
        assert f"\n  {target} " in done.stdout


# ---- fetch.py --------------------------------------------------------------


@functools.cache
def tarball() -> bytes:
    """A kernel tree as far as fetch.py looks into it, padded so that it comes in pieces."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, text in (
            ("linux-6.12.7/Makefile", b"VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 7\n"),
            ("linux-6.12.7/noise", os.urandom(3 << 20)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return file.getvalue()


class Mirror:
    """A web server with one file; `sent` limits how much of it goes out before it hangs up."""

    def __init__(self) -> None:
        self.content = tarball()
        self.sent: int | None = None
        self.stall = threading.Event()
        self.stall.set()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(mirror.content)))
                self.end_headers()
                self.wfile.write(mirror.content[: mirror.sent])
                self.wfile.flush()
                mirror.stall.wait(30)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.stall.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    yield mirror
    mirror.close()


@pytest.fixture
def fetch(tmp_path: Path, mirror: Mirror) -> list[str]:
    """The command line of fetch.py on a machine without Debian's package."""
    (tmp_path / "versions.toml").write_text(
        "[linux]\n"
        'series = "6.12"\n'
        f'debian_tarball = "{tmp_path}/none.tar.xz"\n'
        'debian_package = "linux-source-6.12"\n'
        f'url = "http://127.0.0.1:{mirror.server.server_port}/linux-6.12.7.tar.xz"\n'
        f'sha256 = "{hashlib.sha256(mirror.content).hexdigest()}"\n'
    )
    arguments = ["--versions", str(tmp_path / "versions.toml"), "--cache", str(tmp_path / "cache")]
    return [sys.executable, str(SCRIPTS / "fetch.py"), *arguments]


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_fetch__keeps_the_source_and_says_what_it_is(fetch: list[str], tmp_path: Path) -> None:
    done = run(*fetch)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "cache/linux-6.12.7.tar.xz")
    record = json.loads((tmp_path / "cache/linux-source.json").read_text())
    assert (record["origin"], record["version"]) == ("kernel.org", "6.12.7")
    link = tmp_path / "cache/linux-source.tar.xz"
    assert link.resolve() == (tmp_path / "cache/linux-6.12.7.tar.xz").resolve()


def test_fetch__second_time_needs_no_network(
    fetch: list[str], mirror: Mirror, tmp_path: Path
) -> None:
    run(*fetch)
    before = (tmp_path / "cache/linux-source.json").stat().st_mtime_ns
    mirror.server.server_close()
    assert run(*fetch).returncode == 0
    assert (tmp_path / "cache/linux-source.json").stat().st_mtime_ns == before


def test_fetch__source_not_to_be_had(fetch: list[str], mirror: Mirror, tmp_path: Path) -> None:
    mirror.server.server_close()
    done = run(*fetch)
    assert done.returncode == 1
    assert "no kernel source" in done.stderr
    assert "LINUX_TARBALL=/path/to/it" in done.stderr
    assert left_in(tmp_path / "cache") == []


def test_fetch__cut_off_leaves_no_half_file(
    fetch: list[str], mirror: Mirror, tmp_path: Path
) -> None:
    mirror.sent = 1 << 20
    done = run(*fetch)
    assert done.returncode == 1
    assert "LINUX_TARBALL" in done.stderr
    assert left_in(tmp_path / "cache") == []


def test_fetch__wrong_sum_leaves_no_file(fetch: list[str], mirror: Mirror, tmp_path: Path) -> None:
    mirror.content = b"x" * len(mirror.content)
    done = run(*fetch)
    assert done.returncode == 1
    assert "its sha256 is" in done.stderr
    assert left_in(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_fetch__interrupted_leaves_no_half_file(
    name: str, fetch: list[str], mirror: Mirror, tmp_path: Path
) -> None:
    mirror.sent = 1 << 20
    mirror.stall.clear()
    process = subprocess.Popen(fetch, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not any((tmp_path / "cache").glob(".linux*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=20)
    assert process.returncode in (130, 143)
    assert left_in(tmp_path / "cache") == []


def test_fetch__full_disk_leaves_no_half_file(fetch: list[str], tmp_path: Path) -> None:
    done = run("bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", *fetch)
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert left_in(tmp_path / "cache") == []


def test_fetch__own_tarball(fetch: list[str], mirror: Mirror, tmp_path: Path) -> None:
    own = tmp_path / "own.tar.xz"
    own.write_bytes(mirror.content)
    done = run(*fetch, env={"LINUX_TARBALL": str(own)})
    assert done.stdout.strip() == str(own)
    assert "unverified" in done.stderr
    env = {
        "LINUX_TARBALL": str(own),
        "LINUX_SHA256": hashlib.sha256(mirror.content).hexdigest().upper(),
    }
    assert run(*fetch, env=env).stderr == ""


def test_fetch__own_tarball_is_wrong(fetch: list[str], mirror: Mirror, tmp_path: Path) -> None:
    done = run(*fetch, env={"LINUX_TARBALL": str(tmp_path / "none")})
    assert done.returncode == 1
    assert "no such file" in done.stderr
    own = tmp_path / "own.tar.xz"
    own.write_bytes(mirror.content)
    done = run(*fetch, env={"LINUX_TARBALL": str(own), "LINUX_SHA256": "0" * 64})
    assert done.returncode == 1
    assert "LINUX_SHA256 says" in done.stderr


def test_fetch__debian_package_comes_first(fetch: list[str], tmp_path: Path) -> None:
    (tmp_path / "none.tar.xz").write_bytes(tarball())
    done = run(*fetch)
    assert done.stdout.strip() == str(tmp_path / "none.tar.xz")
    record = json.loads((tmp_path / "cache/linux-source.json").read_text())
    assert (record["origin"], record["version"]) == ("debian", "6.12.7")


def test_clean__keeps_the_cache_only(tmp_path: Path) -> None:
    for name in ("cache/linux.tar.xz", "bin/server", "venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert run(SCRIPTS / "clean.sh", tmp_path, "cache").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert run(SCRIPTS / "clean.sh", tmp_path).returncode == 0
    assert not tmp_path.exists()


def test_clean__stops_a_testbed_that_still_runs(tmp_path: Path) -> None:
    for name in ("state/local.json", "venv/bin/megabench"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    megabench = tmp_path / "venv/bin/megabench"
    megabench.write_text("#!/bin/sh\nexit 1\n")
    megabench.chmod(0o755)
    done = run(SCRIPTS / "clean.sh", tmp_path, "cache")
    assert done.returncode == 1
    assert "testbed local may still be running" in done.stderr
    megabench.write_text(f'#!/bin/sh\necho "$*" >"{tmp_path}.log"\n')
    assert run(SCRIPTS / "clean.sh", tmp_path, "cache").returncode == 0
    assert Path(f"{tmp_path}.log").read_text() == "down --testbed local\n"
    assert not (tmp_path / "state").exists()
