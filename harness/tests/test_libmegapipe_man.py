# SPDX-License-Identifier: MIT
"""The manual of libmegapipe: complete, clean, and its examples print what it says.

man/*.3 ---> first .EX of EXAMPLES ---> gcc ---> guest ---> its output == second .EX
"""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from kernel_log import complaints
from programs import ROOT, build

from megabench.testbed import Testbed

LIBRARY = ROOT / "libmegapipe"
MAN = LIBRARY / "man"
GUEST = "/run/megabench/libmegapipe-man"
SECTIONS = ("SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "THREADS", "EPOLL AND IO_URING", "EXAMPLES")


def is_link(page: Path) -> bool:
    return page.read_text().startswith(".so ")


PAGES = sorted(MAN.glob("*.[0-9]"))
FULL = [page for page in PAGES if not is_link(page)]
FUNCTIONS = [page for page in FULL if page.suffix == ".3"]


def exported() -> list[str]:
    """The functions that a program calls: exported, and declared in the header that it includes."""
    symbols = (LIBRARY / "src" / "libmegapipe.map").read_text()
    header = (LIBRARY / "include" / "megapipe.h").read_text()
    declared = re.findall(r"^(?:\w+ )+\*?(mp_\w+)\(", header, re.M)
    return [name for name in declared if f"\t{name};" in symbols]


def section(page: Path, name: str) -> str:
    """What stands between this .SH and the next."""
    found = re.search(rf"^\.SH {name}\n(.*?)(?=^\.SH |\Z)", page.read_text(), re.M | re.S)
    assert found, f"{page.name} has no section {name}"
    return found[1]


def unroff(text: str) -> str:
    """Code between .EX and .EE as it is shown."""
    text = re.sub(r"^\\&", "", text, flags=re.M)
    for escape, shown in (("\\-", "-"), ("\\(aq", "'"), ("\\(ga", "`"), ("\\(ha", "^")):
        text = text.replace(escape, shown)
    return text.replace("\\(ti", "~").replace("\\e", "\\")


def blocks(page: Path) -> list[str]:
    """The program of a page and its output."""
    code = re.findall(r"^\.EX\n(.*?)^\.EE$", section(page, "EXAMPLES"), re.M | re.S)
    return [unroff(text) for text in code]


def render(page: Path) -> str:
    """The page as `man` shows it; fails if groff has anything to complain about."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(page)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def compile_example(page: Path, binary: Path) -> None:
    source = binary.with_suffix(".c")
    source.write_text(blocks(page)[0])
    include, archive = LIBRARY / "include", ROOT / "build" / "lib" / "libmegapipe.a"
    argv = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    argv += [f"-I{include}", str(source), str(archive), "-pthread", "-o", str(binary)]
    subprocess.run(argv, check=True, timeout=60)


def test_every_function_has_a_page() -> None:
    documented = sorted(page.stem for page in PAGES if page.suffix == ".3")
    assert len(documented) >= 32
    assert documented == sorted(exported())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_name_line(page: Path) -> None:
    """The names before the dash are the page and its links, no more and no fewer."""
    if is_link(page):
        target = MAN / Path(page.read_text().split()[1]).name
        assert page.read_text() == f".so man{target.suffix[1]}/{target.name}\n"
        page, name = target, page.stem
    else:
        name = page.stem
    line = section(page, "NAME").strip()
    names, _, what = line.partition(r" \- ")
    assert name in names.split(", ")
    assert what
    assert not what.endswith(".")
    links = [other.stem for other in PAGES if other.read_text().endswith(f"/{page.name}\n")]
    assert sorted(names.split(", ")) == sorted([page.stem, *links])


@pytest.mark.skipif(not shutil.which("man"), reason="there is no man here")
@pytest.mark.parametrize("page", FULL, ids=lambda page: page.name)
def test_page_is_clean(page: Path) -> None:
    """No warning of groff, no code too wide for 80 columns; nor of mandoc where there is one."""
    shown = render(page)
    if page.suffix != ".1":
        assert max(len(line) for line in shown.splitlines()) <= 80
    if shutil.which("mandoc"):
        lint = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
        done = subprocess.run(lint, capture_output=True, text=True, timeout=30, check=False)
        assert not done.stdout + done.stderr


@pytest.mark.parametrize("page", FULL, ids=lambda page: page.name)
def test_references_lead_somewhere(page: Path) -> None:
    """Each mp_*() or megapipe*() that a page refers to, is."""
    for name, number in re.findall(r"\b(mp_\w+|megapipe[\w\\-]*) \((\d)\)", page.read_text()):
        assert (MAN / f"{name}.{number}".replace("\\", "")).exists(), name


@pytest.mark.parametrize("page", FUNCTIONS, ids=lambda page: page.stem)
def test_synopsis_is_the_header(page: Path) -> None:
    """The prototypes, as shown, are those of the header; the sections are all there."""
    for name in SECTIONS:
        assert section(page, name).strip()
    header = (LIBRARY / "include" / "megapipe.h").read_text()
    shown = re.sub(r'^\.(?:BI?|PP|nf|fi)\b|"', "", section(page, "SYNOPSIS"), flags=re.M)
    prototypes = re.findall(r"[^;>]*\bmp_\w+\([^;]*;", shown)
    assert len(prototypes) == len(section(page, "NAME").split(r" \- ")[0].split(", "))
    for prototype in prototypes:
        assert squeezed(prototype) in squeezed(header)


def squeezed(code: str) -> str:
    """Without white space, which differs by the width of a page."""
    return re.sub(r"\s+", "", code)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build("libmegapipe")
    folder = tmp_path_factory.mktemp("man")
    for page in FUNCTIONS:
        compile_example(page, folder / page.stem)
    return folder


@pytest.mark.parametrize("page", FUNCTIONS, ids=lambda page: page.stem)
def test_example_compiles(examples: Path, page: Path) -> None:
    """As a program of its own, without a warning, and about the function."""
    assert (examples / page.stem).exists()
    program, output = blocks(page)
    names = section(page, "NAME").split(r" \- ")[0].split(", ")
    assert any(f"{name}(" in program for name in names)
    assert output.endswith("\n")


@pytest.mark.skipif(os.path.exists("/dev/megapipe"), reason="this machine has MegaPipe")
def test_example_without_megapipe(examples: Path) -> None:
    """The example of mp_create() on a machine that has no MegaPipe: what most people see first."""
    done = subprocess.run(
        [str(examples / "mp_create")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "has no MegaPipe" in done.stderr
    assert "CONFIG_MEGAPIPE=y" in done.stderr


@pytest.fixture(scope="module")
def outputs(examples: Path, testbed: Testbed) -> dict[str, tuple[int, str]]:
    """What each example does in the guest, all in one go: exit status and output."""
    guest = testbed.server
    archive = examples / "examples.tar"
    with tarfile.open(archive, "w") as tar:
        for page in FUNCTIONS:
            tar.add(examples / page.stem, page.stem)
    guest.run(["mkdir", "-p", GUEST], timeout=30)
    guest.put(archive, f"{GUEST}/examples.tar")
    script = f"""cd {GUEST} && tar -xf examples.tar && for f in mp_*; do
        echo "begin $f"; timeout 60 ./$f; echo "end $?"; done"""
    complaints(guest)
    said = guest.run(["sh", "-c", script], timeout=600).stdout
    assert not complaints(guest)
    found = re.findall(r"^begin (\w+)\n(.*?)^end (\d+)$", said, re.M | re.S)
    return {name: (int(status), output) for name, output, status in found}


@pytest.mark.vm
@pytest.mark.parametrize("page", FUNCTIONS, ids=lambda page: page.stem)
def test_example_prints_what_it_says(outputs: dict[str, tuple[int, str]], page: Path) -> None:
    assert outputs[page.stem] == (0, blocks(page)[1])
