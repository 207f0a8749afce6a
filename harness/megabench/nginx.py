# SPDX-License-Identifier: MIT
"""nginx as a server under test: its configuration, and a check with requests before it counts."""

import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from megabench import paths, trace
from megabench.errors import HarnessError
from megabench.host import Host, Tunnel
from megabench.service import ANSWER_S, Service

UNPACK_S = 120.0
# Beside the program: nginx-<...> lies in FOLDER/bin, the rest in FOLDER/nginx.
CONFIGURATION = """\
# One worker a core. Files are sent by sendfile from descriptors that stay open, in one packet with
# their header, and nothing is logged: the same for all systems, so that they differ in how they
# talk to the network alone.
user root;
worker_processes {cores};
worker_cpu_affinity auto;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log stderr warn;
daemon off;
events {{
    worker_connections {connections};
{events}}}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    open_file_cache max=4096 inactive=600s;
    default_type application/octet-stream;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    server {{
        listen {listen};
        root {folder}/documents;
        location = /status {{
            stub_status;
        }}
    }}
}}
"""


def folder_of(program: str) -> str:
    """Where nginx's files lie, beside the folder of its program."""
    return str(Path(program).parent.parent / "nginx")


def configuration(
    program: str, cell: Mapping[str, Any], lines: Sequence[str], address: str, port: int
) -> str:
    """nginx.conf for one cell. `lines` are the system's: `events: ...` or `listen: ...`."""
    events, listen = "", [f"{address}:{port}", "backlog=65535"]
    for line in lines:
        where, _, said = line.partition(": ")
        if where == "events":
            events += f"    {said};\n"
        elif where == "listen":
            listen.append(said)
        else:
            raise HarnessError(f"systems.toml: server.nginx: {line!r} is for no part we know")
    return CONFIGURATION.format(
        cores=cell["cores"],
        folder=folder_of(program),
        connections=8 * int(cell["connections"]) + 4096,
        events=events,
        listen=" ".join(listen),
    )


def trace_file(workload: str, requests_wanted: int) -> Path:
    """The trace file of a workload on this machine, made if it is not there."""
    made = trace.WORKLOADS[workload](requests_wanted, trace.SEED)
    file = paths.build() / "traces" / f"{made.name}-{made.requests}.trace"
    if not file.exists():
        with tempfile.TemporaryDirectory() as scratch:
            trace.write(made, file.parent, Path(scratch))
    return file


def put_documents(host: Host, program: str) -> bool:
    """The documents of all workloads, once a machine; whether they had to be copied."""
    folder = folder_of(program)
    stamp = f"{folder}/documents/{trace.SEED}.complete"
    if not host.run(["test", "-e", stamp], timeout=UNPACK_S, check=False).exit_status:
        return False
    with tempfile.TemporaryDirectory() as scratch:
        documents = Path(scratch) / "documents"
        for make in trace.WORKLOADS.values():
            # How many requests there are does not change the objects.
            trace.write(make(1000, trace.SEED), Path(scratch) / "traces", documents)
        (documents / Path(stamp).name).write_text("")
        archive = Path(scratch) / "documents.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(documents, "documents")
        host.put(archive, f"{folder}/documents.tar", mode=0o644)
    unpack = 'mkdir -p "$0/temp" && tar -xf "$0/documents.tar" -C "$0" && rm "$0/documents.tar"'
    host.run(["sh", "-c", unpack, folder], timeout=UNPACK_S)
    return True


class Nginx(Service):
    """One nginx under way; its configuration is written before it starts."""

    def __init__(self, host: Host, argv: list[str], log: Path, address: str, port: int, text: str):
        super().__init__(host, argv, log, address, port)
        self.text = text

    def __enter__(self) -> "Nginx":
        folder = folder_of(self.argv[0])
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(self.text)
            file.flush()
            self.host.put(Path(file.name), f"{folder}/nginx.conf", mode=0o644)
        self.host.run(["mkdir", "-p", f"{folder}/temp"], timeout=ANSWER_S)
        super().__enter__()
        return self

    def check(self) -> str:
        try:
            with session(self.tunnel) as http:
                return wrong_answer(http)
        except (requests.RequestException, OSError) as error:
            return f"{type(error).__name__}: {error}"

    def counters(self) -> dict[str, Any]:
        with session(self.tunnel) as http:
            said = http.get("http://nginx/status", timeout=ANSWER_S).text
        # Active connections: 1 / server accepts handled requests / 16 16 31 / ...
        numbers = said.splitlines()[2].split()
        return dict(zip(("accepts", "handled", "requests"), map(int, numbers), strict=True))


def session(tunnel: Callable[[], Tunnel]) -> requests.Session:
    """requests over connections that are made elsewhere."""

    class Connection(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> Any:
            return tunnel()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool}

    made = requests.Session()
    made.trust_env = False
    made.mount("http://", Adapter())
    return made


def wrong_answer(http: requests.Session) -> str:
    """The first request whose answer is not what was due."""
    for name in ("small", "specweb", "yahoo"):
        sizes = trace.WORKLOADS[name](1000, trace.SEED).sizes
        # The last is the largest; of yahoo's, whose largest is a megabyte, one in the middle.
        index = len(sizes) - 1 if name != "yahoo" else len(sizes) * 9 // 10
        due = trace.content(name, index, sizes[index])
        url = f"http://nginx{trace.path_of(name, index)}"
        whole = http.get(url, timeout=ANSWER_S)
        if whole.status_code != 200 or zlib.crc32(whole.content) != zlib.crc32(due):
            return f"GET {url}: status {whole.status_code}, {len(whole.content)} bytes"
        head = http.head(url, timeout=ANSWER_S)
        if head.status_code != 200 or head.headers.get("Content-Length") != str(len(due)):
            return f"HEAD {url}: status {head.status_code}, {dict(head.headers)}"
        part = http.get(url, headers={"Range": "bytes=10-19"}, timeout=ANSWER_S)
        if part.status_code != 206 or part.content != due[10:20]:
            return f"GET of a range of {url}: status {part.status_code}"
    missing = http.get("http://nginx/none", timeout=ANSWER_S)
    return "" if missing.status_code == 404 else f"GET /none: status {missing.status_code}"
