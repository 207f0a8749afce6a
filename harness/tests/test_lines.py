# SPDX-License-Identifier: MIT
"""liblines.so against two processors that take turns, and what is read of its counts."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import synthetic
from programs import BIN, build

from megabench import contention, record, table
from megabench.contention import Lines, Symbols
from megabench.instructions import CountersError

QEMU = "qemu-system-x86_64"
FIRMWARE = Path(__file__).parent / "guest" / "contended.S"
DEADLINE_S = 60.0
LEFT_BY_ITSELF = 1  # isa-debug-exit makes 2 * value + 1
CHANGES = 2 * 50 - 1
TURN, SHARED, OWN, HELPED = 0x7000, 0x8000, 0x9000, 0xB000

MAP = """\
ffffffff81000000 T _text
ffffffff81001000 T inet_csk_accept
ffffffff81002000 t mp_queue_post.cold
ffffffff81003000 T _raw_spin_lock
ffffffff81004000 T odd_function
ffffffff81005000 T tick_do_update_jiffies64
ffffffff82000000 D jiffies
ffffffff82000100 b tcp_memory_allocated
ffffffff82001000 B _end
"""
FIRST, SECOND = 0xFFFF888000000000, 0xFFFF888000000040


@pytest.fixture
def symbols(tmp_path: Path) -> Symbols:
    (tmp_path / "System.map").write_text(MAP)
    return Symbols(tmp_path / "System.map")


def reading(rows: dict[int, tuple[dict[int, int], list[int]]], run_id: int = 7) -> Lines:
    """Lines by address: changes by the low half of a function's address, and by vCPU."""
    places = [list(functions.items()) + [(0, 0)] * 8 for functions, _ in rows.values()]
    return Lines(
        Path("counters"),
        run_id,
        8,
        np.array(list(rows), dtype=np.uint64),
        np.array([[f for f, _ in row[:8]] for row in places], dtype=np.uint32).reshape(-1, 8),
        np.array([[n for _, n in row[:8]] for row in places], dtype=np.uint32).reshape(-1, 8),
        np.array([vcpus for _, vcpus in rows.values()], dtype=np.uint32).reshape(-1, 8),
        0,
    )


