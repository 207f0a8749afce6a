# SPDX-License-Identifier: MIT
"""The report in a real browser (headless Chromium, where it is installed), without a network."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import synthetic

from megabench import figure, report, table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PHONE, DESK = (390, 844), (1280, 900)
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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    synthetic.write(folder, ["pingpong-contribution", "pingpong-speedup"], "quick")
    tables = report.load_tables(folder, "local")
    for one in tables:
        table.write_table(folder, "local", one)
        figure.write_figures(folder, "local", one)
    path = report.write_report(folder, "local", tables)
    probed = path.with_name("probed.html")
    text = path.read_text()
    assert text.rstrip().endswith("</body>\n</html>")
    probed.write_text(text.replace("</body>", PROBE, 1))
    return probed


def look(page: Path, size: tuple[int, int], *options: str) -> dict:  # type: ignore[type-arg]
    """Open the page; what it says of itself. Anything on the console is an error."""
    assert CHROMIUM is not None
    home = page.parent / "home"
    argv = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-dev-shm-usage", f"--user-data-dir={home}", "--enable-logging=stderr"),
        # Whatever it asks the network for, it does not get.
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={size[0]},{size[1]}"),
        *options,
        *("--dump-dom", f"file://{page}"),
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
    said = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert said is not None, done.stdout[-500:]
    found: dict = json.loads(said[1])  # type: ignore[type-arg]
    return found


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_report__opens_without_network_and_fits(page: Path, size: tuple[int, int]) -> None:
    found = look(page, size)
    assert found["broken"] == 0
    assert len(found["figures"]) == 4
    assert found["empty"] == 0
    # Wide tables and figures scroll by themselves; the page does not.
    assert found["width"] <= found["window"]


def test_report__dark(page: Path) -> None:
    light, dark = (
        look(page, DESK, *options) for options in ((), ("--blink-settings=preferredColorScheme=0",))
    )
    assert light["back"] == "rgb(255, 255, 255)"
    assert dark["back"] == "rgb(20, 24, 29)"
    assert dark["ink"] != light["ink"]
