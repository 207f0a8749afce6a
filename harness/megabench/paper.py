# SPDX-License-Identifier: MIT
"""The paper's numbers (results/paper/*.csv), each with the mark of how surely it is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from megabench import paths
from megabench.experiment import MARKS
from megabench.record import ResultsError

COLUMNS = ("metric", "value", "unit", "mark", "reading_error", "note")


@dataclass(frozen=True)
class Number:
    """One published number."""

    value: float
    unit: str
    mark: str
    reading_error: float | None

    @property
    def ratio(self) -> float:
        """A gain in per cent as the ratio that it means."""
        return 1 + self.value / 100 if self.unit == "%" else self.value


@cache
def read(name: str, folder: Path | None = None) -> pd.DataFrame:
    """One file of published numbers."""
    path = (folder or paths.results() / "paper") / name
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}", hint="the paper's numbers are committed") from error
    for column in COLUMNS:
        if column not in frame.columns:
            raise ResultsError(f"{path}: no column {column}")
    unknown = sorted(set(frame["mark"].astype(str)) - set(MARKS))
    if unknown:
        raise ResultsError(f"{path}: mark {unknown[0]!r} is none of {', '.join(MARKS)}")
    return frame


def rows(name: str, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with a value in which every column of `where` that the file has agrees."""
    frame = read(name)
    for column, value in where.items():
        if column in frame.columns:
            frame = frame[frame[column] == value]
    return frame.dropna(subset=["value"])


def number(name: str, where: Mapping[str, Any]) -> Number:
    """The one number that `where` describes."""
    found = rows(name, where)
    if len(found) != 1:
        raise ResultsError(f"results/paper/{name}: {dict(where)} names {len(found)} rows, not 1")
    row = found.iloc[0]
    error = None if pd.isna(row["reading_error"]) else float(row["reading_error"])
    return Number(float(row["value"]), str(row["unit"]), str(row["mark"]), error)
