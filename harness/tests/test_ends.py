# SPDX-License-Identifier: MIT
"""MegaPipe's server ends a connection by itself, its FIN apart or with the last data.

this machine: a client that waits for the end, or megabench-load --- tap --- guest: pingpong-server
"""

import sys
from pathlib import Path

import pytest
from test_ideas import bed, server

from megabench.testbed import Testbed

pytestmark = pytest.mark.vm
# Fixtures are found by their names in this module.
__all__ = ["bed"]

COUNT = 100
WAYS = {
    "whole": ("--api", "megapipe"),
    "PB": ("--api", "megapipe", "--no-lwsocket"),
    "P": ("--api", "megapipe", "--no-lwsocket", "--batch", "1"),
    "raw": ("--api", "megapipe-raw"),
}
# Says all at once, and never closes first: address, port, bytes, connections.
PATIENT = """
import os, socket, sys
address, port, size, number = sys.argv[1], *map(int, sys.argv[2:])
for _ in range(number):
    with socket.create_connection((address, port), timeout=60) as connection:
        message = os.urandom(size)
        connection.sendall(message)
        received = b""
        while more := connection.recv(1 << 16):
            received += more
        assert received == message, (len(received), size)
"""


@pytest.mark.parametrize("fin", [(), ("--fin-with-data",)])
@pytest.mark.parametrize("way", WAYS)
def test_messages__the_server_closes_after_the_last(
    bed: Testbed, tmp_path: Path, way: str, fin: tuple[str, ...]
) -> None:
    with server(bed, tmp_path, *WAYS[way], "--messages", "5", *fin) as serving:
        argv = [sys.executable, "-c", PATIENT, bed.server_address, str(serving.port), "320", "20"]
        bed.clients[0].run(argv, timeout=120)
        result = serving.load(connections=1, transactions=5, count=5 * COUNT, warmup=0)
        threads = serving.counters()
    assert sum(thread["transactions"] for thread in threads) == 5 * (COUNT + 20)
    assert not any(thread["errors"] for thread in threads)
    # A FIN that is with the last data is always seen before the client closes; else, by chance.
    if fin:
        assert result["server_closed_first"] == result["connections"]
