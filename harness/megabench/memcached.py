# SPDX-License-Identifier: MIT
"""memcached as a server under test: checked with pymemcache before anything is measured."""

from collections.abc import Callable
from typing import Any

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from megabench.errors import CommandError
from megabench.host import Tunnel
from megabench.service import Service

# From `stats`, `stats settings` and `stats io_engine`, what a reader of a result may want to know.
COUNTERS = (
    *("curr_connections", "total_connections", "rejected_connections", "listen_disabled_num"),
    *("cmd_get", "cmd_set", "get_hits", "get_misses", "evictions", "threads"),
    *("rusage_user", "rusage_system", "bytes", "curr_items"),
)
SETTINGS = (
    "io_engine",
    "maxconns",
    "tcp_backlog",
    "num_threads",
    "hashpower_init",
    "reqs_per_event",
)
ENGINE = (
    *("megapipe_dispatches", "megapipe_commands", "megapipe_events", "megapipe_sleeps"),
    *("megapipe_accepts", "megapipe_accepts_foreign", "megapipe_lwsockets"),
)
# Larger than a read buffer of memcached and than a segment; so it comes in pieces.
LARGE = bytes(range(256)) * 1024


class TunnelClient(Client):
    """pymemcache over a connection that is made elsewhere."""

    def __init__(self, tunnel: Callable[[], Tunnel]) -> None:
        super().__init__(("tunnel", 0))
        self.tunnel = tunnel

    def _connect(self) -> None:
        self.sock = self.tunnel()


class Memcached(Service):
    """One memcached under way."""

    def check(self) -> str:
        client = TunnelClient(self.tunnel)
        try:
            return wrong_answer(client)
        except (MemcacheError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            client.close()

    def counters(self) -> dict[str, Any]:
        client = TunnelClient(self.tunnel)
        try:
            found = {**client.stats("settings"), **client.stats()}
            if b"io_engine" in found:
                found |= client.stats("io_engine")
        except (TimeoutError, MemcacheError, OSError) as error:
            raise CommandError(
                self.argv, None, host=self.host.name, problem=f"tells no counters: {error}"
            ) from error
        finally:
            client.close()
        told = {key.decode(): _plain(value) for key, value in found.items()}
        return {key: told[key] for key in (*COUNTERS, *SETTINGS, *ENGINE) if key in told}


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def wrong_answer(client: Client) -> str:
    """The first command whose answer is not what was due; the server is left empty."""
    steps: list[tuple[str, Callable[[], Any], Any]] = [
        ("get of nothing", lambda: client.get("none"), None),
        ("set", lambda: client.set("a", b"1", noreply=False), True),
        ("get", lambda: client.get("a"), b"1"),
        ("set without reply", lambda: client.set("b", b"2", noreply=True), True),
        ("get of two", lambda: client.get_many(["a", "b", "none"]), {"a": b"1", "b": b"2"}),
        ("incr", lambda: client.incr("a", 41), 42),
        ("append", lambda: client.append("b", b"3", noreply=False), True),
        ("get after append", lambda: client.get("b"), b"23"),
        ("set of a large value", lambda: client.set("large", LARGE, noreply=False), True),
        ("get of a large value", lambda: client.get("large"), LARGE),
        ("delete", lambda: client.delete("a", noreply=False), True),
        ("get after delete", lambda: client.get("a"), None),
        ("flush_all", lambda: client.flush_all(noreply=False), True),
        ("get after flush_all", lambda: client.get("b"), None),
    ]
    for name, step, due in steps:
        got = step()
        if got != due:
            return f"{name}: {str(got)[:40]!r} instead of {str(due)[:40]!r}"
    return ""
