# SPDX-License-Identifier: MIT
"""Synthetic traces have the statistics that are stated of them."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabench import trace
from megabench.experiment import SCALES, load_experiment

REQUESTS = 8000
EXPERIMENT = "nginx-throughput"


def measured() -> Iterator[tuple[str, int]]:
    """The traces that are replayed, at any scale, and longer ones."""
    experiment = load_experiment(EXPERIMENT)
    for scale in SCALES:
        requests = int(experiment.fixed_at(scale)["requests"])
        for name in experiment.grid_at(scale)["workload"]:
            yield str(name), requests
    yield from ((str(name), 100_000) for name in experiment.grid["workload"])


TRACES = sorted(set(measured()))
OF_CLASSES = [row for row in TRACES if "classes" in trace.stated()[row[0]]]


def lengths_of(made: trace.Trace) -> list[int]:
    return sorted(len(connection) for connection in made.connections)


def sizes_asked(made: trace.Trace) -> list[int]:
    return [made.sizes[index] for requests in made.connections for index in requests]


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


def under(bound: float, sizes: list[int]) -> float:
    """The share of them that is smaller."""
    return sum(size < bound for size in sizes) / len(sizes)


def test_stated__what_the_experiments_are_to_replay() -> None:
    """The one place with other people's numbers is right: everything else is checked against it."""
    stated = trace.stated()
    assert stated["specweb"]["requests_per_connection"] == {"least": 6, "most": 6, "mean": 6}
    assert stated["specweb"]["bytes"] == {"least": 30, "most": 5670, "mean": 704}
    yahoo = stated["yahoo"]
    connections = {"top_connections": 0.01, "top_requests": 0.5}
    connections |= {"least": 1, "most": 1597, "mean": 2.3}
    assert yahoo["requests_per_connection"] == connections
    assert yahoo["bytes"] == {"mean": 12_500, "small": 2000, "small_share": 0.6}
    assert (stated["yahoo-half"]["of"], stated["yahoo-half"]["divisor"]) == ("yahoo", 2)
    mix = stated["specweb96"]
    assert mix["requests_per_connection"] == {"least": 5, "most": 5, "mean": 5}
    assert [row["share"] for row in mix["classes"]] == [0.35, 0.50, 0.14, 0.01]
    assert [row["under"] for row in mix["classes"]] == [1000, 10_000, 100_000, 1_000_000]
    assert mix["files"] == 9
    assert stated["small"]["bytes"] == {"least": 64, "most": 64, "mean": 64}
    assert stated.keys() == trace.WORKLOADS.keys()


def test_label__a_trace_says_that_it_is_synthetic() -> None:
    for name, make in trace.WORKLOADS.items():
        is_trace = bool(make(REQUESTS, trace.SEED).connections)
        assert trace.label(name).startswith("synthetic ") == is_trace, name
    assert trace.label("unknown") == "unknown"


@pytest.mark.parametrize(("name", "requests"), TRACES)
def test_connections__as_stated(name: str, requests: int) -> None:
    made = trace.WORKLOADS[name](requests, trace.SEED)
    stated = trace.stated()[trace.stated()[name].get("of", name)]["requests_per_connection"]
    lengths = lengths_of(made)
    assert sum(lengths) == pytest.approx(requests, rel=0.01)
    assert (lengths[0], lengths[-1]) == (stated["least"], stated["most"])
    assert mean(lengths) == pytest.approx(stated["mean"], rel=0.01)
    if "top_connections" in stated:
        top = lengths[-round(len(lengths) * stated["top_connections"]) :]
        assert sum(top) / sum(lengths) == pytest.approx(stated["top_requests"], abs=0.03)


@pytest.mark.parametrize(("name", "requests"), [row for row in TRACES if row not in OF_CLASSES])
def test_sizes__as_stated(name: str, requests: int) -> None:
    """Of what is asked for, and of the objects that there are."""
    made = trace.WORKLOADS[name](requests, trace.SEED)
    row = trace.stated()[trace.stated()[name].get("of", name)]
    divisor = trace.stated()[name].get("divisor", 1)
    asked, objects = sizes_asked(made), list(made.sizes)
    stated = row["bytes"]
    for sizes, within in ((asked, 0.02), (objects, 0.001)):
        assert mean(sizes) == pytest.approx(stated["mean"] / divisor, rel=within)
        if "least" in stated:
            assert (min(sizes), max(sizes)) == (stated["least"], stated["most"])
        if "small" in stated:
            found = under(stated["small"] / divisor, sizes)
            assert found == pytest.approx(stated["small_share"], abs=0.01)


@pytest.mark.parametrize(("name", "requests"), OF_CLASSES)
def test_classes__as_stated(name: str, requests: int) -> None:
    made, stated = trace.WORKLOADS[name](requests, trace.SEED), trace.stated()[name]
    asked = sizes_asked(made)
    assert sum(row["share"] for row in stated["classes"]) == pytest.approx(1)
    for row in stated["classes"]:
        found = under(row["under"], asked) - under(row["least"], asked)
        assert found == pytest.approx(row["share"], abs=0.005), row
        files = [size for size in made.sizes if row["least"] <= size < row["under"]]
        assert files == [row["first"] * (1 + file) for file in range(stated["files"])]


def test_yahoo__long_connections_are_not_the_end() -> None:
    made = trace.yahoo(REQUESTS, trace.SEED)
    half = len(made.connections) // 2
    assert max(len(connection) for connection in made.connections[half:]) <= trace.LONG
    assert made.connections != tuple(sorted(made.connections, key=len, reverse=True))


def test_yahoo_half__the_same_connections_half_the_sizes() -> None:
    whole, half = (make(REQUESTS, trace.SEED) for make in (trace.yahoo, trace.yahoo_half))
    assert half.connections == whole.connections
    assert [2 * size for size in half.sizes] == pytest.approx(whole.sizes, abs=2)


@pytest.mark.parametrize("name", sorted(trace.WORKLOADS))
def test_workload__the_seed_alone_decides(name: str) -> None:
    make = trace.WORKLOADS[name]
    assert make(REQUESTS, 1) == make(REQUESTS, 1)
    assert not make(REQUESTS, 1).connections or make(REQUESTS, 1) != make(REQUESTS, 2)


def test_write__what_the_generator_reads(tmp_path: Path) -> None:
    made = trace.specweb(600, trace.SEED)
    file = trace.write(made, tmp_path / "traces", tmp_path / "documents")
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# synthetic workload specweb, seed 2012")
    objects = [line.split() for line in lines if line.startswith("object ")]
    assert len(objects) == len(made.sizes)
    for _, path, size, crc in objects:
        data = (tmp_path / "documents" / path[1:]).read_bytes()
        assert (len(data), zlib.crc32(data)) == (int(size), int(crc, 16))
    connections = [line.split()[1:] for line in lines if line.startswith("connection ")]
    assert connections == [[str(index) for index in one] for one in made.connections]


def test_documents__do_not_depend_on_how_many_requests() -> None:
    for make in trace.WORKLOADS.values():
        assert make(1000, trace.SEED).sizes == make(REQUESTS, trace.SEED).sizes
