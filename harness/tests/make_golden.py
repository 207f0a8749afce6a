# SPDX-License-Identifier: MIT
"""Makes tests/golden anew: `python tests/make_golden.py`. Look at the difference before committing.

The golden raw results are of an experiment that is in no other place: an old run, a newer one that
is like it, and a run of another kernel, which must be left out. The newer one holds a failed trial,
one with errors, and one that was tried twice.
"""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

from megabench import record, table

GOLDEN = Path(__file__).parent / "golden"
NAME = "golden"
DEFINITION: dict[str, Any] = {
    "id": NAME,
    "title": "Golden",
    "claim": "of no paper",
    "mark": "A",
    "app": "pingpong",
    "metric": "throughput",
    "unit": "txn/s",
    "x": "transactions_per_connection",
    "series": "system",
    "baseline": "epoll",
    "grid": {
        "cores": [1, 8],
        "transactions_per_connection": [1, 128],
        "system": ["epoll", "megapipe-P", "megapipe"],
    },
    "fixed": {"connections": 64, "size": 64},
    "sampling": {
        "repeats": 3,
        "warmup_s": 1.0,
        "measure_s": 2.0,
        "order": "interleaved",
        "loop": "closed",
    },
    "scale": {"smoke": {}, "quick": {}, "full": {}},
    "derived": [
        {
            "metric": "gain",
            "unit": "%",
            "of": "throughput",
            "kind": "gain",
            "over": {"system": "epoll"},
        },
        {"metric": "contribution", "unit": "points", "of": "gain", "kind": "step"},
        {
            "metric": "saving",
            "unit": "x",
            "of": "instructions",
            "kind": "inverse",
            "over": {"system": "epoll"},
        },
        {
            "metric": "growth",
            "unit": "x",
            "of": "instructions",
            "kind": "ratio",
            "over": {"cores": 1},
        },
        {
            "metric": "speedup",
            "unit": "x",
            "of": "throughput",
            "kind": "ratio",
            "over": {"cores": 1},
            "needs_scaling": True,
        },
    ],
    "figure": [{"id": "t", "title": "Throughput", "shape": "lines", "metric": "throughput"}],
}


def meta(release: str) -> dict[str, Any]:
    return {
        "schema": record.SCHEMA,
        "experiment": NAME,
        "status": "complete",
        "started": "2026-11-23T10:00:00Z",
        "finished": "2026-11-23T10:05:00Z",
        "argv": ["megabench", "run", NAME],
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "scale": "quick",
        "only": {},
        "sampling": DEFINITION["sampling"],
        "left_out": [],
        "software": {"megabench": "0.1.0"},
        "binaries": {"pingpong-server": "aaaaaaaaaaaa"},
        "client": {"cpus": 2},
        "testbed": {
            "name": "local",
            "kind": "vm",
            "cores": 8,
            "is_virtual": True,
            "accel": "tcg",
            "can_scale": False,
            "why_not_scale": "8 virtual CPUs share 2 host cores",
            "facts": {"title": "virtual machine", "server": {"release": release}},
        },
        "definition": DEFINITION,
    }


def point(chance: random.Random, cores: int, length: int, system: str, repeat: int) -> Any:
    cost = {"epoll": 70e3, "megapipe-P": 66e3, "megapipe": 58e3}[system] * (
        0.25 if length > 1 else 1
    )
    rate = round(2.1e8 / cost * chance.uniform(0.9, 1.1), 1)
    cell = {
        "connections": 64,
        "cores": cores,
        "size": 64,
        "system": system,
        "transactions_per_connection": length,
    }
    key = ",".join(f"{name}={cell[name]}" for name in sorted(cell))
    metrics = {
        "throughput": {"value": rate, "unit": "txn/s"},
        "errors": {"value": 0, "unit": "count"},
        "share_per_core": {"value": [0.5, 0.5], "unit": "fraction"},
        "instructions": {
            "value": round(cost * (1 + cores / 100) * chance.uniform(0.99, 1.01), 1),
            "unit": "per transaction",
        },
    }
    return {
        "trial": f"{key}#{repeat}",
        "cell": cell,
        "system": system,
        "repeat": repeat,
        "pass": "main",
        "start": "2026-11-23T10:00:00Z",
        "status": "ok",
        "metrics": metrics,
    }


def run(stem: str, release: str, repeats: range, seed: int, *, broken: bool = False) -> None:
    chance = random.Random(seed)
    points = [
        point(chance, cores, length, system, repeat)
        for repeat in repeats
        for cores in DEFINITION["grid"]["cores"]
        for length in DEFINITION["grid"]["transactions_per_connection"]
        for system in DEFINITION["grid"]["system"]
    ]
    if broken:
        points[0] |= {"status": "errors", "reason": "2 errors in the measured window"}
        points[1] |= {"status": "failed", "reason": "port 9001 is in use", "metrics": {}}
        again = copy.deepcopy(points[2])
        points[2] |= {"status": "failed", "reason": "the server did not start", "metrics": {}}
        points.append(again)
        points[3]["notes"] = ["the client was the bottleneck: no idle time"]
    path = GOLDEN / "local" / "raw" / NAME / stem
    path.mkdir(parents=True)
    record.write_json(path / record.META, meta(release))
    lines = [json.dumps(one) + "\n" for one in points]
    (path / record.POINTS).write_text("".join(lines))


def main() -> None:
    shutil.rmtree(GOLDEN / "local", ignore_errors=True)
    run("20261120T100000Z-0123456", "6.12.110", range(1, 4), 1)
    run("20261122T100000Z-0123456", "6.12.117", range(1, 3), 2)
    run("20261123T100000Z-0123456", "6.12.117", range(1, 3), 3, broken=True)
    made = table.make_table(table.load_raw(GOLDEN, "local", NAME))
    (GOLDEN / f"{NAME}.csv").write_text(table.to_csv(made))


if __name__ == "__main__":
    main()
