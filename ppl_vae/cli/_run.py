"""Commands on a trained run: diagnose, impute, sample, gradients."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import (
    Command,
    as_json,
    folder,
    import_from_here,
    opening,
    settings,
    typed,
)
from ppl_vae.cli._output import in_options, opened, say, show
from ppl_vae.files import make_folder
from ppl_vae.settings import Setting, settings_of


@click.command(cls=Command)
@folder
@settings("runs.DiagnosisSettings", "how")
@settings(
    "runs.diagnose_run",
    "asked",
    without=("run", "settings", "split", "report"),
)
@opening
@as_json
def diagnose(folder: Path, asked: dict[str, Any], as_json: bool, **more: Any) -> None:
    """Say what a trained run is like: gaps, information, calibration, rate against distortion.

    Finished parts are kept in the run's folder: the same command goes on where it stopped.
    """
    run = opened(folder, more["opening"])
    diagnosis = pv.runs.diagnose_run(
        run,
        pv.runs.DiagnosisSettings(**more["how"]),
        **asked,
        report=lambda line: say(in_options(line), err=True),
    )
    title = f"{run.config.objective} on {run.data.name}"
    paths = pv.report.write_diagnosis(diagnosis, folder, title)
    of = "test data" if asked["file"] is None else Path(asked["file"]).name
    lines = [
        in_options(line) if "left out, " in line else line for line in str(diagnosis).splitlines()
    ]
    lines = [f"{title}, {of}", "", *lines, "", f"written: {', '.join(map(str, paths))}"]
    values = {**diagnosis.summary(), "files": [str(path) for path in paths]}
    show("\n".join(lines), values, as_json)


@click.command("impute", cls=Command)
@folder
@settings("imputation.impute_run", "asked", without=("run",))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV file to write.  [default: imputed.csv in the run's folder]",
)
@opening
@as_json
def impute_command(
    folder: Path, asked: dict[str, Any], out: Path | None, opening: dict[str, Any], as_json: bool
) -> None:
    """Fill in the missing cells of a table by draws given the observed ones.

    Writes all completed tables one below the other, numbered in a column `imputation`, and beside
    them the single best one, whose name ends in -point. Observed cells are copied from the file.
    """
    out = out or folder / "imputed.csv"
    # Before the work, which may take minutes.
    pv.report.require_place_of_imputation(out)
    imputed = pv.imputation.impute_run(opened(folder, opening), **asked)
    paths = pv.report.write_imputation(imputed, out)
    text = f"{imputed}\nwritten: {', '.join(map(str, paths))}"
    show(text, {**imputed.summary(), "files": [str(path) for path in paths]}, as_json)


@click.command(cls=Command)
@folder
@settings("report.write_sample_figures", "asked", without=("run",))
@opening
@as_json
def sample(folder: Path, asked: dict[str, Any], opening: dict[str, Any], as_json: bool) -> None:
    """Draw pictures: the decoder's mean for draws from the prior, and reconstructions."""
    run = opened(folder, opening)
    paths = pv.report.write_sample_figures(run, **asked)
    show("\n".join(map(str, paths)), {"files": [str(path) for path in paths]}, as_json)


def _replicates() -> dict[str, Setting]:
    """Number of replicates, which is another one for each kind of model where none is typed."""
    own = settings_of(pv.diagnostics.gradient_statistics)["replicates"]
    built_in = settings_of(pv.diagnostics.linear_gaussian_bench)["replicates"].default
    text = f"{own.text.rstrip('.')}; None: {built_in}; of a run {own.default}."
    return {"replicates": dataclasses.replace(own, default=None, text=text)}


BUILT_IN_PARTICLES, RUN_PARTICLES = "1,4,16,64,256", "1,4,16,64"
RUN_LIMIT = 20


@click.command("gradients", cls=Command)
@click.option(
    "--model",
    default="linear-gaussian",
    show_default=True,
    metavar="NAME|FOLDER",
    help="linear-gaussian (built in, near its optimum), or the folder of a run of ppl-vae fit.",
)
@click.option(
    "--objective",
    "names",
    multiple=True,
    default=("iwae", "iwae-stl", "dreg"),
    show_default=True,
    metavar="NAME",
    help="An objective to measure (repeat), at every K of --particles, or with its own K "
    "(iwae:5); ppl-vae objectives lists them.",
)
@click.option(
    "--particles",
    metavar="K,K,...",
    help=f"Numbers of particles.  [default: {BUILT_IN_PARTICLES}; of a run {RUN_PARTICLES}]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Test data of a run in the batch, a fixed random subset.  [default: {RUN_LIMIT}]",
)
@click.option(
    "--data",
    "file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File of other rows, in place of the test data of a run.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("gradients"),
    show_default=True,
    metavar="FOLDER",
    help="Folder of the table, the numbers and the picture.",
)
@settings(_replicates, "asked")
@settings("diagnostics.gradient_statistics", "seeding", chosen=("seed",))
@opening
@as_json
def gradients_command(
    model: str,
    names: tuple[str, ...],
    particles: str | None,
    limit: int | None,
    file: Path | None,
    folder: Path,
    opening: dict[str, Any],
    as_json: bool,
    **numbers: dict[str, Any],
) -> None:
    """Measure the gradients of objectives: bias, variance, signal-to-noise ratio against K.

    theta are the parameters of the model, phi those of the guide. IWAE's phi has a ratio that falls
    with the number of particles; DReG's grows.
    """
    built_in = model == "linear-gaussian"
    if particles is None:
        particles = BUILT_IN_PARTICLES if built_in else RUN_PARTICLES
    try:
        counts = sorted({int(count) for count in particles.split(",") if count.strip()})
    except ValueError as error:
        raise click.BadParameter(
            "give numbers such as 1,4,16.", param_hint="--particles"
        ) from error
    if not counts or counts[0] < 1:
        raise click.BadParameter(f"K is 1 or more, got {particles}.", param_hint="--particles")
    for given, option in ((limit, "--limit"), (file, "--data")):
        if built_in and given is not None:
            raise click.BadParameter("belongs to a run, not to linear-gaussian.", param_hint=option)
    # The folder of a model may be one that somebody sent: only what is typed is looked for here.
    if any(map(pv.registry.outside_objective, names)):
        import_from_here()
    families = pv.registry.over_particles(names, counts)
    run = None if built_in else opened(Path(model), opening)
    if run is not None and not run.config.model.kind.ascends:
        raise ValueError(
            f"model {run.config.model.name} is trained by {run.config.objective}, and ascends no "
            "objective whose gradient could be measured: take the run of a vae."
        )
    # Fail before the work where the folder cannot be written, not after it.
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass
    # Replicates only where typed: the two benches have different defaults.
    asked = {**typed(numbers["asked"]), **numbers["seeding"]}
    if run is None:
        bench = pv.diagnostics.linear_gaussian_bench(families, **asked)
    else:
        x = pv.data.load(run.rows("test", limit or RUN_LIMIT, file).x, run.device)
        bench = pv.diagnostics.gradient_statistics(
            run.vae.model, run.vae.guide, x, families, **asked
        )
    paths = pv.report.write_gradient_bench(bench, folder, f"gradients of {model}")
    text = f"{bench}\n\nfiles: {', '.join(map(str, paths))}"
    show(text, {**bench.summary(), "files": [str(path) for path in paths]}, as_json)
