# SPDX-License-Identifier: MIT
"""Raw results: one directory a run, never overwritten, valid at every instant.

    results/<testbed>/raw/<experiment>/<UTC>-<commit7>/
        meta.json       who, what, on what; replaced whole (temporary file, fsync, rename)
        points.jsonl    one line a trial; appended and fsync'd line by line
        logs/           what server and load generator said

A line goes in whole or not at all: whatever stops the write (a full disk, Ctrl-C) cuts the file
back to its last whole line. Only a crash of the machine can leave a torn last line, which readers
ignore and a resumed run cuts off.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabench.errors import HarnessError

POINTS = "points.jsonl"
META = "meta.json"
SCHEMA = 1
# A quick run of one experiment writes about 1 MB; logs and figures come on top.
SPACE_NEEDED = 64 * 1024 * 1024


class ResultsError(HarnessError):
    """Raw results cannot be written or read."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(path) from error
        raise ResultsError(f"{path}: {error.strerror or error}") from error


def no_space(path: Path) -> ResultsError:
    """The error of a full disk."""
    return ResultsError(
        f"no space left to write {path}",
        hint="free some space and give the same command again: finished points are kept",
    )


def check_space(folder: Path, needed: int = SPACE_NEEDED) -> None:
    """Refuse to begin what the disk cannot hold."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ResultsError(
            f"no space left for results: {free >> 20} MB free in {there}, {needed >> 20} MB needed",
            hint="free some space, or move the checkout",
        )


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path`: a reader sees the old file or the new one, never half of either."""
    data = content.encode() if isinstance(content, str) else content
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content`, readable by people too."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class RunDirectory:
    """One run's directory, open for appending."""

    def __init__(self, path: Path):
        self.path = path
        with disk_errors(path):
            (path / "logs").mkdir(parents=True, exist_ok=True)
            repair(path / POINTS)
            self._fd = os.open(path / POINTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @property
    def name(self) -> str:
        return self.path.name

    def append(self, point: dict[str, Any]) -> None:
        """Add one line, durably, or leave the file as it was."""
        line = (json.dumps(point, ensure_ascii=False) + "\n").encode()
        with disk_errors(self.path / POINTS):
            size = os.fstat(self._fd).st_size
            written = 0
            try:
                while written < len(line):
                    written += os.write(self._fd, line[written:])
                os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, size)
                raise
            except BaseException:
                if written < len(line):
                    os.ftruncate(self._fd, size)
                raise

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Replace meta.json."""
        write_json(self.path / META, meta)

    def close(self) -> None:
        """Nothing is left to write; closing loses nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def new_run_path(raw: Path, experiment: str, commit7: str, now: datetime) -> Path:
    """A directory that does not exist yet."""
    stem = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{commit7}"
    path = raw / experiment / stem
    number = 2
    while path.exists():
        path = raw / experiment / f"{stem}.{number}"
        number += 1
    return path


def run_paths(raw: Path, experiment: str) -> list[Path]:
    """The runs of one experiment, oldest first."""
    folder = raw / experiment
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / META).is_file())


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of a run."""
    try:
        meta = json.loads((path / META).read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path / META}: {error}") from error
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        raise ResultsError(f"{path / META}: not a run of schema {SCHEMA}")
    return meta


def read_points(path: Path) -> list[dict[str, Any]]:
    """The trials of a run; a torn last line is none."""
    points = []
    try:
        text = (path / POINTS).read_bytes()
    except FileNotFoundError:
        return []
    lines = text.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            points.append(json.loads(line))
        except ValueError as error:
            raise ResultsError(
                f"{path / POINTS}: line {number}: {error}", hint="raw results are never edited"
            ) from error
    return points


def repair(path: Path) -> None:
    """Cut a torn last line off."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