@pytest.mark.skipif(
    not all(shutil.which(tool) for tool in (QEMU, "cc", "ld", "nm", "objcopy")),
    reason=f"needs {QEMU}, cc and binutils",
)
@pytest.mark.parametrize("threads", ["multi", "single"])
def test_count__each_change_of_writer(tmp_path: Path, threads: str) -> None:
    build("harness/plugin")
    elf, image, names = (tmp_path / name for name in ("elf", "image", "System.map"))

    def run(*argv: str) -> str:
        return subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=DEADLINE_S
        ).stdout

    flags = ["-m32", "-nostdlib", "-static", "-Wl,-Ttext=0xf0000,--build-id=none,-e_start"]
    run("cc", *flags, "-o", str(elf), str(FIRMWARE))
    run("objcopy", "-O", "binary", "-j", ".text", str(elf), str(image))
    # Without the linker's own names of the segments' ends.
    labels = [line for line in run("nm", "-n", str(elf)).splitlines() if line.split()[1] in "tT"]
    names.write_text("\n".join(labels) + "\n")
    out = tmp_path / "counters"
    done = subprocess.run(
        [
            QEMU, "-accel", f"tcg,thread={threads}", "-smp", "2", "-m", "16", "-nodefaults",
            "-display", "none", "-bios", str(image),
            "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-plugin", f"{BIN / 'liblines.so'},out={out},map={names},from=0",
        ],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == LEFT_BY_ITSELF, done.stderr
    lines = contention.read(out)
    assert (lines.vcpus, lines.lost) == (2, 0)
    found = {}
    for row in range(len(lines.address)):
        by_function = {
            contention.Symbols(names).function(int(low)): int(count)
            for low, count in zip(lines.functions[row], lines.changes[row], strict=True)
            if count
        }
        found[int(lines.address[row])] = (by_function, lines.by_vcpu[row].tolist())
    assert OWN not in found
    if threads == "single":
        # The first processor begins, so the second one takes a line over once more often.
        assert found[TURN] == ({"give_turn": CHANGES}, [CHANGES // 2, CHANGES // 2 + 1])
        assert found[SHARED] == ({"write_shared": CHANGES}, [CHANGES // 2, CHANGES // 2 + 1])
        assert found[HELPED] == found[SHARED]
        return
    # A store is told after it is done: with a thread for each processor the other one's answer to
    # it may be told first, and two changes are seen as none.
    for place, name in ((TURN, "give_turn"), (SHARED, "write_shared"), (HELPED, "write_shared")):
        by_function, by_vcpu = found[place]
        assert set(by_function) == {name}
        assert 0.8 * CHANGES <= by_function[name] <= CHANGES
        assert abs(by_vcpu[1] - by_vcpu[0]) <= 1


def test_read__another_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mpinsn\r\n" + bytes(100))
    assert not contention.is_lines(tmp_path / "file")
    with pytest.raises(CountersError, match="not a file of lines"):
        contention.read(tmp_path / "file")


def test_clear__makes_room(tmp_path: Path) -> None:
    header = (contention.MAGIC, 1, contention.HEADER.size, 2, 8, 7, 72, 80, 2, 5, 6)
    line = np.zeros(20, dtype=np.uint32)
    line[:4] = 0x40, 0, 9, 1
    path = tmp_path / "counters"
    path.write_bytes(contention.HEADER.pack(*header) + line.tobytes() + bytes(80))
    assert (len(contention.read(path).address), contention.read(path).lost) == (1, 11)
    contention.clear(path)
    assert (len(contention.read(path).address), contention.read(path).lost) == (0, 0)


def test_diff__of_old_and_new_lines() -> None:
    begin = reading({FIRST: ({0x81001000: 5}, [3, 2] + [0] * 6)})
    end = reading(
        {
            FIRST: ({0x81001000: 9, 0x81004000: 1}, [5, 4, 1] + [0] * 5),
            SECOND: ({0x81004000: 2}, [1, 1] + [0] * 6),
        }
    )
    window = contention.diff(begin, end)
    assert window.changes[:, :2].tolist() == [[4, 1], [2, 0]]
    assert window.by_vcpu[0].tolist() == [2, 2, 1] + [0] * 5


def test_diff__leaves_out_lines_at_rest() -> None:
    begin = reading({FIRST: ({0x81001000: 5}, [3, 2] + [0] * 6)})
    assert len(contention.diff(begin, begin).address) == 0


def test_diff__of_different_runs() -> None:
    begin, end = reading({}), reading({}, run_id=8)
    with pytest.raises(CountersError, match="not of the same run"):
        contention.diff(begin, end)


def test_summary__levels_and_names(symbols: Symbols) -> None:
    window = reading(
        {
            FIRST: ({0x81002000: 30, 0x81003000: 10}, [10, 10, 10, 10, 0, 0, 0, 0]),
            SECOND: ({0x81004000: 6}, [3, 3, 0, 0, 0, 0, 0, 0]),
            0xFFFFFFFF82000100: ({0x81004000: 8}, [2, 2, 2, 2, 0, 0, 0, 0]),
            # One writer that took it from one who has not come back: a hand-over, not sharing.
            0xFFFF888000001000: ({0x81004000: 1}, [1, 0, 0, 0, 0, 0, 0, 0]),
        }
    )
    found = contention.summary(window, symbols, 10)
    two, four = found["levels"]["2"], found["levels"]["4"]
    assert (two["changes"], two["lines"]) == (pytest.approx(5.4), 3)
    assert (four["changes"], four["lines"]) == (pytest.approx(4.8), 2)
    assert four["interface"] == pytest.approx(4.0)
    assert four["names"]["tcp_memory_allocated"]["changes"] == pytest.approx(0.8)
    assert "written by odd_function" in two["names"]
    assert four["functions"]["_raw_spin_lock"] == pytest.approx(1.0)
    assert contention.metrics(found)["contention_interface_4"] == pytest.approx(4.0)


def test_summary__what_found_no_room_spoils_it(symbols: Symbols) -> None:
    full = Lines(**{**vars(reading({})), "lost": 3})
    with pytest.raises(CountersError, match="3 changes found no room"):
        contention.summary(full, symbols, 10)


def test_name_of__the_first_object_that_fits() -> None:
    shared = [one for one in contention.objects() if not one.apart]
    for one in shared:
        assert one.functions
        for pattern in one.functions:
            name, _ = contention.name_of(None, {pattern.rstrip("*"): 10})
            assert name in {row.label for row in shared}


def test_summary__what_the_clock_writes_is_apart(symbols: Symbols) -> None:
    clock, other, four = 0x81005000, 0x81004000, [10, 10, 5, 5, 0, 0, 0, 0]
    window = reading(
        {FIRST: ({clock: 20, other: 10}, four), SECOND: ({clock: 10, other: 20}, four)}
    )
    found = contention.summary(window, symbols, 10)
    level = found["levels"]["4"]
    # The second is the clock's too, but not mostly.
    assert (level["changes"], level["lines"]) == (3.0, 1)
    assert list(level["apart"].values()) == [3.0]
    assert contention.metrics(found)["contention_apart_4"] == 3.0
    assert found["hottest"]["changes"] == 3.0
    assert "odd_function" in found["hottest"]["functions"]


def test_worst__of_the_first_trial_of_each_point(symbols: Symbols, tmp_path: Path) -> None:
    window = reading({FIRST: ({0x81002000: 30}, [10, 10, 5, 5, 0, 0, 0, 0])})
    found = contention.summary(window, symbols, 10)
    record.write_json(tmp_path / "run/logs/1/lines.json", found)
    cell = {"system": "epoll", "transactions_per_connection": 8, "cores": 4}
    points = [
        {"run": "run", "log": f"logs/{n}", "status": status, "cell": cell}
        for n, status in ((0, "failed"), (1, "ok"), (2, "ok"))
    ]
    (row,) = contention.worst(points, tmp_path, 4)
    assert row == [
        "epoll",
        8,
        4,
        "MegaPipe's channel and lwsockets",
        "3.000",
        1,
        "yes",
        "mp_queue_post",
    ]


def test_write_table__nothing_counted(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-contribution"], "smoke")
    raw = table.load_raw(tmp_path, "local", "pingpong-contribution")
    assert contention.write_table(tmp_path, "local", raw) is None
