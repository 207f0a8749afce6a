# SPDX-License-Identifier: MIT
"""Raw results made of a formula, to test tables and figures with; never committed as results."""

import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fakes import FakeHost

from megabench import record
from megabench.experiment import load_experiment
from megabench.measure import Measured
from megabench.plan import Trial, make_plan
from megabench.run import Outcome, Request, Session

COST = {
    "epoll": 70_000.0,
    "stock": 80_000.0,
    "stock-tuned": 79_000.0,
    "stock-reuseport": 78_000.0,
    "reuseport": 67_000.0,
    "io_uring": 65_000.0,
    "megapipe-P": 66_000.0,
    "megapipe-PB": 64_500.0,
    "megapipe": 58_000.0,
    "megapipe-BL": 59_000.0,
    "megapipe-shed": 58_500.0,
    "megapipe-mask": 58_200.0,
    "megapipe-hand-on": 61_000.0,
    "megapipe-steal": 68_000.0,
    "floor": 56_000.0,
}
LONG = {
    "epoll": 14_000.0,
    "stock": 18_000.0,
    "stock-tuned": 17_500.0,
    "stock-reuseport": 17_800.0,
    "reuseport": 13_600.0,
    "io_uring": 13_200.0,
    "megapipe-P": 13_400.0,
    "megapipe-PB": 12_300.0,
    "megapipe": 12_100.0,
    "megapipe-BL": 12_150.0,
    "megapipe-shed": 12_120.0,
    "megapipe-mask": 12_110.0,
    "megapipe-hand-on": 12_130.0,
    "megapipe-steal": 12_500.0,
    "floor": 11_600.0,
}


class SyntheticBed:
    """A testbed that is only facts."""

    kind = "vm"
    title = "virtual machine"
    server_address = "198.18.0.2"
    is_virtual = True
    accel = "tcg"
    counter_file = None
    capture_on = ""
    clients: Any = ()

    def __init__(self, name: str = "local", *, can_scale: bool = False, cores: int = 8):
        self.name, self.can_scale, self.cores = name, can_scale, cores
        self.why_not_scale = "" if can_scale else "8 vCPUs share 2 host cores"
        self.server = FakeHost("server")

    def facts(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "server": {"release": "6.12.117-megapipe", "config_sha256": "0" * 64, "cpus": 8},
        }


def formula(bed: Any, trial: Trial, number: int, folder: Path) -> Measured:
    """Numbers with the shape of the real ones, the same for the same trial."""
    chance = random.Random(trial.key)
    # Endless connections are as good as very long ones; a trace's are short.
    length = float(trial.cell.get("transactions_per_connection", 4)) or 1e6
    name = trial.system
    cost = LONG[name] + (COST[name] - LONG[name]) / length
    cost *= 1 + float(trial.cell.get("size", 1024)) / 40_000
    cost *= (0.94 + 0.0075 * trial.cores) * chance.uniform(0.99, 1.01)
    rate = 2.1e8 / cost * chance.uniform(0.9, 1.1)
    rate *= 0.5 + float(trial.cell["connections"]) / 512
    if bed.can_scale:
        rate *= trial.cores / (1 + (0.7 if name == "epoll" else 0.02) * (trial.cores - 1) / length)
    kernel = cost * 0.97
    return Measured(
        metrics={
            "throughput": rate,
            "connections": rate / length,
            "latency_p50": 256e6 / rate,
            "latency_p99": 900e6 / rate,
            "errors": 0,
            "resets": 0,
            "timeouts": 0,
            "retransmits_server": 0,
            "retransmits_client": int(chance.random() < 0.05),
            "share_per_core": [1 / trial.cores] * trial.cores,
            "imbalance": 1.0,
            "client_cpu": 0.4,
            "instructions": cost,
            "instructions_user": cost - kernel,
            "instructions_kernel": kernel,
            "instructions_spin": 300.0,
            "instructions_tick": 1500.0,
        },
        histogram=[[round(256e6 / rate, 1), math.floor(rate)]],
    )


def write(
    results: Path,
    names: list[str],
    scale: str = "quick",
    bed: SyntheticBed | None = None,
    measure: Any = formula,
) -> Outcome:
    """A whole session's raw results."""
    bed = bed or SyntheticBed()
    experiments = [load_experiment(name) for name in names]
    request = Request(experiments, scale, results)
    plan = make_plan(experiments, scale)
    when = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    session = Session(
        bed,
        request,
        plan,
        measure_trial=measure,
        confine=lambda *confined: None,
        clock=lambda: when,
    )
    return session.run()


__all__ = ["SyntheticBed", "formula", "record", "write"]
