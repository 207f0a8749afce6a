# SPDX-License-Identifier: MIT
"""State on disk: whatever a broken run left is found and ended."""

import os
import subprocess
from pathlib import Path

import pytest

from megabench.errors import TestbedError
from megabench.host import wait_until
from megabench.state import State, end_processes, processes_with, start_time


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state", "mine")


def start(state: State, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, env={**os.environ, **state.environment}, start_new_session=True)


def test_begin__writes_a_token_first(state: State) -> None:
    state.begin()
    assert State(state.file.parent, "mine").load()
    assert state.directory.stat().st_mode & 0o777 == 0o700


def test_clear__ends_processes_and_leaves_no_file(state: State) -> None:
    state.begin()
    (state.directory / "deep").mkdir()
    (state.directory / "deep/file").write_text("")
    # A grandchild that its parent no longer knows, and one that will not be asked.
    orphan = start(state, "sh", "-c", "sleep 600 & exit 0")
    stubborn = start(state, "sh", "-c", "trap '' TERM; sleep 600; sleep 600")
    orphan.wait(5)
    token = state.values["token"]
    assert wait_until(lambda: len(processes_with(token)) >= 3, timeout=5)
    State(state.file.parent, "mine").clear()
    stubborn.wait(5)
    assert processes_with(token) == []
    assert list(state.file.parent.iterdir()) == []


def test_clear__nothing_there(state: State) -> None:
    state.clear()
    assert not state.load()


def test_load__half_written_state_is_no_state(state: State) -> None:
    state.begin()
    state.file.write_text('{"token": "ab')
    assert not state.load()


def test_is_alive__not_fooled_by_a_reused_number(state: State) -> None:
    state.begin()
    process = start(state, "sleep", "600")
    state.remember_process("vm", process.pid)
    assert state.is_alive("vm")
    state.values["vm"]["start"] += 1
    assert not state.is_alive("vm")
    end_processes(state.values["token"])
    process.wait(5)
    assert start_time(process.pid) is None
    assert not state.is_alive("vm")


def test_is_alive__a_zombie_is_dead(state: State) -> None:
    state.begin()
    process = start(state, "true")
    assert wait_until(lambda: start_time(process.pid) is None, timeout=5)
    process.wait(5)


def test_locked__by_another_command(state: State) -> None:
    with state.locked(), pytest.raises(TestbedError, match="another command"), state.locked():
        pass
    with state.locked():
        pass
    assert not state.lock_file.exists()
