# SPDX-License-Identifier: MIT
"""nginx as the harness deploys it: configured, checked with requests, loaded, counted. Natively.

megabench-load, requests --- loopback --- build/bin/nginx-stock
"""

import os
import shutil
from pathlib import Path

import pytest
from programs import BIN, Load, build
from test_load_memcached import NativeBed, free_trial

from megabench import apps, nginx, trace
from megabench.errors import HarnessError

STOCK = BIN / "nginx-stock"
CELL = {"cores": 2, "connections": 16, "workload": "yahoo", "requests": 1000}


@pytest.fixture
def program(tmp_path: Path) -> str:
    """nginx in a folder of its own, beside its documents."""
    build("harness/load")
    placed = tmp_path / "bin" / "nginx-stock"
    placed.parent.mkdir()
    shutil.copy(STOCK, placed)
    assert nginx.put_documents(NativeBed().server, str(placed))
    assert not nginx.put_documents(NativeBed().server, str(placed))
    return str(placed)


needs_nginx = pytest.mark.skipif(
    not STOCK.exists() or os.geteuid() != 0, reason="make nginx, and root, for its workers"
)


@needs_nginx
@pytest.mark.parametrize("system", ["stock", "stock-reuseport"])
def test_stock__checked_loaded_and_counted(program: str, system: str, tmp_path: Path) -> None:
    bed, number = NativeBed(), free_trial()
    cell = {**CELL, "system": system}
    port = apps.port_of(number)
    argv = apps.server_argv("nginx", cell, "127.0.0.1", port, str(Path(program).parent))
    with apps.start("nginx", cell, bed, argv, number, tmp_path / "log") as server:
        server.ready()
        flags = apps.app("nginx").load_flags(cell, apps.load_folder(None))
        load = Load("--target", apps.target("127.0.0.1", port), *flags, "--connections", "16")
        counters = server.stop()["counters"]
    made = trace.yahoo(1000, trace.SEED)
    assert load.errors == {}
    assert load.result["transactions"] == made.requests
    assert load.result["connections"] == len(made.connections)
    assert counters["requests"] >= made.requests


@needs_nginx
def test_stock__a_wrong_document_is_found_out(program: str, tmp_path: Path) -> None:
    bed, number = NativeBed(), free_trial()
    cell = {**CELL, "system": "stock"}
    port = apps.port_of(number)
    document = Path(nginx.folder_of(program)) / "documents" / trace.path_of("small", 0)[1:]
    document.write_bytes(bytes([document.read_bytes()[0] ^ 1]) + document.read_bytes()[1:])
    argv = apps.server_argv("nginx", cell, "127.0.0.1", port, str(Path(program).parent))
    with (
        apps.start("nginx", cell, bed, argv, number, tmp_path / "log") as server,
        pytest.raises(HarnessError, match="GET http://nginx/small/0000: status 200"),
    ):
        server.ready()


def test_configuration__a_systems_lines_in_their_places() -> None:
    lines = ["events: use megapipe", "listen: reuseport"]
    text = nginx.configuration("/x/bin/nginx-stock", CELL, lines, "198.18.0.2", 9001)
    assert "events {\n    worker_connections 4224;\n    use megapipe;\n}" in text
    assert "listen 198.18.0.2:9001 backlog=65535 reuseport;" in text
    assert "root /x/nginx/documents;" in text
    assert "sendfile on;" in text
    with pytest.raises(HarnessError, match="no part we know"):
        nginx.configuration("/x/bin/nginx", CELL, ["http: x"], "198.18.0.2", 9001)
