# SPDX-License-Identifier: MIT
"""The report: one self-contained HTML page a testbed, results/README.md, the README's first screen.

All of it is made from raw results; a page opened from a mail shows the same as one in the checkout.
"""

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from megabench import (
    compare,
    contention,
    figure,
    metadata,
    model,
    paths,
    profile,
    record,
    summary,
    system,
    table,
)
from megabench.compare import Judged
from megabench.experiment import all_experiments
from megabench.record import ResultsError
from megabench.stats import CONFIDENCE, ENOUGH, FEWEST, chance, surety
from megabench.table import Table

# The figures' colours, which a page must be able to turn around at night.
THEME = {
    figure.INK: "var(--ink)",
    figure.FAINT: "var(--faint)",
    figure.GRID: "var(--line)",
    figure.PAPER: "var(--paper)",
    "#ffffff": "var(--bg)",
}
# Colours of systems and of ordered series that a dark page would swallow, and theirs at night.
NIGHT = {
    "#000000": "#e6edf3",
    "#4d4d4d": "#a3a3a3",
    "#332288": "#9d93e0",
    "#762a83": "#a95bb8",
    "#40004b": "#c77fd4",
    "#1f0024": "#e8c4ee",
}
CLASSES = {
    compare.REPRODUCED: "reproduced",
    compare.SAME: "same",
    compare.NOT: "not",
    compare.NOT_RUN: "unrun",
}
INTERVAL_RULE = (
    f"The interval is the {CONFIDENCE:.0%} interval of the median, or of the ratio of two medians, "
    "by bootstrap: expanded percentiles of 10,000 draws from a fixed seed, each system drawn by "
    f"itself. Fewer than {ENOUGH} trials cannot give {CONFIDENCE:.0%}. Then it is their whole "
    f"range, which holds the median of {FEWEST} with {surety(FEWEST):.0%}; a ratio's is the widest "
    f"that both ranges allow, sure to {surety(FEWEST, FEWEST):.0%} of {FEWEST} and {FEWEST} "
    f"trials, and clear of 1 in {chance(FEWEST, FEWEST):.0%} of all cases in which nothing "
    f"differs. The table says how sure each is; fewer than {FEWEST} trials have no interval. "
    f"`--until 5%` repeats until it is that narrow, {ENOUGH} times at least."
)
# Of all figures the one that shows what MegaPipe is: each of its ideas, beside the paper's gains.
FIRST_SEEN = "pingpong-contribution"
BEGIN, END = "<!-- results -->", "<!-- /results -->"


def load_tables(results: Path, testbed: str, scale: str | None = None) -> list[Table]:
    """The tables of everything measured on one testbed, in the order of the definitions."""
    measured = table.measured_experiments(results, testbed)
    tables = []
    for name in measured:
        try:
            tables.append(table.make_table(table.load_raw(results, testbed, name, scale)))
        except ResultsError:
            # Broken off before its first trial, or of another scale: others may still be shown.
            if len(measured) == 1:
                raise
    if not tables:
        raise ResultsError(
            f"no results on {testbed}", hint=f"measure first: megabench run --testbed {testbed}"
        )
    return tables


def judged(tables: Iterable[Table]) -> list[Judged]:
    """The verdicts of all experiments, those not run included."""
    rows: list[Judged] = []
    have = {one.raw.experiment.id: one for one in tables}
    for experiment in all_experiments():
        if experiment.id in have:
            rows += compare.compare(have[experiment.id])
        else:
            rows += compare.not_run(experiment)
    return rows


def write_report(results: Path, testbed: str, tables: list[Table]) -> Path:
    """report.html, from tables whose figures are drawn."""
    path = results / testbed / "report.html"
    record.write_whole(path, render(results, testbed, tables))
    return path


