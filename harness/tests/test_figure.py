# SPDX-License-Identifier: MIT
"""Figures: drawn from tables alone, the same bytes each time, honest about what cannot be shown."""

from pathlib import Path
from typing import Any

import matplotlib
import pytest
import synthetic
from matplotlib.figure import Figure as Canvas

from megabench import figure, system, table
from megabench.experiment import Figure

BOTH = ["pingpong-contribution", "pingpong-speedup"]
Tables = dict[str, table.Table]


def tables(
    results: Path, *, can_scale: bool, scale: str = "quick", names: list[str] = BOTH
) -> Tables:
    synthetic.write(results, names, scale, synthetic.SyntheticBed(can_scale=can_scale))
    return {one: table.make_table(table.load_raw(results, "local", one, scale)) for one in names}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return tables(tmp_path_factory.mktemp("emulated"), can_scale=False)


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return tables(tmp_path_factory.mktemp("scaling"), can_scale=True)


def of(one: table.Table, name: str) -> Figure:
    return next(fig for fig in one.raw.experiment.figures if fig.id == name)


def texts(canvas: Canvas) -> str:
    """Everything written in a figure."""
    return "\n".join(text.get_text() for text in canvas.findobj(lambda a: hasattr(a, "get_text")))


def test_draw__says_that_it_is_a_virtual_machine(emulated: Tables) -> None:
    one = emulated[BOTH[0]]
    for fig in one.raw.experiment.figures:
        assert "virtual machine (TCG emulation), 8 vCPUs" in texts(figure.draw(one, fig))


def test_draw__a_real_machine_does_not(scaling: Tables) -> None:
    one = scaling[BOTH[0]]
    one.raw.meta["testbed"] |= {"is_virtual": False, "accel": None}
    try:
        written = texts(figure.draw(one, of(one, "throughput")))
    finally:
        one.raw.meta["testbed"] |= {"is_virtual": True, "accel": "tcg"}
    assert "emulation" not in written
    assert "8 cores" in written


def test_draw__not_measurable_here(emulated: Tables) -> None:
    one = emulated[BOTH[1]]
    written = texts(figure.draw(one, of(one, "speedup")))
    assert "ours: not measurable here (8 vCPUs share 2 host cores)" in written.replace("\n", " ")
    assert "epoll, paper [F]" in written
    assert "Measured in its place" in written
    assert "instructions per transaction" in written


def test_draw__measurable_beside_the_paper(scaling: Tables) -> None:
    one = scaling[BOTH[1]]
    written = texts(figure.draw(one, of(one, "speedup")))
    assert "not measurable" not in written
    assert "MegaPipe PBL, paper [F]" in written
    assert "MegaPipe PBL\n" in written


def test_draw__recalled_numbers_say_so(emulated: Tables) -> None:
    one = emulated[BOTH[0]]
    assert "paper [R]: + lwsocket" in texts(figure.draw(one, of(one, "contribution")))


def test_drawable__not_twice_and_nothing_empty(emulated: Tables, scaling: Tables) -> None:
    def drawn(one: table.Table) -> list[str]:
        return [fig.id for fig in one.raw.experiment.figures if figure.drawable(one, fig)]

    assert drawn(emulated[BOTH[1]]) == ["speedup"]
    assert drawn(scaling[BOTH[1]]) == ["speedup", "speedup-by-cores", "instructions-by-cores"]


def test_write_figures__same_bytes_twice(emulated: Tables, tmp_path: Path) -> None:
    pictures = []
    for folder in ("a", "b"):
        written = figure.write_figures(tmp_path / folder, "local", emulated[BOTH[0]])
        pictures.append({path.name: path.read_bytes() for path in written})
    assert len(pictures[0]) == 6
    assert pictures[0] == pictures[1]


def test_draw__one_trial_has_no_whiskers(tmp_path: Path) -> None:
    one = tables(tmp_path, can_scale=True, scale="smoke")[BOTH[0]]
    canvas = figure.draw(one, of(one, "throughput"))
    (axes,) = canvas.axes
    assert not [box for box in axes.containers if type(box).__name__ == "ErrorbarContainer"]


def test_lines__an_axis_of_its_own_where_one_would_press_flat(emulated: Tables) -> None:
    one = emulated[BOTH[1]]
    data = one.rows("instructions").dropna(subset=["median"])
    assert not figure._one_scale(data, of(one, "instructions-by-cores"))


def test_drawable__the_substitute_alone_where_the_paper_has_no_curve(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["accept-rate"], "quick")
    one = table.make_table(table.load_raw(tmp_path, "local", "accept-rate", "quick"))
    drawn = [fig.id for fig in one.raw.experiment.figures if figure.drawable(one, fig)]
    assert drawn == ["instructions"]


def drawn_alone(results: Path, name: str, one: str) -> Canvas:
    synthetic.write(results, [name], "quick")
    made = table.make_table(table.load_raw(results, "local", name, "quick"))
    return figure.draw(made, of(made, one))


def test_lines__a_parameter_as_series_is_told_apart_and_not_grey(tmp_path: Path) -> None:
    canvas = drawn_alone(tmp_path, "pingpong-improvement", "gain")
    (axes,) = canvas.axes
    ours = [line for line in axes.lines if str(line.get_label()).endswith("bytes")]
    assert [line.get_label() for line in ours] == ["64 bytes", "1024 bytes", "4096 bytes"]
    assert len({line.get_color() for line in ours} | {figure.PAPER}) == 4


