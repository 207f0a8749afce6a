# SPDX-License-Identifier: MIT
"""An nginx with everything that nginx_client.py asks for, and the backends behind it.

    python nginx_server.py PROGRAM FOLDER PORT [EVENTS [CONNECTIONS]]

Writes the configuration, the files and a certificate into FOLDER and runs PROGRAM there, as a
daemon, until its pid file is gone; EVENTS is text for the block of that name. CONNECTIONS is how
many a worker may have; few of them means one worker. Standard library only: it runs where nginx
does.
"""

import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

SIZES = (1, 100, 4096, 70_000, 300_000)
BIG = 6_000_000
HUGE = 1 << 30  # a file with nothing in it
CONNECTIONS = 12_000

CONFIG = """\
worker_processes {workers};
worker_rlimit_nofile 20000;
user root;
pid nginx.pid;
error_log error.log info;
thread_pool default threads=2;

events {{
    worker_connections {connections};
    {events}
}}

http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type text/plain;
    sendfile on;
    client_max_body_size 100m;
    client_header_timeout 2s;
    client_body_timeout 2s;
    keepalive_timeout 4s;
    keepalive_requests 100000;
    limit_req_zone $uri zone=rate:1m rate=1r/m;
    limit_conn_zone $binary_remote_addr zone=alone:1m;
    resolver 127.0.0.1:{dns};

    upstream self {{
        server 127.0.0.1:{port};
        keepalive 8;
    }}

    server {{
        listen {port} backlog=4096;
        listen [::]:{port} ipv6only=on;
        listen unix:{folder}/socket;
        listen {tls} ssl http2;
        ssl_certificate certificate;
        ssl_certificate_key key;
        root www;

        location = /variables {{
            set $client "remote_addr=$remote_addr remote_port=$remote_port rtt=$tcpinfo_rtt";
            set $server "server_addr=$server_addr server_port=$server_port";
            return 200 "connection=$connection requests=$connection_requests $client $server";
        }}
        location /idle/ {{ alias www/; keepalive_timeout 300s; }}
        location = /text {{ gzip on; gzip_types *; }}
        location = /discard {{ return 200 "discarded"; }}
        location /dav/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
        location /rate {{ limit_req zone=rate; return 200; }}
        location /slow/ {{ alias www/; limit_rate 40k; try_files /100000 =404; }}
        location /alone/ {{ alias www/; limit_conn alone 1; limit_rate 1k; }}
        location /threads/ {{ alias www/; aio threads; sendfile off; }}
        location /threads-sendfile/ {{ alias www/; aio threads; }}
        location /direct/ {{ alias www/; aio on; directio 4k; output_buffers 2 64k; }}
        location /copied/ {{ alias www/; sendfile off; }}
        location /nopush/ {{ alias www/; tcp_nopush on; tcp_nodelay off; }}
        location /chunks/ {{ alias www/; sendfile_max_chunk 20k; }}
        location /later/ {{ alias www/; limit_rate_after 200k; limit_rate 40k; }}
        location /cached/ {{ alias www/; open_file_cache max=10; }}
        location /lingering/ {{ alias www/; lingering_close always; lingering_timeout 1s; }}
        location /included/ {{ alias www/; ssi on; ssi_types *; }}
        location /ipv6/ {{ proxy_pass http://[::1]:{port}/; }}
        location /second/ {{ proxy_pass http://127.0.0.1:{second}/; }}
        location /own/ {{ proxy_pass http://127.0.0.1:{own}/; }}
        location /temporary/ {{
            proxy_pass http://self/;
            proxy_buffers 4 4k;
            proxy_buffer_size 4k;
            proxy_busy_buffers_size 8k;
        }}
        location /proxy/ {{
            proxy_pass http://self/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location /unbuffered/ {{ proxy_pass http://self/; proxy_buffering off; }}
        location /unix/ {{ proxy_pass http://unix:{folder}/socket:/; }}
        location /byname/ {{
            rewrite ^/byname(/.*)$ $1 break;
            set $name "self.test";
            proxy_pass http://$name:{port};
        }}
        location /nobody {{ proxy_pass http://127.0.0.1:9; }}
        location /slice/ {{
            slice 50k;
            proxy_set_header Range $slice_range;
            proxy_pass http://self/;
            proxy_http_version 1.1;
        }}
        location ~ ^/(count|sleep|aborted|upgrade|truncate) {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
        location /fastcgi {{
            fastcgi_pass 127.0.0.1:{fastcgi};
            fastcgi_param QUERY_STRING $query_string;
        }}
        location /status {{ stub_status; }}
    }}

    server {{
        listen {second} deferred fastopen=64 backlog=128 so_keepalive=on rcvbuf=64k sndbuf=64k;
        listen {own} reuseport;
        root www;
    }}

    server {{
        listen {proxied} proxy_protocol;
        location / {{ return 200 "$proxy_protocol_addr:$proxy_protocol_port"; }}
    }}
}}

mail {{
    auth_http 127.0.0.1:{backend}/mail;
    proxy_pass_error_message on;
    server {{
        listen {mail};
        protocol pop3;
    }}
}}

stream {{
    server {{
        listen {stream};
        proxy_pass 127.0.0.1:{port};
    }}
    server {{
        listen {udp} udp;
        proxy_pass 127.0.0.1:{dns};
        proxy_responses 1;
    }}
}}
"""


