# SPDX-License-Identifier: MIT
"""The report and the READMEs."""

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import synthetic
from matplotlib.figure import Figure as Canvas
from rich.console import Console, RenderableType

from megabench import (
    compare,
    console,
    figure,
    paths,
    profile,
    profile_figure,
    record,
    report,
    summary,
    system,
    table,
)
from megabench.record import ResultsError

BOTH = ["pingpong-contribution", "pingpong-speedup"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    synthetic.write(folder, BOTH, "quick")
    for one in report.load_tables(folder, "local"):
        table.write_table(folder, "local", one)
        figure.write_figures(folder, "local", one)
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return report.write_report(results, "local", report.load_tables(results, "local")).read_text()


class Outline(HTMLParser):
    """Ids, inner links, and tags that are not closed."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [value for value in [given.get("id")] if value]
        self.links += [value for value in [given.get("href")] if value]
        self.sources += [value for value in [given.get("src")] if value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_render__well_formed_and_self_contained(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.sources == []
    assert "<script" not in page
    assert len(set(outline.ids)) == len(outline.ids)
    for link in outline.links:
        assert not link.startswith("http")
        if link.startswith("#"):
            assert link[1:] in outline.ids


def test_render__everything_is_there(page: str) -> None:
    assert "virtual machine (TCG emulation), 8 vCPUs" in page
    assert "megabench run pingpong-speedup --testbed local --scale quick" in page
    assert page.count("<figure") == 4
    assert "6.12.117-megapipe" in page
    assert "at least 80% of the paper" in page
    assert "not measurable here" in page
    assert "prefers-color-scheme: dark" in page
    assert "What differs from 2012" in page
    assert "memcached 1.6.18, nginx 1.22.1" in page


def test_inline_svg__takes_the_page_s_colours(results: Path) -> None:
    svg = (results / "local" / "figures" / "pingpong-contribution-throughput.svg").read_text()
    inline = report.inline_svg(svg, "one")
    assert inline.startswith("<svg")
    assert figure.INK in svg
    assert figure.INK not in inline
    assert "var(--ink)" in inline
    assert "<metadata>" not in inline
    assert inline.count('id="') == inline.count('id="one-')
    assert inline.count('href="#') == inline.count('href="#one-') > 0


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    "colour", [*(look.colour for look in system.systems().values()), *figure.ORDERED]
)
def test_night__no_series_is_swallowed_by_the_dark(colour: str, page: str) -> None:
    """A contrast of 3, as accessibility asks of pictures."""
    night = report.NIGHT.get(colour, colour)
    back = re.findall(r"--bg: (#[0-9a-f]{6})", page)[1]
    assert (luminance(night) + 0.05) / (luminance(back) + 0.05) >= 3
    if colour in report.NIGHT:
        name = report.variable(colour)
        assert page.index(f"{name}: {colour};") < page.index(f"{name}: {night};")
        assert f'fill: {colour}"' not in page


def test_results_readme__links_exist(results: Path) -> None:
    (path,) = report.write_readmes(results)
    text = path.read_text()
    assert "| pingpong-contribution | 1 transaction per connection" in text
    for part in text.split("](")[1:]:
        assert (results / part.partition(")")[0]).exists()


def test_write_readmes__between_the_markers(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setattr(paths, "results", lambda: results)
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    report.write_readmes(results)
    text = readme.read_text()
    assert text.startswith("# A\n<!-- results -->\nMeasured on: virtual machine")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    # A claim has one row, by whatever it was measured.
    claims = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    assert len(set(claims)) == len(claims) > 1
    assert " by throughput<br>" in text
    # On the first screen is what was measured; the rest is counted.
    assert "| not run |" not in text
    assert "more were not run" in text
    readme.write_text("# A\n")
    with pytest.raises(ResultsError, match="no <!-- results -->"):
        report.write_readmes(results)
    assert readme.read_text() == "# A\n"


def test_rerun_command__with_its_points(tmp_path: Path) -> None:
    synthetic.write(tmp_path, BOTH[:1], "smoke")
    (one,) = report.load_tables(tmp_path, "local")
    one.raw.meta["only"] = {"system": ["epoll", "megapipe"]}
    assert report.rerun_command(one) == (
        "megabench run pingpong-contribution --testbed local --scale smoke "
        "--only system=epoll,megapipe"
    )


def test_load_tables__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results on local"):
        report.load_tables(tmp_path, "local")


def test_judged__experiments_not_run_are_named(tmp_path: Path) -> None:
    synthetic.write(tmp_path, BOTH[:1], "smoke")
    rows = report.judged(report.load_tables(tmp_path, "local"))
    assert {row.verdict for row in rows if row.experiment == BOTH[1]} == {"not run"}


def texts(canvas: Canvas) -> str:
    """Everything written in a figure."""
    return "\n".join(text.get_text() for text in canvas.findobj(lambda a: hasattr(a, "get_text")))


def test_everywhere__a_trace_is_synthetic(tmp_path: Path) -> None:
    """Whatever a person reads of the workloads of web servers; what --only takes is no reading."""
    synthetic.write(tmp_path, ["nginx-throughput"])
    (one,) = report.load_tables(tmp_path, "local")
    for point in one.raw.points:
        file = profile.functions_path(point, one.raw, tmp_path, "local")
        record.write_json(file, {"tcp_ack": 1000.0})
    found = profile.profiles(one.raw, tmp_path, "local")
    figures = one.raw.experiment.figures
    figure.write_figures(tmp_path, "local", one)
    page = report.write_report(tmp_path, "local", [one]).read_text()
    grids = [console.grid_table(grid) for grid in summary.grids(one)]
    bars = profile_figure.bars(one, found)
    drawn = {fig.id: texts(figure.draw(one, fig)) for fig in figures if figure.drawable(one, fig)}
    drawn["layers"] = texts(bars)
    written = {
        "page": re.sub(r"<[^>]+>", " ", re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)),
        "README": report.results_readme(tmp_path, {"local": [one]}),
        "table": table.to_csv(one),
        "layers.csv": profile.layers_csv("nginx-throughput", found),
        "functions.csv": profile.functions_csv("nginx-throughput", found),
        "folded": profile.folded(found),
        "terminal": "\n".join(map(printed, (*grids, console.claims_table(compare.compare(one))))),
        "comparison": "\n".join(row.cell for row in compare.differences(one, one, ["throughput"])),
    }
    for where, text in (written | drawn).items():
        names = re.findall(r"(\S*)\s+(\S*(?:specweb|yahoo)\S*)", text, re.IGNORECASE)
        assert names, where
        for before, name in names:
            assert re.search(r"(^|\W)synthetic$", before), (where, before, name)
    assert "synthetic" in one.raw.experiment.title
    assert all("synthetic" in fig.title for fig in figures)


def printed(shown: RenderableType) -> str:
    out = Console(file=StringIO(), width=300)
    out.print(shown)
    return out.file.getvalue()
