# SPDX-License-Identifier: MIT
"""The layers of the system, from harness/layers.toml: which one a function belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megabench import paths
from megabench.definition import Table

USER = "[user]"
# What no name in layers.toml fits, and what a trial's list of functions leaves out as too small.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Layer:
    """One layer; `interface` if a program's way of doing I/O decides what it costs."""

    name: str
    label: str
    colour: str
    interface: bool
    functions: tuple[str, ...]


NOWHERE = Layer(UNKNOWN, "not attributed", "#ffffff", False, ())


class Layers:
    """All layers, in the order of the tables."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = {**layers, UNKNOWN: NOWHERE}
        self._whole: dict[str, Layer] = {}
        self._begins: dict[str, Layer] = {}
        for layer in layers.values():
            for name in layer.functions:
                if name.endswith("*"):
                    self._begins[name[:-1]] = layer
                else:
                    self._whole[name] = layer

    def of(self, function: str) -> Layer:
        """The layer of a function: by its whole name, or by the longest beginning that fits."""
        if function in self._whole:
            return self._whole[function]
        for end in range(len(function), 0, -1):
            if function[:end] in self._begins:
                return self._begins[function[:end]]
        return NOWHERE


def load_layers(path: Path | None = None) -> Layers:
    """The checkout's map, or another."""
    table = Table.load(path or paths.harness() / "layers.toml")
    layers: dict[str, Layer] = {}
    seen: dict[str, str] = {}
    for name in table.values:
        row = table.table(name)
        functions = row.values.get("functions")
        row.read.add("functions")
        if not isinstance(functions, list) or not all(isinstance(one, str) for one in functions):
            raise row.wrong("functions", "must be a list of strings")
        for one in functions:
            if one in seen:
                raise row.wrong("functions", f"{one} is in {seen[one]} already")
            seen[one] = name
        layers[name] = Layer(
            name,
            row.text("label"),
            row.text("colour"),
            row.boolean("interface", False),
            tuple(functions),
        )
        row.finish()
    return Layers(layers)


@cache
def layers() -> Layers:
    """The checkout's map, read once."""
    return load_layers()
