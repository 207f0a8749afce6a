# SPDX-License-Identifier: MIT
"""The plugin against a guest whose every instruction is known (guest/firmware.S).

      firmware.S --cc--> 64 KiB of firmware --+
           |                                  +--> qemu-system-x86_64 + libinsn.so --> counters
           +--nm--> its labels = System.map --+

No kernel, no root, no network; needs QEMU and a C compiler.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import BIN, build

from megabench import instructions

QEMU = "qemu-system-x86_64"
FIRMWARE = Path(__file__).parent / "guest" / "firmware.S"
DEADLINE_S = 60.0
LEFT_BY_ITSELF = 1  # isa-debug-exit makes 2 * value + 1

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in (QEMU, "cc", "ld", "nm", "objcopy")),
    reason=f"needs {QEMU}, cc and binutils",
)

# What firmware.S says, but for `leave`, whose end QEMU's versions see in different ways.
KERNEL = {
    "_start": 8,
    "straight": 2003 + 3,
    "copy_inline": 5,
    "copy_target": 5,
    "copy_nothing": 3,
    "copy_twice": 6,
    "waits_inline": 3,
    "waits_by_call": 4,
    "looks": 3,
    "pauses_once": 203,
    "crosses_page": 4,
    "tick_work": 3,
    "irq_exit_rcu": 2,
    "soft_work": 3,
    "idle_work": 3,
    "schedule_idle": 2,
    "entry_SYSCALL_64": 4,
    "work_after_idle": 2,
    "main": 19,
}
APART = {
    "[user]": 1,
    "[pause]": 39,
    "queued_spin_lock_slowpath": 4,
    "[tick]": 7,
    "[idle]": 6,
    "ticks": 1,
    "syscalls": 2,
}


@pytest.fixture(scope="module")
def plugin() -> Path:
    build("harness/plugin")
    return BIN / "libinsn.so"


class Guest:
    """The firmware and its map, in a directory of their own."""

    def __init__(self, folder: Path, plugin: Path, *defines: str) -> None:
        self.plugin = plugin
        self.image, self.map = folder / "firmware.bin", folder / "System.map"
        self.counters = folder / "counters"
        linked = folder / "firmware.elf"
        flags = ["-m32", "-nostdlib", "-static", "-Wl,-Ttext=0xf0000,--build-id=none,-e_start"]
        self._run("cc", *flags, *defines, "-o", str(linked), str(FIRMWARE))
        self._run("objcopy", "-O", "binary", "-j", ".text", str(linked), str(self.image))
        labels = self._run("nm", "-n", str(linked)).splitlines()
        until = next(number for number, line in enumerate(labels) if line.endswith(" end"))
        self.map.write_text(
            "\n".join([*labels[:until], labels[until].replace(" t ", " D ")]) + "\n"
        )

    @staticmethod
    def _run(*argv: str) -> str:
        return subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=DEADLINE_S
        ).stdout

    def argv(self, *, accel: str = "tcg", options: str | None = None) -> list[str]:
        if options is None:
            options = f"out={self.counters},map={self.map}"
        return [
            QEMU, "-accel", accel, "-smp", "2", "-m", "16", "-nodefaults", "-display", "none",
            "-bios", str(self.image), "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-plugin", f"{self.plugin},{options}",
        ]  # fmt: skip

    def run(self, **how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(**how), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen(self.argv()) as process:
            try:
                yield
            finally:
                process.kill()


@pytest.fixture
def guest(tmp_path: Path, plugin: Path) -> Guest:
    return Guest(tmp_path, plugin)


@pytest.mark.parametrize("accel", ["tcg,thread=multi", "tcg,thread=single"])
@pytest.mark.parametrize("exact", ["off", "on"])
def test_count__every_instruction(guest: Guest, accel: str, exact: str) -> None:
    options = f"out={guest.counters},map={guest.map},exact={exact}"
    assert guest.run(accel=accel, options=options).returncode == LEFT_BY_ITSELF
    counters = instructions.read(guest.counters)
    kernel = counters.by_name("kernel")
    assert 3 <= kernel.pop("leave") <= 5
    assert kernel == KERNEL
    assert counters.by_name("user", "spin", "tick", "idle", "event") == APART
    assert counters.by_vcpu()[1] == 0


def test_count__read_while_running(tmp_path: Path, plugin: Path) -> None:
    guest = Guest(tmp_path, plugin, "-DENDLESS")
    deadline = time.monotonic() + DEADLINE_S

    def wait_for(least: int) -> instructions.Counters:
        while time.monotonic() < deadline:
            if guest.counters.exists():
                counters = instructions.read(guest.counters)
                if counters.by_name("kernel").get("for_ever", 0) >= least:
                    return counters
            time.sleep(0.01)
        raise AssertionError("the guest makes no progress")

    with guest.running():
        begin = wait_for(1)
        end = wait_for(begin.by_name("kernel")["for_ever"] + 1_000_000)
    assert set(instructions.diff(begin, end).by_name("user", "kernel", "spin")) == {"for_ever"}


def test_count__new_run_leaves_old_file_whole(guest: Guest) -> None:
    guest.run()
    with guest.counters.open("rb") as old:
        guest.run()
        assert len(old.read()) == guest.counters.stat().st_size
    assert list(guest.counters.parent.glob("*.new")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("map=M", "needs out=FILE and map=SYSTEM.MAP"),
        ("out=F", "needs out=FILE and map=SYSTEM.MAP"),
        ("out=F,map=/nowhere", "cannot read map /nowhere: No such file"),
        ("out=F,map=BAD", "line 2 is not `address type name`"),
        ("out=F,map=EMPTY", "no function in map"),
        ("out=/nowhere/file,map=M", "cannot make /nowhere/file: No such file"),
        ("out=F,map=M,speed=9", "unknown argument speed=9: known are"),
        ("out=F,map=M,exact=maybe", "unknown argument exact=maybe: known are"),
    ],
)
def test_install__bad_argument(guest: Guest, tmp_path: Path, options: str, message: str) -> None:
    (tmp_path / "bad").write_text("000f0000 T good\nnonsense\n")
    (tmp_path / "empty").touch()
    names = {"F": guest.counters, "M": guest.map, "BAD": tmp_path / "bad"}
    names["EMPTY"] = tmp_path / "empty"
    given = [argument.split("=") for argument in options.split(",")]
    done = guest.run(options=",".join(f"{key}={names.get(value, value)}" for key, value in given))
    assert message in done.stderr
    assert done.returncode != 0
    assert not guest.counters.exists()
