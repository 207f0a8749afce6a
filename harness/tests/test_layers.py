# SPDX-License-Identifier: MIT
"""The map from functions to layers: whole, unambiguous, and true to what was measured."""

import csv
import json
import re
from pathlib import Path

import pytest

from megabench import paths
from megabench.errors import DefinitionError
from megabench.layers import UNKNOWN, layers, load_layers

GOLDEN = Path(__file__).parent / "golden/functions.csv"
# The patch has one call in each, in the branch for listeners: see layers.toml.
OF_TCP = {"tcp_v4_rcv", "tcp_v6_rcv", "process"}
ENOUGH = 0.99


def golden() -> dict[str, dict[str, float]]:
    """Every function that was counted, by system and transactions per connection."""
    with GOLDEN.open() as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name != "function"]
    return {
        column: {row["function"]: float(row[column]) for row in rows if row[column]}
        for column in columns
    }


@pytest.mark.parametrize("column", golden())
def test_layers__cover_nearly_all_instructions(column: str) -> None:
    functions = golden()[column]
    assert len(functions) > 500
    known = sum(v for name, v in functions.items() if layers().of(name).name != UNKNOWN)
    assert known >= ENOUGH * sum(functions.values())


def test_layers__cover_what_was_measured() -> None:
    for path in paths.results().glob("*/raw/*/*/logs/*/functions.json"):
        functions = json.loads(path.read_text())
        known = sum(v for name, v in functions.items() if layers().of(name).name != UNKNOWN)
        assert known >= ENOUGH * sum(functions.values()), path


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        ("[user]", "user"),
        ("entry_SYSCALL_64", "entry"),
        ("ep_poll_callback", "epoll"),
        ("io_recv", "io_uring"),
        ("mp_queue_post", "megapipe"),
        ("mp_floor_echo", "floor"),
        ("sock_sendmsg", "socket"),
        ("tcp_sendmsg_locked", "tcp"),
        ("tcp_gro_receive", "core"),
        ("ip_rcv_core", "ip"),
        ("virtqueue_add_split", "driver"),
        ("kmem_cache_free", "memory"),
        ("try_to_wake_up", "sched"),
        ("__mod_timer", "timer"),
        ("no_such_function", UNKNOWN),
    ],
)
def test_of__longest_name_counts(function: str, layer: str) -> None:
    assert layers().of(function).name == layer


def test_of__what_the_patch_touches_is_interface() -> None:
    hooks = paths.root() / "kernel-patch/hooks"
    touched = set()
    for patch in hooks.glob("*.patch"):
        source = ""
        for line in patch.read_text().splitlines():
            if line.startswith("+++ b/"):
                source = line[6:]
            elif line.startswith("@@") and source.endswith(".c"):
                touched |= set(re.findall(r"(\w+)\(|(process):", line.rpartition("@@")[2]))
    names = {name for pair in touched for name in pair if name}
    assert {"sock_i_uid", "inet_csk_reqsk_queue_add", "reuseport_migrate_sock"} <= names
    assert {name for name in names if not layers().of(name).interface} <= OF_TCP


def test_of__the_kernel_patchs_own_functions_are_interface() -> None:
    source = paths.root() / "kernel-patch/net/megapipe"
    defined = re.compile(r"^(?:static )?(?:\w+ )+\*?(mp_\w+|megapipe_\w+)\(", re.MULTILINE)
    names = {name for path in source.glob("*.c") for name in defined.findall(path.read_text())}
    assert len(names) > 200
    assert {layers().of(name).name for name in names} == {"megapipe", "floor"}


def test_load_layers__a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "layers.toml"
    path.write_text(
        '[a]\nlabel="a"\ncolour="#000000"\nfunctions=["f*"]\n'
        '[b]\nlabel="b"\ncolour="#000000"\nfunctions=["f*"]\n'
    )
    with pytest.raises(DefinitionError, match=r"f\* is in a already"):
        load_layers(path)
