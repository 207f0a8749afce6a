# SPDX-License-Identifier: MIT
"""The report in a real browser (headless Chromium), without a network: one made up, and the one
of results/. Pictures of them are left in build/report for people to look at.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import synthetic

from megabench import figure, paths, report, table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PHONE, DESK = (390, 844), (1280, 900)
DARK = "--blink-settings=preferredColorScheme=0"
# The claims and the first figures of a page.
TALL = 4000
DEADLINE_S = 240
# What a page says of itself when it is laid out; in the page's copy only.
PROBE = """
<pre id="probe"></pre><script>
addEventListener("load", () => {
  const box = (one) => one.getBoundingClientRect();
  const ink = getComputedStyle(document.body);
  document.getElementById("probe").textContent = JSON.stringify({
    width: document.documentElement.scrollWidth,
    window: innerWidth,
    broken: [...document.images].filter((one) => !one.complete || !one.naturalWidth).length,
    figures: [...document.querySelectorAll("figure svg")].map((one) => box(one).width),
    empty: [...document.querySelectorAll("figure svg")].filter((one) => box(one).height < 9).length,
    back: ink.backgroundColor,
    ink: ink.color,
  });
});
</script></body>"""


def probed(report_: Path, folder: Path) -> Path:
    """A copy that says what it has become."""
    text = report_.read_text()
    assert text.rstrip().endswith("</body>\n</html>")
    path = folder / "probed.html"
    path.write_text(text.replace("</body>", PROBE, 1))
    return path


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    synthetic.write(folder, ["pingpong-contribution", "pingpong-speedup"], "quick")
    tables = report.load_tables(folder, "local")
    for one in tables:
        table.write_table(folder, "local", one)
        figure.write_figures(folder, "local", one)
    return probed(report.write_report(folder, "local", tables), folder)


@pytest.fixture(scope="module")
def of_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = paths.results() / "local" / "report.html"
    if not path.exists():
        pytest.skip("there are no results")
    return probed(path, tmp_path_factory.mktemp("committed"))


def browse(page: Path, size: tuple[int, int], *options: str) -> str:
    """Open a page; what it has become. Anything on the console is an error."""
    assert CHROMIUM is not None
    home = page.parent / "home"
    argv = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-dev-shm-usage", f"--user-data-dir={home}", "--enable-logging=stderr"),
        # Whatever it asks the network for, it does not get.
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={size[0]},{size[1]}"),
        *options,
        f"file://{page}",
    ]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, "HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def look(page: Path, size: tuple[int, int], *options: str) -> dict:  # type: ignore[type-arg]
    """What a page says of itself when it is laid out."""
    dom = browse(page, size, *options, "--dump-dom")
    said = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S)
    assert said is not None, dom[-500:]
    found: dict = json.loads(said[1])  # type: ignore[type-arg]
    return found


def check(found: dict) -> None:  # type: ignore[type-arg]
    assert found["broken"] == 0
    assert found["figures"]
    assert found["empty"] == 0
    # Wide tables and figures scroll by themselves; the page does not.
    assert found["width"] <= found["window"]


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_report__opens_without_network_and_fits(made_up: Path, size: tuple[int, int]) -> None:
    found = look(made_up, size)
    check(found)
    assert len(found["figures"]) == 4


def test_report__dark(made_up: Path) -> None:
    light, dark = (look(made_up, DESK, *options) for options in ((), (DARK,)))
    assert light["back"] == "rgb(255, 255, 255)"
    assert dark["back"] == "rgb(20, 24, 29)"
    assert dark["ink"] != light["ink"]


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_report__of_the_results_too(of_results: Path, size: tuple[int, int]) -> None:
    check(look(of_results, size))


def test_report__pictures_to_look_at(of_results: Path) -> None:
    """By day, by night and on a phone: each is a picture, and no two are the same."""
    folder = paths.build() / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, size, options in (
        ("desk", DESK, []),
        ("dark", DESK, [DARK]),
        ("phone", PHONE, []),
    ):
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)
        browse(of_results, (size[0], TALL), *options, f"--screenshot={path}")
        pictures[name] = path.read_bytes()
        assert pictures[name].startswith(b"\x89PNG")
        # An empty page packs to next to nothing.
        assert len(pictures[name]) > 100_000
    assert len(set(pictures.values())) == 3
