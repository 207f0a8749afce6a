# SPDX-License-Identifier: MIT
"""Synthetic web workloads: trace files for the load generator, and the documents they ask for.

The paper's traces are not public. These are synthetic: made from the parameters that are stated of
them (harness/traces.toml) and a seed, so that everybody has the same ones. Sizes and lengths are
not drawn at random but are evenly spaced quantiles of a distribution that is fitted to the stated
mean: so a trace of a few thousand requests already has the stated statistics, a heavy tail too.
Only the order is random.
"""

import argparse
import math
import random
import tomllib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from megabench import paths

SEED = 2012
# How many different objects stand for a distribution of sizes.
OBJECTS = 500
# Connections of more requests than this come in the first half of a trace, so that its end is not
# the end of one long connection.
LONG = 32


@dataclass(frozen=True)
class Trace:
    """Objects by size, and connections as lists of objects."""

    name: str
    about: str
    sizes: tuple[int, ...]
    connections: tuple[tuple[int, ...], ...]

    @property
    def requests(self) -> int:
        return sum(map(len, self.connections))


@cache
def stated() -> dict[str, dict[str, Any]]:
    """What is stated of each workload, from harness/traces.toml."""
    return tomllib.loads((paths.HARNESS / "traces.toml").read_text())


def label(name: str) -> str:
    """A workload as a person meets it, which tells of every trace that it is synthetic."""
    return str(stated()[name]["label"]) if name in stated() else name


