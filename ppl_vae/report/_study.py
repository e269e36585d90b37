"""Report of a study as one HTML file, without network, script or second file."""

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jinja2

from ppl_vae.comparison import Comparison
from ppl_vae.files import printable, write_atomically
from ppl_vae.names import plural
from ppl_vae.plots import Style, style_of, svg_symbol
from ppl_vae.report import _codes as codes
from ppl_vae.report import _measures as measures
from ppl_vae.report import _numbers as numbers
from ppl_vae.report import _provenance as provenance
from ppl_vae.report import _ranking as ranking
from ppl_vae.report import _runs as runs
from ppl_vae.report import _trust as trust
from ppl_vae.report._answer import answer
from ppl_vae.report._blocks import Block, Section

if TYPE_CHECKING:
    from ppl_vae.studies import StudyResults

PAGE = "report.html"
_MOST_SHOWN = 12
"""Number of arms that a figure shows beside the reference; more would hide each other."""
_MOST_LINES = 6
"""Number of lines of a group of warnings that are open from the start."""


class _Warnings(NamedTuple):
    """Warnings of one kind: the first lines in sight, the rest folded."""

    title: str
    first: Sequence[str]
    rest: Sequence[str]


def write_report(results: "StudyResults", path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a study as one HTML file, from its folder alone; return its path.

    Tables hold all arms and cells; figures the best arms and the reference. Values read from a cell
    are freed before the next, apart from the log p(x) that the comparison is made of.

    Args:
        results: Results of the study.
        path: Path of the page; ``report.html`` in the study's folder if not given.

    Raises:
        OSError: If the page cannot be written; an earlier one stays whole.
        ValueError: If a file in the study's folder is damaged.
    """
    path = results.folder / PAGE if path is None else Path(path)
    write_atomically(path, render(results, results.comparison()))
    return path


def render(results: "StudyResults", comparison: Comparison | None) -> str:
    """Render the page as HTML.

    Args:
        results: Results of the study.
        comparison: Comparison of its arms; None before any cell is done.
    """
    study = results.study
    styles: dict[str, Style] = {}
    few = ""
    if comparison is not None:
        ranked = list(comparison.ranking)
        reference = comparison.reference or study.reference
        chosen = {*ranked[:_MOST_SHOWN], *([reference] if reference in ranked else [])}
        # In the order of the plan: neighbours in a key are neighbours in the study.
        shown = [arm for arm in comparison.arms if arm in chosen]
        styles = {arm: style_of(index) for index, arm in enumerate(shown)}
        if len(styles) < len(comparison.arms):
            few = (
                f"Figures show {len(styles)} of {len(comparison.arms):,} arms: the best ones and "
                "the reference. Tables hold all."
            )
    size = [plural(len(study.arms), "arm"), plural(len(study.seeds), "seed")]
    return _template().render(
        title=study.question or study.title,
        kicker=f"Comparison of {f' {numbers.TIMES} '.join(size)} · {study.title}",
        trust="" if comparison is None else _sentence(comparison.trust),
        in_doubt=comparison is not None and bool(comparison.warnings),
        cautions=_warnings(results, comparison),
        answer=answer(comparison) if comparison else [
            "No cell of this study is done yet: there is nothing to compare."
        ],
        sections=_sections(results, comparison, styles),
        few=few,
        styles={arm: index for index, arm in enumerate(styles)},
        symbols=[svg_symbol(style, f"key-{n}") for n, style in enumerate(styles.values())],
        style=_resource("style.css"),
        script=_resource("page.js"),
    )  # fmt: skip


def _warnings(results: "StudyResults", comparison: Comparison | None) -> list[_Warnings]:
    """Warnings about runs, estimates and statistics; groups without one are left out."""
    doubtful: Mapping[str, str] = {} if comparison is None else comparison.warnings
    groups = {
        "Runs": results.warnings,
        "Estimates of log p(x)": [f"{arm}: {text}" for arm, text in doubtful.items()],
        "Statistics": [] if comparison is None else comparison.notes,
    }
    return [
        _Warnings(title, lines[:_MOST_LINES], lines[_MOST_LINES:])
        for title, lines in groups.items()
        if lines
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _sections(
    results: "StudyResults", comparison: Comparison | None, styles: dict[str, Style]
) -> list[Section]:
    design = provenance.design(results, comparison)
    if comparison is None:
        last = provenance.cells_table(results.cells, {})
        return [design, last, provenance.reproduction(results)]
    arms, cells = comparison.arms, results.cells
    values = {
        (arm, seed): value
        for arm, mean in arms.items()
        for seed, value in zip(comparison.seeds[arm], mean.per_seed, strict=True)
    }
    all_sections = [
        design,
        ranking.ranked(comparison, styles),
        trust.trusted(comparison, styles),
        ranking.differences(comparison),
        ranking.factors(comparison),
        ranking.methods(results, comparison),
        runs.learning_curves(cells, styles),
        measures.bound_curves(cells, styles),
        measures.sandwich_block(cells, styles),
        measures.decompositions(cells, list(arms), styles),
        codes.codes(cells, list(arms)),
        measures.gradients_block(cells, styles),
        measures.lacking(cells, list(arms)),
        runs.pictures(cells, styles, results.manifest.get("data", {})),
        runs.costs(cells, {arm: (mean.mean, mean.error) for arm, mean in arms.items()}, styles),
        provenance.cells_table(cells, values),
        provenance.reproduction(results),
    ]
    return [section for section in all_sections if section is not None]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppl_vae.report", "page"),
        autoescape=True,
        # A name that the template misspells raises, and is not written as nothing.
        undefined=jinja2.StrictUndefined,
        # A stranger's cell may hold what would steer a terminal that the page is printed on.
        finalize=lambda value: type(value)(printable(value)) if isinstance(value, str) else value,
    )
    environment.filters["rows_of_blocks"] = _rows
    environment.globals["zip"] = zip
    return environment.get_template("page.html.jinja")


def _rows(blocks: Sequence[Block]) -> list[tuple[bool, list[Block]]]:
    """Group adjacent figures and narrow tables, which stand side by side where there is room."""
    groups = groupby(blocks, key=lambda block: block.beside)
    return [(beside, list(group)) for beside, group in groups]


def _resource(name: str) -> str:
    return files("ppl_vae.report").joinpath("page", name).read_text(encoding="utf-8")
