# SPDX-License-Identifier: MIT
"""Raw results: whole lines or none, whatever happens."""

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from megabench import record
from megabench.record import POINTS, ResultsError, RunDirectory


def test_append__one_line_each(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.append({"a": 1})
    run.append({"b": "µs"})
    run.close()
    assert record.read_points(run.path) == [{"a": 1}, {"b": "µs"}]


def test_append__is_on_disk_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    run = RunDirectory(tmp_path / "run")
    run.append({"a": 1})
    assert len(synced) == 1


def test_append__disk_full_in_mid_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    run.append({"a": 1})
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 4:
            return write(fd, data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResultsError, match="no space left") as caught:
        run.append({"b": 222})
    assert "finished points are kept" in caught.value.hint
    monkeypatch.undo()
    assert (run.path / POINTS).read_text() == '{"a": 1}\n'
    run.append({"c": 3})
    assert record.read_points(run.path) == [{"a": 1}, {"c": 3}]


def test_append__disk_full_at_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="no space left"):
        run.append({"a": 1})
    assert (run.path / POINTS).read_text() == ""


def test_append__interrupted_in_mid_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    write = os.write

    def stop(fd: int, data: bytes) -> int:
        if len(data) > 4:
            return write(fd, data[:4])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        run.append({"b": 222})
    assert (run.path / POINTS).read_text() == ""


def test_read_points__a_torn_last_line_is_none(tmp_path: Path) -> None:
    (tmp_path / POINTS).write_text('{"a": 1}\n{"b": ')
    assert record.read_points(tmp_path) == [{"a": 1}]


def test_read_points__a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / POINTS).write_text('{"a": 1}\n{"b": \n{"c": 3}\n')
    with pytest.raises(ResultsError, match=r"points\.jsonl: line 2"):
        record.read_points(tmp_path)


def test_run_directory__resumed_after_a_crash(tmp_path: Path) -> None:
    (tmp_path / POINTS).write_text('{"a": 1}\n{"b": ')
    run = RunDirectory(tmp_path)
    run.append({"c": 3})
    assert record.read_points(tmp_path) == [{"a": 1}, {"c": 3}]


def test_write_whole__old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meta.json"
    record.write_json(path, {"a": 1})

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="no space left"):
        record.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["meta.json"]


def test_new_run_path__never_an_old_one(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, 10, 15, 0, tzinfo=UTC)
    first = record.new_run_path(tmp_path, "x", "abcdef0", now)
    assert first == tmp_path / "x" / "20261123T101500Z-abcdef0"
    first.mkdir(parents=True)
    assert record.new_run_path(tmp_path, "x", "abcdef0", now).name.endswith("-abcdef0.2")


def test_check_space__says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("Usage", (), {"free": 3 << 20})
    monkeypatch.setattr(record.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResultsError, match="3 MB free"):
        record.check_space(tmp_path / "not" / "there" / "yet")


def test_read_meta__of_another_schema(tmp_path: Path) -> None:
    record.write_json(tmp_path / record.META, {"schema": 99})
    with pytest.raises(ResultsError, match="not a run of schema"):
        record.read_meta(tmp_path)


def test_disk_errors__read_only(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="Read-only"), record.disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")
