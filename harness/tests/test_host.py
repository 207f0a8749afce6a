# SPDX-License-Identifier: MIT
"""Hosts: this machine for real; SSH as far as it goes without another one."""

import shlex
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from megabench.errors import CommandError, CommandTimeoutError, TestbedError, last_lines
from megabench.host import LocalHost, NamespaceHost, wait_until
from megabench.namespace import Namespace
from megabench.ssh import SshHost, Whole


@pytest.fixture
def host() -> LocalHost:
    return LocalHost("here")


def is_running(mark: str) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in words and state != "Z":
                return True
    return False


def test_run__returns_what_was_said(host: LocalHost) -> None:
    done = host.run(["sh", "-c", "cat; echo oops >&2; exit 3"], timeout=10, check=False, input="hi")
    assert (done.exit_status, done.stdout, done.stderr) == (3, "hi", "oops\n")


def test_run__arguments_are_not_split(host: LocalHost) -> None:
    assert host.run(["printf", "%s|", "a b", "$HOME", "'"], timeout=10).stdout == "a b|$HOME|'|"


def test_run__failure_names_command_status_host_and_tail(host: LocalHost) -> None:
    with pytest.raises(CommandError) as error:
        host.run(["sh", "-c", "echo reason >&2; exit 4"], timeout=10)
    assert error.value.exit_status == 4
    assert error.value.tail == "reason"
    for word in ("status 4", "on here", "reason"):
        assert word in error.value.message


def test_run__signal_is_128_and_its_number(host: LocalHost) -> None:
    assert host.run(["sh", "-c", "kill -TERM $$"], timeout=10, check=False).exit_status == 143


def test_run__unknown_program(host: LocalHost) -> None:
    with pytest.raises(CommandError, match=r"no-such-program.*cannot be started"):
        host.run(["no-such-program"], timeout=10)


def test_run__deadline_ends_children_too(host: LocalHost) -> None:
    mark = f"5{time.monotonic_ns()}"
    with pytest.raises(CommandTimeoutError):
        host.run(["sh", "-c", f"sleep {mark} & wait"], timeout=0.3)
    assert wait_until(lambda: not is_running(mark), timeout=5)


def test_run__environment_is_passed_on() -> None:
    host = LocalHost("here", {"MARK": "yes"})
    assert host.run(["sh", "-c", "echo $MARK"], timeout=10).stdout == "yes\n"


def test_start__lines_and_log(host: LocalHost, tmp_path: Path) -> None:
    log = tmp_path / "logs/program.log"
    process = host.start(["sh", "-c", "echo one; echo two; echo bad >&2"], log=log)
    assert process.readline(5) == "one"
    assert process.readline(5) == "two"
    assert process.wait(5) == 0
    assert sorted(log.read_text().split()) == ["bad", "one", "two"]


def test_readline__end_of_program_shows_its_tail(host: LocalHost, tmp_path: Path) -> None:
    process = host.start(["sh", "-c", "echo port in use >&2; exit 1"], log=tmp_path / "log")
    with pytest.raises(CommandError, match="port in use"):
        process.readline(5)
    with pytest.raises(CommandError):  # and again, rather than waiting for ever
        process.readline(5)
    assert process.wait(5) == 1


def test_readline__silence_is_a_timeout(host: LocalHost, tmp_path: Path) -> None:
    process = host.start(["sleep", "60"], log=tmp_path / "log")
    try:
        with pytest.raises(CommandTimeoutError, match="said nothing in"):
            process.readline(0.1)
        with pytest.raises(CommandTimeoutError, match="has not ended"):
            process.wait(0.1)
    finally:
        process.kill()
    assert process.wait(5) == 137


def test_signal__reaches_the_program(host: LocalHost, tmp_path: Path) -> None:
    script = "trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    process = host.start(["sh", "-c", script], log=tmp_path / "log")
    assert process.readline(5) == "ready"
    process.signal("USR1")
    assert process.readline(5) == "got"
    assert process.wait(5) == 7


def test_kill__twice_is_harmless(host: LocalHost, tmp_path: Path) -> None:
    process = host.start(["sleep", "60"], log=tmp_path / "log")
    process.kill()
    process.kill()


def test_put_get__copy_with_mode(host: LocalHost, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("text")
    target = tmp_path / "deep/er/target"
    host.put(source, str(target), mode=0o750)
    assert target.stat().st_mode & 0o777 == 0o750
    host.get(str(target), tmp_path / "back/source")
    assert (tmp_path / "back/source").read_text() == "text"
    assert host.read_text(str(target)) == "text"


def test_read_text__missing_file(host: LocalHost) -> None:
    with pytest.raises(CommandError, match="No such file"):
        host.read_text("/no/such/file")


@pytest.mark.parametrize(
    ("user", "scope"),
    [(False, ["--net"]), (True, ["--user", "--preserve-credentials", "--net"])],
)
def test_namespace_host__enters_by_pid(user: bool, scope: list[str]) -> None:
    host = NamespaceHost("client", Namespace(42, user))
    assert host.command(["a", "b c"]) == ["nsenter", "--target", "42", *scope, "--", "a", "b c"]


@pytest.mark.parametrize(
    ("user", "become_root", "prefix"),
    [
        ("root", False, []),
        ("me", False, []),
        ("me", True, ["sudo", "-n", "--"]),
        ("root", True, []),
    ],
)
def test_ssh_command__quoted_and_as_root(user: str, become_root: bool, prefix: list[str]) -> None:
    host = SshHost("server", "192.0.2.1", user=user, become_root=become_root)
    argv = ["printf", "%s", "a b; $(reboot) 'x'"]
    assert shlex.split(host.command(argv)) == [*prefix, *argv]


def test_ssh__unreachable_machine_is_named() -> None:
    def refuse():
        raise ConnectionRefusedError(111, "Connection refused")

    host = SshHost("server", "192.0.2.1", connect=refuse)
    with pytest.raises(
        TestbedError, match=r"server: no SSH to root@192.0.2.1 port 22.*refused"
    ) as e:
        host.run(["true"], timeout=5)
    assert e.value.hint


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"address": "127.0.0.1", "port": 1}, "the machine up"),
        ({"address": "nowhere.invalid"}, "does not know the name"),
        ({"known_hosts": Path("/nowhere/known_hosts")}, "are files of this machine"),
        ({"connect": lambda: socket.create_connection(("127.0.0.1", 1))}, "is `host` right"),
    ],
)
def test_ssh__the_hint_is_about_what_went_wrong(given: dict[str, Any], hint: str) -> None:
    host = SshHost("server", **{"address": "127.0.0.1", **given})
    with pytest.raises(TestbedError, match="no SSH to root@") as caught:
        host.run(["true"], timeout=5)
    assert hint in caught.value.hint


def test_whole__is_read_at_once() -> None:
    """invoke asks for a letter, and rests 10 ms before it asks for the next."""
    text = Whole("one\ntwo\n")
    assert (text.read(1), text.read(1)) == ("one\ntwo\n", "")


def test_last_lines() -> None:
    assert last_lines("a\nb\nc\n\n", 2) == "b\nc"


def test_wait_until__gives_up_at_the_deadline() -> None:
    begin = time.monotonic()
    assert not wait_until(lambda: False, timeout=0.1, every=0.01)
    assert time.monotonic() - begin < 5
