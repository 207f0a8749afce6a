# SPDX-License-Identifier: MIT
"""Reading the counters of the emulator's plugin: a synthetic file, whole and broken."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megabench import instructions
from megabench.instructions import HEADER, MAGIC, VERSION, CountersError

SLOTS = [
    "u[user]",
    "k[other kernel]",
    "s[pause]",
    "t[tick]",
    "i[idle]",
    "eticks",
    "esyscalls",
    "ktcp_sendmsg",
    "ktcp_sendmsg.cold",
    "kep_poll_callback.constprop.0",
    "squeued_spin_lock_slowpath",
]
BEGIN = [
    [100, 0, 5, 10, 1000, 1, 3, 40, 0, 7, 0],
    [200, 9, 0, 20, 2000, 2, 6, 60, 0, 0, 8],
]
END = [
    [300, 50, 15, 110, 1500, 2, 13, 540, 60, 107, 0],
    [500, 19, 0, 20, 9000, 2, 16, 60, 0, 0, 58],
]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file as the plugin would."""

    def write_file(
        name: str,
        rows: Sequence[Sequence[int]],
        *,
        slots: Sequence[str] = SLOTS,
        run_id: int = 7,
        version: int = VERSION,
        magic: bytes = MAGIC,
    ) -> Path:
        stride, rows_offset = 4096, 4096
        names_offset = rows_offset + stride * len(rows)
        names = b"".join(slot.encode() + b"\0" for slot in slots)
        header = HEADER.pack(
            magic, version, HEADER.size, len(rows), len(slots),
            run_id, rows_offset, stride, names_offset, len(names),
        )  # fmt: skip
        data = header.ljust(rows_offset, b"\0")
        for row in rows:
            data += b"".join(value.to_bytes(8, sys.byteorder) for value in row).ljust(stride, b"\0")
        path = tmp_path / name
        path.write_bytes(data + names)
        return path

    return write_file


def test_read__values_and_names(write: Write) -> None:
    counters = instructions.read(write("begin", BEGIN))
    assert counters.vcpus == 2
    assert counters.run_id == 7
    assert [f"{slot.kind[0]}{slot.name}" for slot in counters.slots] == SLOTS
    assert counters.values.tolist() == BEGIN


def test_summary__golden(write: Write) -> None:
    begin, end = instructions.read(write("begin", BEGIN)), instructions.read(write("end", END))
    assert instructions.summary(instructions.diff(begin, end), 10) == {
        "instructions": 122.0,
        "instructions_user": 50.0,
        "instructions_kernel": 72.0,
        "instructions_spin": 6.0,
        "instructions_tick": 10.0,
        "instructions_idle": 750.0,
        "by_function": {"tcp_sendmsg": 56.0, "ep_poll_callback": 10.0, "[other kernel]": 6.0},
        "spin_by_function": {"queued_spin_lock_slowpath": 5.0, "[pause]": 1.0},
        "events": {"ticks": 0.1, "syscalls": 2.0},
    }


def test_by_vcpu__work_only(write: Write) -> None:
    begin, end = instructions.read(write("begin", BEGIN)), instructions.read(write("end", END))
    assert instructions.diff(begin, end).by_vcpu() == [910, 310]


def test_read__missing(tmp_path: Path) -> None:
    with pytest.raises(CountersError, match="No such file") as caught:
        instructions.read(tmp_path / "nowhere")
    assert "libinsn.so" in caught.value.hint


def test_read__wrong_magic(write: Write) -> None:
    path = write("file", BEGIN, magic=b"\x7fELF\0\0\0\0")
    with pytest.raises(CountersError, match="not a file of instruction counters"):
        instructions.read(path)


def test_read__empty(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(CountersError, match="not a file of instruction counters"):
        instructions.read(path)


def test_read__wrong_version(write: Write) -> None:
    with pytest.raises(CountersError, match=f"format 9 .* reads format {VERSION}") as caught:
        instructions.read(write("file", BEGIN, version=9))
    assert "make -C harness/plugin" in caught.value.hint


@pytest.mark.parametrize("size", [20, HEADER.size, 5000, -1])
def test_read__truncated(write: Write, size: int) -> None:
    path = write("file", BEGIN)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CountersError, match="cut off"):
        instructions.read(path)


def test_read__damaged_names(write: Write) -> None:
    path = write("file", BEGIN, slots=["?nothing", *SLOTS[1:]])
    with pytest.raises(CountersError, match="damaged table of names"):
        instructions.read(path)


def test_diff__other_run(write: Write) -> None:
    begin = instructions.read(write("begin", BEGIN))
    end = instructions.read(write("end", END, run_id=8))
    with pytest.raises(CountersError, match="not of the same run"):
        instructions.diff(begin, end)


def test_diff__wrong_order(write: Write) -> None:
    begin, end = instructions.read(write("begin", BEGIN)), instructions.read(write("end", END))
    with pytest.raises(CountersError, match="was taken before"):
        instructions.diff(end, begin)


def test_summary__no_transaction(write: Write) -> None:
    counters = instructions.read(write("begin", BEGIN))
    with pytest.raises(CountersError, match="no transaction"):
        instructions.summary(counters, 0)
