# SPDX-License-Identifier: MIT
"""An nginx with everything that nginx_client.py asks for; behind it, nginx_backends.py.

    python nginx_server.py [--main TEXT] [--events TEXT] [--connections N] PROGRAM FOLDER PORT

Writes the configuration, the files and a certificate into FOLDER and runs PROGRAM there until its
pid file is gone; the texts go into the configuration. N is how many connections a worker may have;
few of them means one worker. Standard library only: it runs where nginx does.
"""

import argparse
import gzip
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import nginx_backends
from nginx_backends import TEXT, content

SIZES = (1, 100, 4096, 70_000, 300_000)
BIG = 6_000_000
HUGE = 1 << 30  # a file with nothing in it but a number at the beginning of each MiB
MIB = 1 << 20
CONNECTIONS = 12_000
# Behind the first port, in this order
PORT_NAMES = (
    *("port", "tls", "stream", "proxied", "backend", "fastcgi", "dns", "udp", "mail"),
    *("behind_pop3", "second", "own", "h2c", "all_tls", "scgi", "uwsgi", "memcached", "syslog"),
    *("imap", "behind_imap", "smtp", "behind_smtp", "pop3s", "preread", "stream_tls", "announce"),
    *("announced", "half", "answer_at_end", "either", "paced", "returned", "many", "many_end"),
    *("relay", "added", "short"),
)