def render(results: Path, testbed: str, tables: list[Table]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("megabench", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    bed = tables[0].raw.testbed
    claims = [
        {**row, "class": CLASSES[row["verdict"]]} for row in summary.claim_rows(judged(tables))
    ]
    return environment.get_template("report.html.j2").render(
        where=figure.where(tables[0]),
        virtual=bed["is_virtual"],
        can_scale=bed["can_scale"],
        why_not_scale=bed.get("why_not_scale", ""),
        claims=claims,
        measured=[one.raw.experiment.id for one in tables],
        rule=plain(compare.RULE),
        marks=figure.marks_explained(),
        line_headings=contention.HEADINGS,
        interval_rule=plain(INTERVAL_RULE),
        day={variable(colour): colour for colour in NIGHT},
        night={variable(colour): other for colour, other in NIGHT.items()},
        release=metadata.lookup(bed, "facts.server.release") or "6.12",
        versions=versions(),
        experiments=[_experiment(results, testbed, one) for one in tables],
        model=_model(results, testbed),
    )


def versions() -> str:
    """The applications that the checkout builds."""
    pins = tomllib.loads((paths.HARNESS.parent / "versions.toml").read_text())
    return ", ".join(f"{name} {pins[name]['version']}" for name in ("memcached", "nginx"))


def _experiment(results: Path, testbed: str, one: Table) -> dict[str, Any]:
    experiment = one.raw.experiment
    return {
        "id": experiment.id,
        "title": experiment.title,
        "claim": experiment.claim,
        "mark": experiment.mark,
        "grids": [_grid(grid) for grid in summary.grids(one)],
        "figures": [
            {
                "id": fig.id,
                "title": fig.title,
                "svg": inline_svg(
                    _figure_path(results, testbed, one, fig, "svg").read_text(),
                    f"{experiment.id}-{fig.id}-svg",
                ),
                "caption": caption(one, fig),
            }
            for fig in experiment.figures
            if figure.drawable(one, fig)
            and _figure_path(results, testbed, one, fig, "svg").exists()
        ],
        "account": _account(results, testbed, one),
        "lines_svg": _lines_svg(results, testbed, one),
        "lines": contention.worst(
            one.raw.points, results / testbed / "raw" / experiment.id, max(contention.LEVELS)
        ),
        "command": rerun_command(one),
        "runs": one.raw.runs,
        "health": summary.health(one),
        "facts": facts(one),
    }


def _lines_svg(results: Path, testbed: str, one: Table) -> str:
    """The picture of the worst shared lines, if there is one."""
    picture = results / testbed / "figures" / f"{one.raw.experiment.id}-lines.svg"
    return inline_svg(picture.read_text(), picture.stem) if picture.exists() else ""


def _account(results: Path, testbed: str, one: Table) -> dict[str, Any] | None:
    """Where the instructions go, if they were counted by function."""
    folder = results / testbed / "figures"
    picture = folder / f"{one.raw.experiment.id}-layers.svg"
    try:
        found = profile.profiles(one.raw, results, testbed)
    except ResultsError:
        return None
    svg = inline_svg(picture.read_text(), picture.stem) if picture.exists() else ""
    return {"svg": svg, "tables": profile.accounts(found, profile.base_of(one.raw.experiment))}


def _model(results: Path, testbed: str) -> dict[str, Any] | None:
    """The model of scaling, where what it rests on was counted and it was drawn."""
    picture = results / testbed / "figures" / f"{model.STEM}.svg"
    try:
        made, _, found = model.load(results, testbed)
    except ResultsError:
        return None
    if not picture.exists():
        return None
    real = model.measured(made, results)
    return {
        "svg": inline_svg(picture.read_text(), picture.stem),
        "headings": model.headings(made, real),
        "rows": model.rows(made, found, real),
        "assumed": model.assumptions(made),
        "sources": [made.changes, made.instructions],
        "table": f"tables/{model.STEM}.csv",
        "machines": list(real),
    }


def _grid(grid: summary.Grid) -> dict[str, Any]:
    return {
        "title": grid.title,
        "base_label": system.look(grid.baseline).label,
        "parameters": [figure.label(name) for name in grid.parameters],
        "headings": grid.headings,
        "rows": grid.rows,
        "any_range": any(entry.range for _, entries in grid.rows for entry in entries),
    }


def _figure_path(results: Path, testbed: str, one: Table, fig: Any, kind: str) -> Path:
    return results / testbed / "figures" / f"{figure.file_stem(one, fig)}.{kind}"


def caption(one: Table, fig: Any) -> str:
    """What to see, and how to read it."""
    parts = [f"{fig.title}, {figure.where(one)}."]
    if fig.needs_scaling and not one.raw.can_scale:
        parts.append("Ours is not measurable here; what can be measured stands beside it.")
    whiskers = len(one.rows(fig.metric).dropna(subset=["lo"]))
    repeats = sorted(set(one.rows(fig.metric)["n"])) or [0]
    many = f"{repeats[0]}" if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
    if repeats[-1]:
        noun = "One trial each" if many == "1" else f"Medians of {many} trials"
        parts.append(f"{noun}{'; whiskers are intervals' if whiskers else ''}.")
    if fig.paper or fig.claims:
        parts.append("Grey: the paper's.")
    return " ".join(parts)


def rerun_command(one: Table) -> str:
    """The command that measures an experiment again."""
    meta = one.raw.meta
    words = ["megabench", "run", meta["experiment"], "--testbed", meta["testbed"]["name"]]
    words += ["--scale", meta["scale"]]
    for key, values in meta.get("only", {}).items():
        words += ["--only", f"{key}={','.join(map(str, values))}"]
    return shlex.join(words)


def facts(one: Table) -> list[tuple[str, str]]:
    """Everything that meta.json knows of the machines, flat."""
    meta = one.raw.meta
    chosen = {
        "commit": meta["commit"] + (" with uncommitted changes" if meta["dirty"] else ""),
        "started": meta["started"],
        "finished": meta["finished"],
        "command": shlex.join(meta["argv"]),
        "scale": meta["scale"],
        "sampling": meta["sampling"],
        "software": meta["software"],
        "binaries": meta["binaries"],
        "kernel source": meta.get("kernel_source", {}),
        "client": meta["client"],
        "testbed": meta["testbed"],
    }
    return list(_flat(chosen, ""))


def _flat(value: Any, name: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # Paths with dots of their own (a sysctl's file) stay one name.
            yield from _flat(inner, f"{name} {key}".strip())
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name} {index}")
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    elif value not in (None, "", {}):
        yield name, str(value)


def inline_svg(text: str, name: str) -> str:
    """An SVG file as part of a page: the page's width and colours, and ids of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, _, body = text.partition(">")
    # No wider than it was drawn: text would grow out of proportion.
    width = re.search(r' width="([0-9.]+)pt"', head)
    points = float(width[1]) if width else 600.0
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    head += f' style="max-width: {points * 4 / 3 * 1.15:.0f}px"'
    text = f"{head}>{body}"
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    themed = {**THEME, **{colour: f"var({variable(colour)})" for colour in NIGHT}}
    for colour, with_what in themed.items():
        text = re.sub(rf"{colour}\b", with_what, text, flags=re.IGNORECASE)
    return text


def variable(colour: str) -> str:
    """The name of a colour that is another at night."""
    return f"--c{colour.removeprefix('#')}"


def plain(text: str) -> str:
    """Markdown's emphasis and code marks taken off."""
    return text.replace("*", "").replace("`", "")


# Markdown: results/README.md and the README's first screen


def write_readmes(results: Path, scale: str | None = None) -> list[Path]:
    """results/README.md, and the part of README.md between its markers."""
    beds = {
        name: load_tables(results, name, scale)
        for name in table.measured_testbeds(results)
        if table.measured_experiments(results, name)
    }
    path = results / "README.md"
    record.write_whole(path, results_readme(results, beds))
    top = paths.root() / "README.md"
    if results != paths.results() or not top.exists() or not beds:
        return [path]
    text = top.read_text()
    if BEGIN not in text or END not in text:
        raise ResultsError(
            f"{top}: no {BEGIN} … {END}", hint="put both markers back, each alone on its line"
        )
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    name = "local" if "local" in beds else next(iter(beds))
    body = first_screen(results, name, beds[name])
    record.write_whole(top, f"{head}{BEGIN}\n{body}{END}{tail}")
    return [path, top]


def results_readme(results: Path, beds: Mapping[str, list[Table]]) -> str:
    """Experiment, paper, ours, ratio, verdict, figure: a table for each testbed."""
    lines = [
        "# Results",
        "",
        "Generated by `megabench report`; do not edit. `paper/` holds the published numbers, "
        "`<testbed>/raw/` what was measured; tables, figures and report are drawn from raw alone.",
    ]
    for name, tables in beds.items():
        lines += ["", f"## {name}: {figure.where(tables[0])}", ""]
        lines.append(f"The whole: [report.html]({name}/report.html).")
        lines += ["", *claims_markdown(tables, name, results)]
        for one in tables:
            lines += ["", f"### {one.raw.experiment.title}", "", *_figure_links(one, name, results)]
            lines += ["", f"Again: `{rerun_command(one)}`. {' '.join(summary.health(one))}"]
    lines += [
        "",
        "## How to read this",
        "",
        compare.RULE,
        "",
        INTERVAL_RULE,
        "",
        f"Marks of the paper's numbers: {figure.marks_explained()}.",
        "",
    ]
    return "\n".join(lines)


def claims_markdown(tables: list[Table], name: str, results: Path) -> list[str]:
    """The claims as a Markdown table."""
    rows = summary.claim_rows(judged(tables))
    lines = [
        "| experiment | claim | paper | ours | ours / paper | verdict | figure |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        picture = f"{name}/figures/{row['experiment']}-{row['figure']}.svg"
        link = f"[{row['figure']}]({picture})" if (results / picture).exists() else ""
        said = f"{row['verdict']}<br>{row['note']}" if row["note"] else row["verdict"]
        lines.append(
            f"| {row['experiment']} | {row['claim']}, by {row['by']} | {row['paper']} "
            f"| {row['ours']} | {row['of_paper']} | {said} | {link} |"
        )
    return lines


def _figure_links(one: Table, name: str, results: Path) -> list[str]:
    lines = []
    for fig in one.raw.experiment.figures:
        file = f"{name}/figures/{figure.file_stem(one, fig)}.png"
        if (results / file).exists():
            lines.append(f"![{caption(one, fig)}]({file})")
    return lines


def first_screen(results: Path, name: str, tables: list[Table]) -> str:
    """The README's results: claims, one figure, and on what."""
    lines = [
        f"Measured on: {figure.where(tables[0])}. Numbers are ratios; "
        "[how to read them, and all others](results/README.md).",
        "",
        "| claim | paper | ours | verdict |",
        "|---|---|---|---|",
    ]
    claims = judged(tables)
    # A claim and what stands in for it share a row.
    measured = summary.claim_rows([claim for claim in claims if claim.ours is not None])
    for _, group in groupby(measured, key=lambda row: (row["experiment"], row["claim"])):
        rows = list(group)
        ours = "<br>".join(f"{row['ours']} by {row['by'].partition(',')[0]}" for row in rows)
        verdict = "<br>".join(row["verdict"] for row in rows)
        lines.append(f"| {rows[0]['claim']} | {rows[0]['paper']} | {ours} | {verdict} |")
    missing = sum(claim.ours is None for claim in claims)
    if missing:
        lines += ["", f"{missing} more were not run, or cannot be measured on this testbed."]
    for one in sorted(tables, key=lambda one: one.raw.experiment.id != FIRST_SEEN):
        for fig in one.raw.experiment.figures:
            file = f"{name}/figures/{figure.file_stem(one, fig)}.png"
            if (results / file).exists():
                return "\n".join([*lines, "", f"![{caption(one, fig)}](results/{file})", ""])
    return "\n".join([*lines, ""])
