# SPDX-License-Identifier: MIT
"""TCP segments between server and clients, by kind: a capture, kept as counts.

`megabench-packets` (harness/load/packets.c) runs beside the load generator, on the interface that
leads to the server, and keeps its counts in a file that the generator copies at the edges of the
measured window. A segment has one kind of KINDS. Segments are counted as the interface passes
them, so one that was put together from several, or will be cut into several, is one.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from megabench.errors import CommandError
from megabench.host import Host
from megabench.program import Program

PROGRAM = "megabench-packets"
# enum direction and enum kind of packets.c, in their order. Every segment has one of KINDS; OF_DATA
# says more of those with data.
DIRECTIONS = ("out", "in")
KINDS = ("syn", "rst", "data", "fin", "ack")
OF_DATA = ("psh", "data_fin")
WORDS = struct.Struct(f"={len(DIRECTIONS) * (len(KINDS) + len(OF_DATA) + 1)}Q")
# Beside a trial's logs while it runs.
LIVE, COPIES = "packets.live", "packets"

METRICS = (
    "segments",
    *(f"segments_{one}" for one in DIRECTIONS),
    *(f"segments_{one}_{kind}" for one in DIRECTIONS for kind in (*KINDS, *OF_DATA)),
)
LABELS = {
    "segments": "TCP segments on the wire",
    "segments_out": "from the server",
    "segments_in": "to the server",
} | {
    f"segments_{one}_{kind}": f"{way}: {said}"
    for one, way in (("out", "from the server"), ("in", "to the server"))
    for kind, said in (
        ("syn", "SYN"),
        ("rst", "RST"),
        ("data", "with data"),
        ("fin", "FIN without data"),
        ("ack", "bare ACK"),
        ("psh", "with data and PSH"),
        ("data_fin", "with data and FIN"),
    )
}


@contextmanager
def captured(
    client: Host, program: str, interface: str, port: int, logs: Path
) -> Iterator[dict[str, int]]:
    """Count while the context lasts; afterwards `lost` says how many segments were missed."""
    said: dict[str, int] = {}
    argv = [program, interface, str(port), str(logs / LIVE)]
    with Program(client, argv, logs / "packets.log") as capture:
        capture.ready()
        yield said
        said["lost"] = int(capture.stop()["lost"])


def read(path: Path) -> tuple[int, ...]:
    """A copy of the counts."""
    data = path.read_bytes()
    if len(data) != WORDS.size:
        raise CommandError([PROGRAM], None, problem=f"{path}: {len(data)} bytes of {WORDS.size}")
    return WORDS.unpack(data)


def metrics(logs: Path, transactions: int) -> dict[str, float]:
    """Segments of the window, per transaction; the copies are taken away."""
    begin, end = (read(logs / f"{COPIES}.{edge}") for edge in ("begin", "end"))
    for name in (LIVE, f"{COPIES}.begin", f"{COPIES}.end"):
        (logs / name).unlink()
    return by_name([after - before for before, after in zip(begin, end, strict=True)], transactions)


def by_name(words: list[int], transactions: int) -> dict[str, float]:
    """The words of a file under their names, and their sums."""
    names = (*KINDS, *OF_DATA, "bytes")
    rows = [words[at : at + len(names)] for at in range(0, len(words), len(names))]
    made: dict[str, float] = {}
    for direction, row in zip(DIRECTIONS, rows, strict=True):
        for name, count in zip(names[:-1], row, strict=False):
            made[f"segments_{direction}_{name}"] = count / transactions
        made[f"segments_{direction}"] = sum(row[: len(KINDS)]) / transactions
    made["segments"] = made["segments_out"] + made["segments_in"]
    return {name: made[name] for name in METRICS}


def notes(said: Mapping[str, int]) -> list[str]:
    """What a reader should know of the capture."""
    lost = said.get("lost", 0)
    return [f"the capture missed {lost} segments"] if lost else []