def solve(rises: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a function that rises reaches a value, by halving."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < wanted else (low, middle)
    return (low + high) / 2


def quantiles(count: int) -> list[float]:
    """The middles of `count` equal shares."""
    return [(place + 0.5) / count for place in range(count)]


def lognormal_sizes(count: int, mean: float, small: int, small_share: float) -> list[int]:
    """Sizes of which a share lies under `small`, with this mean."""
    normal = NormalDist()
    inside = normal.inv_cdf(small_share)

    def sizes(sigma: float) -> list[int]:
        mu = math.log(small) - inside * sigma
        return [max(1, round(math.exp(mu + sigma * normal.inv_cdf(q)))) for q in quantiles(count)]

    # Above its least, where the median carries it, the mean rises with sigma.
    sigma = solve(lambda sigma: sum(sizes(sigma)) / count, mean, 1.0, 4.0)
    return sizes(sigma)


def bounded_sizes(count: int, mean: float, least: int, most: int) -> list[int]:
    """Sizes from `least` to `most` with this mean: a power of evenly spaced quantiles."""

    def sizes(power: float) -> list[int]:
        span = most - least
        inner = [least + span * q ** (1 / power) for q in quantiles(count - 2)]
        return [least, *map(round, inner), most]

    power = solve(lambda power: sum(sizes(power)) / count, mean, 0.01, 10.0)
    return sizes(power)


def heavy_lengths(
    count: int, mean: float, longest: int, top_connections: float, top_requests: float
) -> list[int]:
    """Requests per connection: a few connections, the longest ones, have a large share of all."""
    top = max(2, round(count * top_connections))
    top_sum = round(count * mean * top_requests)
    rest_mean = (count * mean - top_sum) / (count - top)

    def spread(power: float) -> list[int]:
        return [max(2, round(longest * q**power)) for q in quantiles(top - 1)]

    # The higher the power, the fewer are nearly as long as the longest.
    power = solve(lambda less: sum(spread(40 - less)), top_sum - longest, 0.0, 39.9)
    long = [*spread(40 - power), longest]
    # The others are geometric: 1 with the share that gives their mean, then ever rarer.
    stay = 1 - 1 / rest_mean
    short = [1 + int(math.log(1 - q) / math.log(stay)) for q in quantiles(count - top)]
    return [*short, *long]


def ordered(lengths: Sequence[int], dice: random.Random) -> list[int]:
    """At random, but with long connections in the first half."""
    long = [length for length in lengths if length > LONG]
    short = [length for length in lengths if length <= LONG]
    dice.shuffle(short)
    half = len(short) // 2
    first = long + short[: max(0, half - len(long))]
    dice.shuffle(first)
    return first + short[max(0, half - len(long)) :]


def dealt(lengths: Sequence[int], objects: Sequence[int], dice: random.Random) -> list[list[int]]:
    """Objects for every request: each as often as it is in `objects`, in random order."""
    pack: list[int] = []
    connections = []
    for length in lengths:
        requests = []
        for _ in range(length):
            if not pack:
                pack = list(objects)
                dice.shuffle(pack)
            requests.append(pack.pop())
        connections.append(requests)
    return connections


def _made(
    name: str, about: str, sizes: Sequence[int], connections: Sequence[Sequence[int]]
) -> Trace:
    return Trace(name, about, tuple(sizes), tuple(map(tuple, connections)))


def specweb(requests: int, seed: int) -> Trace:
    """SpecWeb-like: a few requests a connection, small objects."""
    length, of = (
        stated()["specweb"]["requests_per_connection"]["mean"],
        stated()["specweb"]["bytes"],
    )
    dice = random.Random(f"specweb {seed}")
    sizes = bounded_sizes(OBJECTS, of["mean"], of["least"], of["most"])
    lengths = [length] * round(requests / length)
    about = f"{length} requests a connection, objects of {of['least']} to {of['most']} bytes, "
    about += f"{of['mean']} on average"
    return _made("specweb", about, sizes, dealt(lengths, range(len(sizes)), dice))


def _yahoo(requests: int, seed: int, divisor: int, name: str, about: str) -> Trace:
    length, of = stated()["yahoo"]["requests_per_connection"], stated()["yahoo"]["bytes"]
    dice = random.Random(f"yahoo {seed}")
    sizes = lognormal_sizes(OBJECTS, of["mean"], of["small"], of["small_share"])
    count = round(requests / length["mean"])
    top = length["top_connections"], length["top_requests"]
    lengths = ordered(heavy_lengths(count, length["mean"], length["most"], *top), dice)
    connections = dealt(lengths, range(len(sizes)), dice)
    return _made(name, about, [max(1, size // divisor) for size in sizes], connections)


def yahoo(requests: int, seed: int) -> Trace:
    """Yahoo-like: heavy tails of connections and of objects."""
    length, of = stated()["yahoo"]["requests_per_connection"], stated()["yahoo"]["bytes"]
    about = f"{length['least']} to {length['most']} requests a connection, {length['mean']} on "
    about += f"average, objects of {of['mean']} bytes on average, {of['small_share']:.0%} of them "
    about += f"under {of['small']}"
    return _yahoo(requests, seed, 1, "yahoo", about)


def yahoo_half(requests: int, seed: int) -> Trace:
    """Yahoo/2: the same connections, every size halved."""
    divisor = stated()["yahoo-half"]["divisor"]
    return _yahoo(requests, seed, divisor, "yahoo-half", "as yahoo, every size halved")


def specweb96(requests: int, seed: int) -> Trace:
    """The mix of SPECweb96: classes of files, which differ in how often they are asked for."""
    length = stated()["specweb96"]["requests_per_connection"]["mean"]
    classes, files = stated()["specweb96"]["classes"], stated()["specweb96"]["files"]
    dice = random.Random(f"specweb96 {seed}")
    sizes = [row["first"] * (1 + file) for row in classes for file in range(files)]
    # In 100 times as many requests as a class has files, every class has its share, and every file
    # of it the same.
    pack = [
        index * files + file
        for index, row in enumerate(classes)
        for file in range(files)
        for _ in range(round(100 * row["share"]))
    ]
    lengths = [length] * round(requests / length)
    about = "35 % of the requests for files under 1 KB, 50 % to 10 KB, 14 % to 100 KB, 1 % to 1 MB"
    return _made("specweb96", about, sizes, dealt(lengths, pack, dice))


def small(requests: int, seed: int) -> Trace:
    """One small object, and no connections: for runs that a clock ends."""
    del requests, seed
    return _made("small", label("small"), [stated()["small"]["bytes"]["mean"]], [])


WORKLOADS: dict[str, Callable[[int, int], Trace]] = {
    "specweb": specweb,
    "yahoo": yahoo,
    "yahoo-half": yahoo_half,
    "specweb96": specweb96,
    "small": small,
}


def content(trace: str, index: int, size: int, seed: int = SEED) -> bytes:
    """An object's bytes: they depend on its name and the seed alone."""
    return random.Random(f"{trace} {index} {seed}").randbytes(size)


def path_of(trace: str, index: int) -> str:
    """Where an object lies under the document root."""
    return f"/{trace}/{index:04d}"


def write(trace: Trace, folder: Path, documents: Path, seed: int = SEED) -> Path:
    """The trace file in `folder`, its objects under `documents`; the trace file's path."""
    lines = [
        f"# synthetic workload {trace.name}, seed {seed}: {trace.about}",
        f"# {len(trace.sizes)} objects, {len(trace.connections)} connections, "
        f"{trace.requests} requests",
    ]
    for index, size in enumerate(trace.sizes):
        data = content(trace.name, index, size, seed)
        path = documents / path_of(trace.name, index)[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        lines.append(f"object {path_of(trace.name, index)} {size} {zlib.crc32(data):08x}")
    lines += ["connection " + " ".join(map(str, requests)) for requests in trace.connections]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{trace.name}-{trace.requests}.trace"
    file.write_text("\n".join(lines) + "\n")
    return file


def main() -> None:
    """python -m megabench.trace WORKLOAD REQUESTS FOLDER [--seed N]"""
    parser = argparse.ArgumentParser(description="Write a synthetic trace and its documents.")
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("requests", type=int, help="about so many; 0 for `small`")
    parser.add_argument("folder", type=Path, help="gets traces/ and documents/")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    made = WORKLOADS[given.workload](given.requests, given.seed)
    print(write(made, given.folder / "traces", given.folder / "documents", given.seed))


if __name__ == "__main__":
    main()
