# SPDX-License-Identifier: MIT
"""Where the source of an application comes from: scripts/app_source.py.

test --> app_source.py --> a fake apt-get, which "downloads" into the current folder
                      +--> web server in this process
"""

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "app_source.py"
UPSTREAM, DEBIAN = b"packed by its authors", b"packed by Debian"


def sum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Machine:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.web = folder / "web"
        self.bin = folder / "bin"
        self.cache = folder / "cache"
        self.bin.mkdir()
        self.versions = folder / "versions.toml"
        self.versions.write_text(
            "[app]\n"
            'debian_source = "app=1.0-1"\n'
            'debian_file = "app_1.0.orig.tar.xz"\n'
            f'debian_sha256 = "{sum_of(DEBIAN)}"\n'
            f'url = "http://127.0.0.1:{port}/app-1.0.tar.gz"\n'
            f'sha256 = "{sum_of(UPSTREAM)}"\n'
        )

    def apt(self, content: bytes | None) -> None:
        """apt-get that has this, or nothing; it must be told where to look and to put."""
        (self.folder / "content").write_bytes(content or b"")
        give = f'cp "{self.folder}/content" app_1.0.orig.tar.xz' if content else "exit 100"
        path = self.bin / "apt-get"
        path.write_text(
            '#!/bin/sh\ncase "$*" in *"Dir::Etc::SourceList=/dev/null"*"SourceParts="*) ;;\n'
            f'*) exit 1 ;; esac\ncase "$*" in *" source "*"app=1.0-1") {give} ;; esac\n'
        )
        path.chmod(0o755)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(SCRIPT), "app"]
        argv += ["--versions", str(self.versions), "--cache", str(self.cache)]
        return subprocess.run(
            argv,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    web = tmp_path / "web"
    web.mkdir()
    handler = functools.partial(Quiet, directory=str(web))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = Machine(tmp_path, server.server_port)
        made.apt(None)
        yield made
        server.shutdown()


def got(machine: Machine, **environment: str) -> bytes:
    done = machine.run(**environment)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert (machine.cache / "app.tarball").resolve() == path
    return path.read_bytes()


def test_debian__comes_first(machine: Machine) -> None:
    machine.apt(DEBIAN)
    (machine.web / "app-1.0.tar.gz").write_bytes(UPSTREAM)
    assert got(machine) == DEBIAN


def test_debian__with_another_sum_is_not_kept(machine: Machine) -> None:
    machine.apt(b"something else")
    (machine.web / "app-1.0.tar.gz").write_bytes(UPSTREAM)
    assert got(machine) == UPSTREAM
    assert not (machine.cache / "app_1.0.orig.tar.xz").exists()


def test_no_debian__upstream(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    (machine.web / "app-1.0.tar.gz").write_bytes(UPSTREAM)
    assert got(machine) == UPSTREAM


def test_second_time__nothing_is_fetched(machine: Machine) -> None:
    machine.apt(DEBIAN)
    got(machine)
    machine.apt(None)
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")


def test_upstream__with_another_sum_is_refused(machine: Machine) -> None:
    (machine.web / "app-1.0.tar.gz").write_bytes(b"altered")
    done = machine.run()
    assert done.returncode == 1
    assert "its sha256 is" in done.stderr
    assert not (machine.cache / "app.tarball").exists()


def test_nowhere__says_what_to_do(machine: Machine) -> None:
    done = machine.run()
    assert done.returncode == 1
    assert "make APP_TARBALL=" in done.stderr


@pytest.mark.parametrize("content", [DEBIAN, UPSTREAM])
def test_of_user__either_packing(machine: Machine, content: bytes) -> None:
    own = machine.folder / "own"
    own.write_bytes(content)
    assert got(machine, APP_TARBALL=str(own)) == content


def test_of_user__with_another_sum_is_refused(machine: Machine) -> None:
    own = machine.folder / "own"
    own.write_bytes(b"altered")
    done = machine.run(APP_TARBALL=str(own))
    assert done.returncode == 1
    assert "its sha256 is" in done.stderr