def test_bars__a_panel_per_value(tmp_path: Path) -> None:
    canvas = drawn_alone(tmp_path, "pingpong-peers", "instructions")
    titles = [axes.get_title(loc="left") for axes in canvas.axes]
    assert titles == ["64 connections", "256 connections"]
    assert all(axes.patches for axes in canvas.axes)


def test_lines__panels_of_one_scale_hold_all_points(tmp_path: Path) -> None:
    canvas = drawn_alone(tmp_path, "pingpong-peers", "throughput")
    for axes in canvas.axes:
        lowest, highest = axes.get_ylim()
        assert lowest == 0
        for line in axes.lines:
            assert max(line.get_ydata()) <= highest  # type: ignore[arg-type]


def paper_points(axes: Any) -> dict[str, list[tuple[float, float]]]:
    """What is drawn in the paper's grey, by its label."""
    drawn = {line.get_label(): line for line in axes.lines}
    drawn |= {
        box.get_label(): box.lines[0]
        for box in axes.containers
        if type(box).__name__ == "ErrorbarContainer"
    }
    return {
        str(label): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for label, line in drawn.items()
        if "paper" in str(label) and line.get_color() == figure.PAPER
    }


def test_claims__memcached_at_one_request_and_at_endless_ones(tmp_path: Path) -> None:
    (axes,) = drawn_alone(tmp_path, "memcached-throughput", "gain").axes
    ticks = dict(
        zip((t.get_text() for t in axes.get_xticklabels()), axes.get_xticks(), strict=True)
    )
    (points,) = paper_points(axes).values()
    there = dict(points)
    assert there[ticks["1"]] == pytest.approx(320)
    assert there[ticks["endless"]] == pytest.approx(15)


def test_claims__nginx_over_the_bar_of_the_trace(tmp_path: Path) -> None:
    (axes,) = drawn_alone(tmp_path, "nginx-throughput", "gain").axes
    groups = [tick.get_text() for tick in axes.get_xticklabels()]
    (label,) = paper_points(axes)
    ((x, y),) = paper_points(axes)[label]
    assert label == "MegaPipe PBL, paper [A]"
    assert round(x) == groups.index("synthetic\nYahoo-like")
    assert y == 75.0
    bar = min(axes.patches, key=lambda one: abs(one.get_x() + one.get_width() / 2 - x))
    assert bar.get_facecolor()[:3] == matplotlib.colors.to_rgb(system.look("megapipe").colour)


def test_claims__only_in_the_panel_of_the_verdict(tmp_path: Path) -> None:
    few, many = drawn_alone(tmp_path, "pingpong-peers", "gain").axes
    assert paper_points(few) == {}
    ((x, y),) = paper_points(many)["MegaPipe PBL, paper [F]"]
    assert (x, y) == (1, pytest.approx(100 * (5.42 / 2.87 - 1)))


def test_claims__a_kibibyte_costs_two_per_cent_more(tmp_path: Path) -> None:
    (axes,) = drawn_alone(tmp_path, "motivation-size", "cost").axes
    assert paper_points(axes)["epoll, paper [T]"] == [(1024, pytest.approx(1.02))]


def test_draw__the_paper_s_speed_up_in_each_panel(tmp_path: Path) -> None:
    one = tables(tmp_path, can_scale=True, names=["motivation-cores"])["motivation-cores"]
    canvas = figure.draw(one, of(one, "speedup"))
    for axes, speedup in zip(canvas.axes, (1.30, 5.13, 6.72), strict=True):
        assert paper_points(axes)["epoll, paper [F]"] == [(8, speedup)]


def test_draw__points_of_several_panels_say_of_which(tmp_path: Path) -> None:
    written = texts(drawn_alone(tmp_path, "motivation-cores", "speedup"))
    assert "16 txn/connection" in written
    assert "64 txn/connection" not in written


def test_lines__flat_ones_are_not_cut(tmp_path: Path) -> None:
    canvas = drawn_alone(tmp_path, "motivation-cores", "instructions")
    for axes in canvas.axes:
        highest = max(max(line.get_ydata()) for line in axes.lines)  # type: ignore[type-var]
        assert highest <= 0.97 * axes.get_ylim()[1]


def test_marks_explained__all() -> None:
    said = figure.marks_explained()
    assert all(f"[{mark}]" in said for mark in "ATFR")


def test_draw__endless_comes_after_all_that_is_not(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["memcached-throughput"])
    one = table.make_table(table.load_raw(tmp_path, "local", "memcached-throughput", "quick"))
    for name in ("throughput", "instructions"):
        axes = figure.draw(one, of(one, name)).axes[0]
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
        assert labels == ["1", "2", "8", "32", "endless"]
    line = figure.draw(one, of(one, "throughput")).axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [1, 2, 8, 32, 64]


def test_draw__workloads_by_name(tmp_path: Path) -> None:
    synthetic.write(tmp_path, ["nginx-throughput"])
    one = table.make_table(table.load_raw(tmp_path, "local", "nginx-throughput", "quick"))
    written = texts(figure.draw(one, of(one, "instructions")))
    for name in ("SpecWeb-like", "Yahoo-like", "Yahoo/2", "SPECweb96 mix"):
        assert f"synthetic\n{name}" in written
    assert "yahoo" not in written
