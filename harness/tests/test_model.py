# SPDX-License-Identifier: MIT
"""The model of scaling, from counts that are made up; and the picture of the worst lines."""

import csv
from pathlib import Path
from typing import Any

import pytest
import synthetic

from megabench import contention_figure, figure, model, record, report, table
from megabench.measure import Measured
from megabench.model import Assumed, Counts

ONE = Assumed("one", "one", ipc=0.5, line=100.0)
NAMES = ["pingpong-contention-cores", "pingpong-speedup"]


def lines(changes: float) -> dict[str, Any]:
    """What a window held, as contention.summary() says it."""
    names = {
        "descriptor table": {
            "changes": changes / 4,
            "lines": 2,
            "interface": True,
            "functions": {"alloc_fd": changes / 4},
        },
        "packets": {
            "changes": 3 * changes / 4,
            "lines": 9,
            "interface": False,
            "functions": {"skb_put": 3 * changes / 4},
        },
    }
    level = {"changes": changes, "interface": changes / 4, "lines": 11, "names": names}
    return {"levels": {"2": level, "4": level}, "hottest": {"changes": changes / 4}}


def counting(bed: Any, trial: Any, number: int, folder: Path) -> Measured:
    """epoll's lines grow with the cores, MegaPipe's do not."""
    made = synthetic.formula(bed, trial, number, folder)
    changes = 20.0 * trial.cores if trial.system == "epoll" else 4.0
    record.write_json(folder / "lines.json", lines(changes))
    made.metrics |= {"contention_2": changes, "contention_hottest": changes / 4}
    return made


@pytest.fixture
def results(tmp_path: Path) -> Path:
    synthetic.write(tmp_path, NAMES, "quick", measure=counting)
    return tmp_path


def test_counts__undisturbed_cores_are_as_many_times_as_fast() -> None:
    counts = Counts({1: 1000.0}, {1: 0.0}, {1: 0.0})
    assert counts.speedup(1, ONE) == 1
    assert counts.speedup(8, ONE) == pytest.approx(8)


def test_counts__a_line_that_travels_is_waited_for() -> None:
    counts = Counts({1: 1000.0, 8: 1000.0}, {1: 0.0, 8: 20.0}, {1: 0.0, 8: 0.1})
    # 2,000 cycles of work, and as many of waiting.
    assert counts.speedup(8, ONE) == pytest.approx(4)
    # Half as many lines at the middle between one core and eight.
    assert model.between(counts.changes, 4.5) == 10  # type: ignore[arg-type]


def test_counts__one_line_serves_one_core_at_a_time() -> None:
    counts = Counts({1: 1000.0, 8: 1000.0}, {1: 0.0, 8: 20.0}, {1: 0.0, 8: 10.0})
    # 1,000 cycles of the hottest line in each transaction, whoever works.
    assert counts.speedup(8, ONE) == pytest.approx(2)


def test_read_model__is_whole() -> None:
    found = model.read_model()
    assert found.cores[0] == 1
    assert len(found.assumed) >= 2
    assert model.assumptions(found)[0].startswith(found.assumed[0].label)


def test_write__table_and_figure(results: Path) -> None:
    written = model.write(results, "local")
    assert [path.name for path in written] == ["model.csv", "model.svg", "model.png"]
    rows = list(csv.DictReader(written[0].read_text().splitlines()))
    last = {
        (row["system"], row["transactions_per_connection"]): float(row["modelled_speedup"])
        for row in rows
        if row["cores"] == "8" and row["assumed"] == "dear"
    }
    assert last["epoll", "1"] < last["megapipe", "1"]
    # Letters are shapes there; what they say is in comments.
    assert "A model, not a measurement" in written[1].read_text()


def test_write__nothing_without_counts(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-speedup"], "quick")
    assert model.write(tmp_path, "local") == []


def test_report__keeps_the_model_apart(results: Path) -> None:
    tables = report.load_tables(results, "local")
    assert 'id="model"' not in report.render(results, "local", tables)
    model.write(results, "local")
    page = report.render(results, "local", tables)
    assert page.index('id="model"') > page.index('id="pingpong-speedup"')
    assert "No machine with enough cores has been measured" in page
    assert "1.30 [F]" in page


def test_report__error_against_a_machine_that_scales(results: Path) -> None:
    real = synthetic.SyntheticBed("real", can_scale=True)
    synthetic.write(results, ["pingpong-speedup"], "quick", bed=real)
    model.write(results, "local")
    page = report.render(results, "local", report.load_tables(results, "local"))
    assert "measured: real" in page
    assert "(model: " in page
    assert "No machine with enough cores" not in page


def test_lines__a_row_a_kind_of_line(results: Path) -> None:
    one = table.make_table(table.load_raw(results, "local", "pingpong-contention-cores"))
    points = contention_figure.read_points(one, results, "local")
    # Two lengths, three numbers of cores.
    assert len(points) == 6
    assert points[0].systems == ["epoll", "megapipe"]
    assert points[0].names == ["descriptor table", "packets"]
    assert points[0].interface == {"descriptor table"}
    svg, png = contention_figure.write_figures(results, "local", one)
    assert png.stat().st_size > 10_000
    figure.write_figures(results, "local", one)
    page = report.render(results, "local", [one])
    assert "The ten worst lines of each system" in page
    assert svg.name == "pingpong-contention-cores-lines.svg"


def test_lines__none_where_none_were_counted(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["pingpong-speedup"], "smoke")
    one = table.make_table(table.load_raw(tmp_path, "local", "pingpong-speedup"))
    assert contention_figure.write_figures(tmp_path, "local", one) == []