CONFIG = """\
{main}
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
    limit_req_zone $uri zone=delayed:1m rate=10r/s;
    limit_conn_zone $binary_remote_addr zone=alone:1m;
    resolver 127.0.0.1:{dns};

    proxy_cache_path cache keys_zone=kept:1m;
    log_format short "$request $status $body_bytes_sent $request_length $connection_requests "
                     "$pipe $upstream_status";

    upstream self {{
        server 127.0.0.1:{port};
        keepalive 8;
    }}

    upstream either {{
        server 127.0.0.1:9 max_fails=0;
        server 127.0.0.1:{backend};
    }}

    upstream secure {{
        server 127.0.0.1:{tls};
        keepalive 2;
    }}

    upstream remembered {{
        server 127.0.0.1:{memcached};
        keepalive 2;
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
        location /rate {{ limit_req zone=rate; try_files /1 =404; }}
        location /delayed {{ limit_req zone=delayed burst=10; try_files /1 =404; }}
        location /patient/ {{ alias www/; send_timeout 300s; }}
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
            fastcgi_param CONTENT_LENGTH $content_length;
        }}
        location /status {{ stub_status; }}

        location /gate/ {{
            proxy_pass http://127.0.0.1:{backend}/;
            proxy_http_version 1.1;
            proxy_read_timeout 2s;
        }}
        location /whole/ {{ proxy_pass http://127.0.0.1:{backend}/; client_body_in_file_only on; }}
        location /direct-gate/ {{
            proxy_pass http://127.0.0.1:{backend}/;
            proxy_http_version 1.1;
            proxy_buffering off;
        }}
        location /cache/ {{
            proxy_pass http://127.0.0.1:{backend}/;
            proxy_cache kept;
            proxy_cache_valid 200 4s;
            proxy_cache_use_stale updating error;
            proxy_cache_background_update on;
            proxy_cache_lock on;
            add_header X-Cache $upstream_cache_status;
        }}
        location /cached-files/ {{
            proxy_pass http://self/;
            proxy_cache kept;
            proxy_cache_valid 200 1h;
            add_header X-Cache $upstream_cache_status;
        }}
        location /internal/ {{ internal; alias www/; }}
        location /mirrored/ {{
            mirror /mirror;
            proxy_pass http://127.0.0.1:{backend}/counter/;
        }}
        location = /mirror {{
            internal;
            proxy_pass http://127.0.0.1:{backend}/counter/mirror;
        }}
        location /guarded/ {{ set $verdict $arg_status; auth_request /guard; alias www/; }}
        location = /guard {{
            internal;
            proxy_pass http://127.0.0.1:{backend}/status/$verdict;
        }}
        location = /replaced {{
            proxy_pass http://self/text;
            sub_filter same other;
            sub_filter_once off;
            sub_filter_types *;
        }}
        location = /gunzipped {{ proxy_pass http://127.0.0.1:{backend}/gzipped; gunzip on; }}
        location /static/ {{ alias www/; gzip_static on; }}
        location /added/ {{
            alias www/;
            add_before_body /1;
            add_after_body /100;
            addition_types *;
        }}
        location /either/ {{ proxy_pass http://either/; }}
        location /bound/ {{ proxy_pass http://127.0.0.1:{backend}/; proxy_bind 127.0.0.2; }}
        location /https/ {{
            proxy_pass https://secure/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location /grpc/ {{
            rewrite ^/grpc(/.*)$ $1 break;
            grpc_pass grpc://127.0.0.1:{h2c};
        }}
        location /scgi {{ include scgi_params; scgi_pass 127.0.0.1:{scgi}; }}
        location /uwsgi {{ include uwsgi_params; uwsgi_pass 127.0.0.1:{uwsgi}; }}
        location /memcached/ {{ set $memcached_key $uri; memcached_pass remembered; }}
        location /bytcp/ {{
            rewrite ^/bytcp(/.*)$ $1 break;
            set $name "tcp.test";
            proxy_pass http://$name:{port};
        }}
        location /limited/ {{
            proxy_pass http://127.0.0.1:{port}/;
            proxy_buffering on;
            proxy_limit_rate 200k;
        }}
        location /three/ {{ alias www/; keepalive_requests 3; }}
        location /unread/ {{ alias www/; send_timeout 1s; reset_timedout_connection on; }}
        location /unread-copied/ {{
            alias www/;
            send_timeout 1s;
            reset_timedout_connection on;
            sendfile off;
        }}
        location = /nothing {{ return 444; }}
        location = /small {{
            client_max_body_size 10;
            proxy_pass http://127.0.0.1:{backend}/count;
        }}
        location /fallback/ {{
            error_page 404 500 = @fallback;
            proxy_intercept_errors on;
            proxy_pass http://127.0.0.1:{backend}/;
        }}
        location @fallback {{ return 200 "fallen back"; }}
        location /noted/ {{
            access_log syslog:server=127.0.0.1:{syslog},nohostname short;
            proxy_pass http://127.0.0.1:{backend}/;
        }}
        location /noted-files/ {{
            access_log syslog:server=127.0.0.1:{syslog},nohostname short;
            alias www/;
        }}
    }}

    server {{
        listen {h2c} http2;
        root www;
    }}

    server {{
        listen {all_tls};
        ssl on;
        ssl_certificate certificate;
        ssl_certificate_key key;
        ssl_session_cache shared:tls:1m;
        root www;
        location = /reused {{ return 200 "$ssl_session_reused $remote_addr"; }}
    }}

    server {{
        listen 0.0.0.0:{many}-{many_end};
        listen 127.0.0.1:{many};
        location / {{ return 200 "$server_port"; }}
    }}

    server {{
        listen {second} deferred fastopen=64 backlog=128 so_keepalive=on rcvbuf=64k sndbuf=64k;
        listen {own} reuseport;
        listen {short} backlog=8;
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
    smtp_auth none;
    xclient off;
    server {{
        listen {mail};
        protocol pop3;
    }}
    server {{
        listen {imap};
        protocol imap;
    }}
    server {{
        listen {smtp};
        protocol smtp;
    }}
    server {{
        listen {pop3s} ssl;
        protocol pop3;
        ssl_certificate certificate;
        ssl_certificate_key key;
    }}
}}

stream {{
    map $ssl_preread_server_name $chosen {{
        one.test 127.0.0.1:{tls};
        default 127.0.0.1:{port};
    }}
    upstream either {{
        server 127.0.0.1:9 max_fails=0;
        server 127.0.0.1:{port};
    }}
    server {{
        listen {preread};
        ssl_preread on;
        preread_timeout 1s;
        proxy_pass $chosen;
    }}
    server {{
        listen {stream_tls} ssl;
        ssl_certificate certificate;
        ssl_certificate_key key;
        proxy_pass 127.0.0.1:{port};
    }}
    server {{
        listen {announce};
        proxy_protocol on;
        proxy_pass 127.0.0.1:{proxied};
    }}
    server {{
        listen {announced} proxy_protocol;
        proxy_pass 127.0.0.1:{port};
    }}
    server {{
        listen {half};
        proxy_half_close on;
        proxy_pass 127.0.0.1:{answer_at_end};
    }}
    server {{
        listen {either};
        proxy_pass either;
    }}
    server {{
        listen {paced};
        proxy_upload_rate 200k;
        proxy_download_rate 200k;
        proxy_pass 127.0.0.1:{port};
    }}
    server {{
        listen {returned};
        return "$remote_addr $server_port $protocol";
    }}
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


def prepare(folder: Path, args: argparse.Namespace) -> dict[str, int]:
    www = folder / "www"
    shutil.rmtree(folder, ignore_errors=True)
    www.mkdir(parents=True)
    for size in (*SIZES, 100_000):
        (www / str(size)).write_bytes(content(size))
    (www / "big").write_bytes(content(BIG))
    (www / "shrinking").write_bytes(content(BIG))
    with (www / "huge").open("wb") as file:
        file.truncate(HUGE)
        for number in range(HUGE // MIB):
            file.seek(number * MIB)
            file.write(struct.pack(">Q", number))
    (www / "page").write_text(
        '<!--# include virtual="/70000" -->and<!--# include virtual="/gate/slowly" -->.'
    )
    (www / "text").write_bytes(TEXT)
    (www / "packed").write_bytes(TEXT)
    (www / "packed.gz").write_bytes(gzip.compress(TEXT, mtime=0))
    for protocol in ("scgi", "uwsgi"):
        fields = "REQUEST_METHOD $request_method", "CONTENT_LENGTH $content_length"
        lines = [f"{protocol}_param {field};\n" for field in fields]
        (folder / f"{protocol}_params").write_text("".join(lines))
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-subj", "/CN=x"]
    argv += ["-days", "2", "-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)
    ports = {name: args.port + i for i, name in enumerate(PORT_NAMES)}
    text = CONFIG.format(
        folder=folder,
        main=args.main,
        events=args.events,
        connections=args.connections,
        workers=1 if args.connections < CONNECTIONS or "master_process off" in args.main else 2,
        **ports,
    )
    (folder / "conf").write_text(text)
    return ports


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("port", type=int)
    parser.add_argument("--main", default="")
    parser.add_argument("--events", default="")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    args = parser.parse_args()
    folder = args.folder
    ports = prepare(folder, args)
    nginx_backends.start(folder / "www", ports)

    pid, old_pid = folder / "nginx.pid", folder / "nginx.pid.oldbin"

    def end(*_: object) -> None:
        if not pid.exists():
            sys.exit(1)
        os.kill(int(pid.read_text()), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    argv = [args.program, "-p", str(folder), "-c", "conf", "-e", "error.log"]
    nginx = subprocess.Popen(argv)  # which becomes a daemon, unless args.main says otherwise
    deadline = time.monotonic() + 60  # a daemon writes it after it has gone on by itself
    while not pid.exists() and not nginx.poll() and time.monotonic() < deadline:
        time.sleep(0.05)
    while pid.exists() or old_pid.exists():
        time.sleep(0.05)
    return nginx.wait(60)


if __name__ == "__main__":
    sys.exit(main())
