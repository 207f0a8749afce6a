# SPDX-License-Identifier: MIT
"""The demanding client of memcached: it counts answers only, and asks for all there is."""

import re
import socket
from collections.abc import Iterator

import pytest
from memcached_client import SCENARIOS, Broken, outcome, same
from memcached_commands import binary_protocol, shut_down, shut_down_gracefully
from memcached_servers import PORTS, SOURCE, STOCK, serving
from memcached_wire import Address, connect


def test_client__two_that_fail_alike_have_answered_nothing() -> None:
    def refused(address: Address) -> Iterator[str]:
        yield "an answer"
        connect(address)

    def claims(address: Address) -> Iterator[str]:
        yield "an answer"
        assert address is None, "no claim of mine"

    nobody = ("127.0.0.1", 1)
    for scenario in (refused, claims):
        answers = outcome(scenario, nobody)
        assert len(answers) == 2
        assert not same(answers, answers)
    assert not same([False], [False])
    assert not same([], [])
    assert same(["an answer"], ["an answer"])


# In upstream's source, but not in this build of it: for its own tests, and the proxy.
UNBUILT = {"debugtime", "misbehave", "p", "r", "proxy"}


def known_words() -> tuple[set[str], set[str]]:
    """What the text protocol knows, by upstream's source: commands, and words that follow them."""
    text = (SOURCE / "proto_text.c").read_text()
    asked = r'strcmp\((?:tokens\[([^]]+)\]\.value|subcommand|command), "(\w+)"\)'
    first = ("COMMAND_TOKEN", "0")
    pairs = re.findall(asked, text)
    commands = {word for where, word in pairs if where in first}
    commands |= {f"m{letter}" for letter in letters(text, "tokens[COMMAND_TOKEN].value[1]")}
    words = {word for where, word in pairs if where not in first}
    stats = (SOURCE / "memcached.c").read_text()
    words |= set(re.findall(r'nz_strcmp\(nkey, stat_type, "(\w+)"\)', stats))
    return commands - UNBUILT, words - UNBUILT


def letters(source: str, switched: str) -> set[str]:
    """The cases of the first `switch` over that."""
    _, found, rest = source.partition(f"switch ({switched}) {{")
    assert found
    return set(re.findall(r"case '(.)':", rest.partition("default:")[0]))


def known_opcodes() -> set[int]:
    """What the binary protocol knows."""
    name = r"PROTOCOL_BINARY_CMD_\w+"
    handled = re.findall(rf"case ({name}):", (SOURCE / "proto_bin.c").read_text())
    header = (SOURCE / "protocol_binary.h").read_text()
    numbers = dict(re.findall(rf"({name}) *= *(0x\w+)", header))
    return {int(numbers[one], 16) for one in handled}


def opcodes(packets: bytes) -> Iterator[int]:
    while packets[:1] == b"\x80":
        yield packets[1]
        packets = packets[24 + int.from_bytes(packets[8:12]) :]


@pytest.mark.skipif(not STOCK.exists(), reason="not built: make memcached")
def test_client__asks_for_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the text, meta and binary protocols that upstream's source knows, every
    word that may follow a command, every flag of meta commands."""
    sent: list[bytes] = []
    sendall = socket.socket.sendall

    def record(sock: socket.socket, data: bytes) -> None:
        sent.append(bytes(data))
        sendall(sock, data)

    monkeypatch.setattr(socket.socket, "sendall", record)
    port = PORTS["stock"]
    asking = SCENARIOS[: SCENARIOS.index(binary_protocol) + 1]
    for scenarios in (asking, [shut_down], [shut_down_gracefully]):
        with serving(STOCK, port):
            for scenario in scenarios:
                answers = outcome(scenario, ("127.0.0.1", port))
                assert not isinstance(answers[-1], Broken), answers[-1]
    lines = [line.decode("latin-1").split() for line in b"\r\n".join(sent).split(b"\r\n")]
    commands, words = known_words()
    assert len(commands) > 30
    assert len(words) > 30
    assert not commands - {line[0] for line in lines if line}
    assert not words - {word for line in lines for word in line[1:]}
    flags = {word[0] for line in lines if line and re.fullmatch("m.", line[0]) for word in line[2:]}
    assert not letters((SOURCE / "proto_text.c").read_text(), "o") - flags
    assert len(known_opcodes()) > 30
    assert not known_opcodes() - {code for data in sent for code in opcodes(data)}
