# SPDX-License-Identifier: MIT
"""Synthetic traces have the statistics that are stated of them."""

import zlib
from pathlib import Path

import pytest

from megabench import trace

REQUESTS = 8000


def sizes_asked(made: trace.Trace) -> list[int]:
    return [made.sizes[index] for requests in made.connections for index in requests]


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("requests", [2000, REQUESTS, 100_000])
def test_specweb__as_stated(requests: int) -> None:
    made = trace.specweb(requests, trace.SEED)
    assert {len(connection) for connection in made.connections} == {6}
    sizes = sizes_asked(made)
    assert (min(made.sizes), max(made.sizes)) == (30, 5670)
    assert mean(sizes) == pytest.approx(704, rel=0.02)


@pytest.mark.parametrize("requests", [REQUESTS, 100_000])
def test_yahoo__as_stated(requests: int) -> None:
    made = trace.yahoo(requests, trace.SEED)
    lengths = sorted(len(connection) for connection in made.connections)
    assert (lengths[0], lengths[-1]) == (1, 1597)
    assert mean(lengths) == pytest.approx(2.3, rel=0.01)
    top = lengths[-round(len(lengths) * 0.01) :]
    assert sum(top) / sum(lengths) == pytest.approx(0.5, abs=0.03)
    sizes = sizes_asked(made)
    assert mean(sizes) == pytest.approx(12_500, rel=0.02)
    assert sum(size < 2000 for size in sizes) / len(sizes) == pytest.approx(0.6, abs=0.01)


def test_yahoo__long_connections_are_not_the_end() -> None:
    made = trace.yahoo(REQUESTS, trace.SEED)
    half = len(made.connections) // 2
    assert max(len(connection) for connection in made.connections[half:]) <= trace.LONG
    assert made.connections != tuple(sorted(made.connections, key=len, reverse=True))


def test_yahoo_half__the_same_connections_half_the_sizes() -> None:
    whole, half = (make(REQUESTS, trace.SEED) for make in (trace.yahoo, trace.yahoo_half))
    assert half.connections == whole.connections
    assert [2 * size for size in half.sizes] == pytest.approx(whole.sizes, abs=2)


@pytest.mark.parametrize("requests", [900, REQUESTS, 90_000])
def test_specweb96__as_stated(requests: int) -> None:
    made = trace.specweb96(requests, trace.SEED)
    assert {len(connection) for connection in made.connections} == {5}
    sizes = sizes_asked(made)
    edges = (0, 1000, 10_000, 100_000, 1_000_000)
    for low, high, share in zip(edges[:-1], edges[1:], (0.35, 0.50, 0.14, 0.01), strict=True):
        found = sum(low <= size < high for size in sizes) / len(sizes)
        assert found == pytest.approx(share, abs=0.01), f"{low} to {high}"
        assert sum(low <= size < high for size in made.sizes) == 9


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
