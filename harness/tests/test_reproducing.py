# SPDX-License-Identifier: MIT
"""docs/reproducing.md: every message that it has a cure for is one that somebody says."""

import ast
import re
from functools import cache

import pytest

from megabench import paths

ROOT = paths.HARNESS.parent
# Said by SSH and the C library.
OF_OTHERS = ("not found in known_hosts", "Authentication failed", "Unable to connect",
             "Name or service not known", "Temporary failure in name resolution",
             "No such file or directory")  # fmt: skip
# What stands for something in a message: a number, a name, an address.
STANDS_FOR = re.compile(r"…|\bN\b|\bM\b|\beth1\b|198\.18\.0\.2|client2")


@cache
def said() -> str:
    """All texts of the harness, what is put into them left out."""
    texts = []
    for path in sorted((paths.HARNESS / "megabench").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def messages() -> list[str]:
    """The first column of the table of cures, a message each."""
    text = (ROOT / "docs/reproducing.md").read_text().split("| message | cure |")[1]
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def pieces(message: str) -> list[str]:
    """What a message has of its own: of `here: disk: …` each word that somebody says."""
    words = [word.strip(" :,") for word in STANDS_FOR.split(message)]
    return [part for word in words for part in re.split("[:,] ", word) if len(part) > 2]


def test_messages__are_found() -> None:
    assert len(messages()) > 30


@pytest.mark.parametrize("message", messages())
def test_message__is_said(message: str) -> None:
    for piece in pieces(message):
        # A limit of ours is a number in the document and a name in the code.
        found = any(part in said() for part in (piece, re.sub(r"\b\d{3,}\b", "\0", piece)))
        assert found or piece in OF_OTHERS, piece
