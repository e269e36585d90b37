"""A study as one HTML file that needs nothing else: no network, no script, no second file."""

from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import jinja2

from ppl_vae.comparison import Comparison
from ppl_vae.files import printable, write_atomically
from ppl_vae.plots import Style, svg_symbol
from ppl_vae.report import _numbers as numbers
from ppl_vae.report import _provenance as provenance
from ppl_vae.report import _ranking as ranking
from ppl_vae.report._answer import answer
from ppl_vae.report._arms import styles_of
from ppl_vae.report._blocks import Block, Section
from ppl_vae.report._bounds import bound_curves, sandwich_block
from ppl_vae.report._cautions import cautions
from ppl_vae.report._decomposition import decompositions
from ppl_vae.report._gradients import gradients_block
from ppl_vae.report._methods import methods
from ppl_vae.report._pictures import pictures
from ppl_vae.report._training import costs, learning_curves
from ppl_vae.studies import StudyResults

PAGE = "report.html"


def write_report(results: StudyResults, path: Path | None = None) -> Path:
    """Write what a study came to as one HTML file, from its folder alone; return its path.

    Tables hold all arms and cells; figures the best arms and the reference. What is read of a cell
    is let go before the next, apart from the log p(x) that the comparison is made of.

    Args:
        results: Of the study.
        path: Of the page; ``report.html`` in the study's folder if not given.

    Raises:
        OSError: If the page cannot be written; an earlier one stays whole.
        ValueError: If a file in the study's folder is damaged.
    """
    path = results.folder / PAGE if path is None else path
    write_atomically(path, render(results, results.comparison()))
    return path


def render(results: StudyResults, comparison: Comparison | None) -> str:
    """The page as HTML.

    Args:
        results: Of the study.
        comparison: Of its arms; None before any cell is done.
    """
    study = results.study
    styles: dict[str, Style] = {}
    if comparison is not None:
        best = next(iter(comparison.ranking))
        reference = comparison.reference or study.reference or best
        styles = styles_of(list(comparison.ranking), list(comparison.arms), reference)
    return _template().render(
        title=study.question or study.title,
        kicker=_kicker(results),
        cautions=cautions(results, comparison),
        answer=answer(comparison) if comparison else [
            "No cell of this study is done yet: there is nothing to compare."
        ],
        sections=_sections(results, comparison, styles),
        few=_few(comparison, styles),
        styles={arm: index for index, arm in enumerate(styles)},
        symbols=[svg_symbol(style, f"key-{n}") for n, style in enumerate(styles.values())],
        style=_resource("style.css"),
        script=_resource("page.js"),
    )  # fmt: skip


def _sections(
    results: StudyResults, comparison: Comparison | None, styles: dict[str, Style]
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
    found = [
        design,
        ranking.ranked(comparison, styles),
        ranking.differences(comparison),
        ranking.factors(comparison),
        methods(results, comparison),
        learning_curves(cells, styles),
        bound_curves(cells, styles),
        sandwich_block(cells, styles),
        decompositions(cells, list(arms), styles),
        gradients_block(cells, styles),
        pictures(cells, styles, results.manifest.get("data", {})),
        costs(cells, {arm: (mean.mean, mean.error) for arm, mean in arms.items()}, styles),
        provenance.cells_table(cells, values),
        provenance.reproduction(results),
    ]
    return [section for section in found if section is not None]


def _kicker(results: StudyResults) -> str:
    study = results.study
    seeds = "seed" if len(study.seeds) == 1 else "seeds"
    arms = "arm" if len(study.arms) == 1 else "arms"
    shape = f"{len(study.arms):,} {arms} {numbers.TIMES} {len(study.seeds):,} {seeds}"
    return f"Comparison of {shape} · {study.title}"


def _few(comparison: Comparison | None, styles: dict[str, Style]) -> str:
    """What figures leave out, in words; empty if nothing."""
    if comparison is None or len(styles) == len(comparison.arms):
        return ""
    return (
        f"Figures show {len(styles)} of {len(comparison.arms):,} arms: the best ones and the "
        "reference. Tables hold all."
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppl_vae.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # A stranger's cell may hold what would steer a terminal that the page is printed on.
        finalize=lambda value: type(value)(printable(value)) if isinstance(value, str) else value,
    )
    environment.filters["rows_of_blocks"] = _rows
    environment.globals["zip"] = zip
    return environment.get_template("page.html.jinja")


def _rows(blocks: Sequence[Block]) -> list[tuple[bool, list[Block]]]:
    """Figures that follow each other, and narrow tables, stand side by side where there is room."""
    found = groupby(blocks, key=lambda block: block.beside)
    return [(beside, list(group)) for beside, group in found]


def _resource(name: str) -> str:
    return files("ppl_vae.report").joinpath("page", name).read_text(encoding="utf-8")