def content(size: int) -> bytes:
    """Bytes that tell when some are missing, repeated or swapped."""
    unit = b"".join(struct.pack(">I", i * 2654435761 % 2**32) for i in range(1024))
    return (unit * (size // len(unit) + 1))[:size]


def read_head(file: object) -> tuple[str, dict[str, str]]:
    first = file.readline().decode()
    headers = {}
    while line := file.readline().decode().strip():
        name, value = line.split(": ", 1)
        headers[name.lower()] = value
    return first, headers


def read_body(file: object, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return file.read(int(headers.get("content-length", 0)))
    body = b""
    while size := int(file.readline() or "0", 16):
        body += file.read(size)
        file.readline()
    return body


class Backend:
    """Counts bodies, echoes what is upgraded, sleeps until the client goes away."""

    aborted = 0
    www = Path()
    mail_port = 0

    def serve(self, sock: socket.socket) -> None:
        file = sock.makefile("rb")
        first, headers = read_head(file)
        if " /upgrade" in first:
            sock.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
            while data := file.read1(65536):
                sock.sendall(data)
            return
        if " /sleep" in first:
            sock.settimeout(60)
            if not file.read1(1):
                Backend.aborted += 1
            return
        if " /mail" in first:
            allowed = headers.get("auth-pass") == "right"
            status = "OK" if allowed else "Invalid login or password"
            head = f"HTTP/1.0 200 OK\r\nAuth-Status: {status}\r\nAuth-Server: 127.0.0.1\r\n"
            sock.sendall(f"{head}Auth-Port: {self.mail_port}\r\n\r\n".encode())
            return
        if " /truncate" in first:
            os.truncate(self.www / "shrinking", 0)
            text = "done"
        elif " /aborted" in first:
            text = str(Backend.aborted)
        else:
            body = read_body(file, headers)
            text = f"{len(body)} {hashlib.sha256(body).hexdigest()}"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        sock.sendall((head + text).encode())


def mailbox(sock: socket.socket) -> None:
    """POP3 for whoever has been let in; RETR gives a long message."""
    file = sock.makefile("rb")
    sock.sendall(b"+OK ready\r\n")
    while line := file.readline():
        if line.startswith(b"RETR"):
            sock.sendall(b"+OK\r\n" + b"a line of a message\r\n" * 20_000 + b".\r\n")
        else:
            sock.sendall(b"+OK " + line)


def fastcgi(sock: socket.socket) -> None:
    size = 0
    while True:
        head = sock.recv(8, socket.MSG_WAITALL)
        _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", head)
        body = sock.recv(length + padding, socket.MSG_WAITALL) if length + padding else b""
        if found := re.search(rb"size=(\d+)", body):
            size = int(found[1])
        if kind == 5 and not length:
            break
    out = b"Content-Type: text/plain\r\n\r\n" + content(size)
    for at in range(0, len(out), 60_000):
        part = out[at : at + 60_000]
        sock.sendall(struct.pack(">BBHHBB", 1, 6, 1, len(part), 0, 0) + part)
    sock.sendall(struct.pack(">BBHHBB", 1, 3, 1, 8, 0, 0) + bytes(8))


def name_server(sock: socket.socket) -> None:
    """Every name is this machine; there are no IPv6 addresses."""
    while True:
        query, peer = sock.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        is_a = query[end - 4 : end - 2] == b"\0\1"
        head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if is_a else b""
        sock.sendto(head + query[12:end] + answer, peer)


def listen(port: int, serve: object) -> None:
    server = socket.create_server(("127.0.0.1", port), backlog=512)

    def one(sock: socket.socket) -> None:
        try:
            with sock:
                serve(sock)
        except (OSError, ValueError):
            pass  # the client went away, as some tests do

    def accept() -> None:
        while True:
            sock, _ = server.accept()
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def prepare(folder: Path, port: int, events: str, connections: int) -> dict[str, int]:
    www = folder / "www"
    www.mkdir(parents=True, exist_ok=True)
    for size in (*SIZES, 100_000):
        (www / str(size)).write_bytes(content(size))
    (www / "big").write_bytes(content(BIG))
    (www / "shrinking").write_bytes(content(BIG))
    with (www / "huge").open("wb") as file:
        file.truncate(HUGE)
    (www / "page").write_text(
        '<!--# include virtual="/70000" -->and<!--# include virtual="/1" -->.'
    )
    (www / "text").write_text("the same words again\n" * 5000)
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    argv += ["-days", "2", "-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)
    names = ("port", "tls", "stream", "proxied", "backend", "fastcgi", "dns", "udp", "mail")
    names += ("mailbox", "second", "own")
    ports = {name: port + i for i, name in enumerate(names)}
    text = CONFIG.format(
        folder=folder,
        events=events,
        connections=connections,
        workers=1 if connections < CONNECTIONS else 2,
        **ports,
    )
    (folder / "conf").write_text(text)
    Backend.www = www
    Backend.mail_port = ports["mailbox"]
    return ports


def main() -> int:
    program, folder, port = sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3])
    events = sys.argv[4] if len(sys.argv) > 4 else ""
    connections = int(sys.argv[5]) if len(sys.argv) > 5 else CONNECTIONS
    ports = prepare(folder, port, events, connections)
    listen(ports["mailbox"], mailbox)
    listen(ports["backend"], Backend().serve)
    listen(ports["fastcgi"], fastcgi)
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind(("127.0.0.1", ports["dns"]))
    threading.Thread(target=name_server, args=(dns,), daemon=True).start()

    argv = [program, "-p", str(folder), "-c", "conf", "-e", "error.log"]
    subprocess.run(argv, check=True, timeout=300)
    pid, old_pid = folder / "nginx.pid", folder / "nginx.pid.oldbin"
    signal.signal(signal.SIGTERM, lambda *_: os.kill(int(pid.read_text()), signal.SIGTERM))
    deadline = time.monotonic() + 60  # the daemon writes it after it has gone on by itself
    while not pid.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    while pid.exists() or old_pid.exists():
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
