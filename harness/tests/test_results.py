# SPDX-License-Identifier: MIT
"""What the documents say of the committed results is so."""

import csv

import pytest

from megabench import paths, table, trace

STOCK = ("stock", "stock-reuseport")
PORTED = ("megapipe-P", "megapipe-PB", "megapipe")
NGINX = ["nginx-connlen", "nginx-throughput"]


def committed(name: str) -> table.Table:
    if name not in table.measured_experiments(paths.results(), "local"):
        pytest.skip(f"no results of {name}")
    return table.make_table(table.load_raw(paths.results(), "local", name))


@pytest.mark.parametrize("name", NGINX)
def test_nginx__instructions_of_a_request(name: str) -> None:
    """In every point fewer than of both stock ones; all from one run, so that they compare."""
    one = committed(name)
    experiment = one.raw.experiment
    assert len(one.raw.runs) == 1, one.raw.runs
    rows = one.rows("instructions")
    points = rows.groupby([key for key in experiment.grid if key != "system"])
    assert len(points) >= 3
    for point, of in points:
        found = dict(zip(of["system"], of["median"], strict=True))
        assert found.keys() == {*STOCK, *PORTED}, point
        assert found["megapipe"] < min(found[system] for system in STOCK), (point, found)


def test_nginx__without_batching_more_than_stock() -> None:
    """Of connections that last; apps/nginx/README.md says why."""
    one = committed("nginx-connlen")
    at = {"transactions_per_connection": 128}
    for metric in ("instructions", "calls"):
        ours, stock = (one.one(metric, {**at, "system": name}) for name in ("megapipe-P", "stock"))
        assert ours is not None
        assert stock is not None
        assert ours.median > stock.median


def test_nginx__every_trial_replayed_its_trace_to_the_end() -> None:
    """The same connections for every system: all requests of all of them were answered."""
    for point in committed("nginx-throughput").raw.points:
        cell, metrics = point["cell"], point["metrics"]
        made = trace.WORKLOADS[cell["workload"]](cell["requests"], trace.SEED)
        assert sum(count for _, count in point["histogram_us"]) == made.requests, point["trial"]
        length = metrics["throughput"]["value"] / metrics["connections"]["value"]
        due = made.requests / len(made.connections)
        assert length == pytest.approx(due, rel=1e-4), point["trial"]


@pytest.mark.parametrize("kind", ["", "-layers", "-functions"])
def test_nginx__each_row_of_a_trace_is_synthetic(kind: str) -> None:
    path = paths.results() / "local" / "tables" / f"nginx-throughput{kind}.csv"
    with path.open() as file:
        named = {row["workload"] for row in csv.DictReader(file)}
    grid = committed("nginx-throughput").raw.experiment.grid
    assert named == {trace.label(str(name)) for name in grid["workload"]}
    assert all(name.startswith("synthetic ") for name in named), named


@pytest.mark.parametrize("name", NGINX)
def test_nginx__what_is_measured(name: str) -> None:
    """Every metric that the experiments promise, of every system."""
    one = committed(name)
    metrics = {"throughput", "bandwidth", "connections", "latency_p50", "latency_p99"}
    for metric in (*metrics, "instructions", "calls"):
        assert set(one.rows(metric)["system"]) == {*STOCK, *PORTED}, metric
