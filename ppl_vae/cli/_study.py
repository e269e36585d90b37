"""``ppl-vae study``: init, run, status, report, add."""

import dataclasses
from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import Command, as_json, engine, place, resources, settings, typed
from ppl_vae.cli._output import fail, say, show
from ppl_vae.files import write_atomically

_file = click.argument("file", type=click.Path(path_type=Path))
_folder = click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER|FILE")
_trust = settings("studies.read_study", "reading", chosen=("trust",))


@click.group()
def study() -> None:
    """Plan a comparison in a file, carry it out, go on with it, and read one page."""


@study.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path), default=Path("study.yaml"))
@settings("studies.study_template", "template")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(file: Path, template: dict[str, Any], force: bool) -> None:
    """Write a study's FILE to start from, with comments."""
    if file.exists() and not force:
        raise ValueError(f"{file} is there already: choose another name, or give --force.")
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"the template is YAML: name it {file.with_suffix('.yaml')}, got {file}.")
    write_atomically(file, HEADER.format(file=file) + pv.studies.study_template(**template))
    planned = pv.studies.read_study(file)
    say(f"{file}: {_size(planned)}; run it with: ppl-vae study run {file}")


HEADER = """\
# A study: every combination of levels (an arm) is trained with every seed, evaluated on the same
# data with the same random numbers, and compared. Run it, stop it, and go on with
#
#   ppl-vae study run {file}
#
# Settings are those of ppl-vae fit (--learning-rate is learning_rate here); ppl-vae objectives and
# ppl-vae parts list the names. A class of your own is module:Class, or {{class_path: module.Class,
# init_args: {{}}}}. The budget is one of epochs, updates, seconds, decoder_evaluations: objectives
# that differ in their number of particles do not have equal work in equal epochs.

"""


@study.command("run", cls=Command)
@_file
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the study.  [default: FILE without its ending]",
)
@engine
@resources
@_trust
@place
@as_json
def run_command(
    file: Path,
    folder: Path | None,
    engine: dict[str, Any],
    resources: dict[str, Any],
    reading: dict[str, Any],
    place: dict[str, Any],
    as_json: bool,
) -> None:
    """Carry out a study's FILE, going on from what its folder holds.

    Every cell, a training run and its evaluation, is done once, however often this is stopped or
    killed. Cells that failed are tried again. Threads and GPUs are those of the file, unless typed.
    """
    planned = pv.studies.read_study(file, **reading)
    granted = dataclasses.replace(planned.resources, **typed(resources))
    results = pv.studies.run_study(
        # As it is carried out, so that the manifest and the plan say what was used.
        dataclasses.replace(planned, resources=granted),
        folder or file.with_suffix(""),
        engine=granted.engine(**engine),
        place=pv.studies.Place(**place),
        command=pv.studies.command_line(),
    )
    show_results(results, as_json)


@study.command(cls=Command)
@_folder
@_trust
@as_json
def status(folder: Path, reading: dict[str, Any], as_json: bool) -> None:
    """Say how far a study is, running or not; by a FILE, what it plans that is not done yet too."""
    # The file may have been added to since it was carried out.
    planned = pv.studies.read_study(folder, **reading) if folder.is_file() else None
    results = pv.studies.open_study(_folder_of(folder), planned=planned, **reading)
    show(pv.studies.format_status(results), pv.studies.status_summary(results), as_json)


@study.command(cls=Command)
@_folder
@_trust
@as_json
def report(folder: Path, reading: dict[str, Any], as_json: bool) -> None:
    """Make the page and the tables anew, of the cells that are done so far."""
    results = pv.studies.open_study(_folder_of(folder), **reading)
    pv.studies.write_results(results)
    show_results(results, as_json)


@study.command(cls=Command)
@_file
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="More seeds.")
@click.option(
    "--level",
    "levels",
    multiple=True,
    metavar="FACTOR=LEVEL",
    help="Another level of a factor (repeat), such as objective=iwae:5.",
)
@_trust
def add(file: Path, seeds: int | None, levels: tuple[str, ...], reading: dict[str, Any]) -> None:
    """Add seeds or levels to a study's FILE; run it again for the new cells."""
    added: dict[str, list[str]] = {}
    for text in levels:
        factor, equals, level = text.partition("=")
        if not equals or not level:
            raise click.BadParameter(f"write FACTOR=LEVEL, got {text}", param_hint="--level")
        added.setdefault(factor.strip(), []).append(level.strip())
    planned = pv.studies.add_to_study(file, seeds=seeds or 0, levels=added, **reading)
    say(f"{file}: {_size(planned)}; carry out the new ones: ppl-vae study run {file}")


def _size(planned: Any) -> str:
    arms, seeds = len(planned.arms), len(planned.seeds)
    return f"{arms} arms x {seeds} seeds = {arms * seeds} cells"


def _folder_of(path: Path) -> Path:
    """The study's folder, also where its file is given."""
    return path.with_suffix("") if path.is_file() else path


def show_results(results: Any, as_json: bool) -> None:
    """Print the table and where everything is; fail if a cell did.

    Raises:
        SystemExit: If a cell failed, after everything is written and printed.
    """
    pictures = pv.report.write_study_figures(results)
    page = pv.report.write_report(results)
    comparison, summary = results.comparison(), pv.studies.comparison_summary(results)
    text = "\n".join(results.warnings)
    if comparison is not None:
        title, beside = results.study.title, results.beside()
        text = pv.comparison.format_comparison(comparison, title, results.warnings, beside)
    text += f"\n\nreport:   {page}"
    if pictures:
        text += f"\npictures: {', '.join(map(str, pictures))}"
    names = "comparison.json", "results.parquet", "results.nc"
    text += f"\nnumbers:  {', '.join(str(results.folder / name) for name in names)}"
    files = {"report": str(page), "pictures": [str(path) for path in pictures]}
    show(text, {"notes": results.warnings, **(summary or {}), **files}, as_json)
    # Last, so that a script sees the exit code and has all the files of the cells that are done.
    if failed := results.in_state("failed"):
        log = failed[0].folder / "log.txt"
        fail(f"{len(failed)} of {len(results.cells)} cells failed; the first: {log}", code=1)
