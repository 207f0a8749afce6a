# SPDX-License-Identifier: MIT
"""What a run was measured on, and which runs are alike."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from megabench import metadata

META: dict[str, Any] = {
    "binaries": {"pingpong-server": "aaaa"},
    "sampling": {"warmup_s": 1.0, "measure_s": 2.0, "loop": "closed", "repeats": 3},
    "testbed": {
        "name": "local",
        "accel": "tcg",
        "cores": 8,
        "facts": {
            "server": {"release": "6.12", "cmdline": "root=x", "memory_kib": 5},
            "clients": [{"cpus": 2}],
        },
    },
}


@pytest.mark.parametrize(
    ("path", "value", "differs"),
    [
        ("binaries.pingpong-server", "bbbb", ["binaries"]),
        ("sampling.measure_s", 4.0, ["sampling.measure_s"]),
        ("sampling.repeats", 5, []),
        ("testbed.accel", "kvm", ["testbed.accel"]),
        ("testbed.facts.server.release", "6.13", ["testbed.facts.server.release"]),
        ("testbed.facts.clients.0.cpus", 4, ["testbed.facts.clients.0.cpus"]),
        ("testbed.facts.server.cmdline", "root=y", []),
        ("testbed.facts.server.memory_kib", 6, []),
        ("testbed.facts.tuning", {"x": "1"}, ["testbed.facts.tuning.x"]),
        # It has "port" in its name, and short connections depend on it.
        (
            "testbed.facts.tuning",
            {"/proc/sys/net/ipv4/ip_local_port_range": "1024 65535"},
            ["testbed.facts.tuning./proc/sys/net/ipv4/ip_local_port_range"],
        ),
        # Runs of before it was recorded are as good as they were.
        ("testbed.facts.server.files_limit", "1024", []),
    ],
)
def test_unlike__names_what_differs(path: str, value: Any, differs: list[str]) -> None:
    other = copy.deepcopy(META)
    *outer, last = path.split(".")
    inner: Any = other
    for key in outer:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    assert metadata.unlike(META, other) == differs


def git(where: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.net"]
    subprocess.run(["git", "-C", str(where), *who, *arguments], check=True, capture_output=True)


def test_commit__results_make_no_dirt(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "raw").write_text("1")
    head, dirty = metadata.commit(tmp_path)
    assert len(head) == 40
    assert not dirty
    (tmp_path / "a").write_text("2")
    assert metadata.commit(tmp_path) == (head, True)


def test_commit__outside_a_repository(tmp_path: Path) -> None:
    assert metadata.commit(tmp_path) == ("0" * 40, True)


def test_binaries__told_apart(tmp_path: Path) -> None:
    assert metadata.binaries(tmp_path) == {}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "a").write_text("1")
    first = metadata.binaries(tmp_path)
    (tmp_path / "bin" / "a").write_text("2")
    assert metadata.binaries(tmp_path).keys() == first.keys() == {"a"}
    assert metadata.binaries(tmp_path) != first


def test_kernel_source__without_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path))
    assert metadata.kernel_source() == {}
    (tmp_path / "cache").mkdir()
    noted = {"path": "/somewhere", "origin": "debian", "version": "6.12.117"}
    (tmp_path / "cache" / "linux-source.json").write_text(json.dumps(noted))
    assert metadata.kernel_source() == {"origin": "debian", "version": "6.12.117"}


def test_argv__no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/megabench", "run", "x"])
    assert metadata.argv() == ["megabench", "run", "x"]


def test_lookup__of_what_is_not_there() -> None:
    assert metadata.lookup(META, "testbed.name") == "local"
    assert metadata.lookup(META, "testbed.name.first") is None
