"""``ppl-vae impute``."""

from pathlib import Path

import click

import ppl_vae as pv
from ppl_vae.cli._options import place, trust
from ppl_vae.cli._output import show
from ppl_vae.cli._setting import setting


@click.command("impute")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Table with the run's columns.  [default: the one it was trained on]",
)
@setting(
    "--draws",
    of="runs.impute_run",
    parameter="num_draws",
    type=int,
    help="Number of completed tables.",
)
@setting(
    "--particles",
    of="runs.impute_run",
    parameter="num_particles",
    type=int,
    help="Number of particles K that are weighted for each row.",
)
@setting("--seed", of="runs.impute_run", type=int, help="Seed of the draws.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV file to write.  [default: imputed.csv in the run's folder]",
)
@trust
@place
def impute_command(
    folder: Path,
    data: Path | None,
    draws: int,
    particles: int,
    seed: int,
    out: Path | None,
    data_root: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Fill in the missing cells of a table by draws given the observed ones.

    Writes all completed tables one below the other, numbered in a column `imputation`, and beside
    them the single best one, whose name ends in -point. Observed cells are copied from the file.
    """
    run = pv.runs.open_run(folder, data_root=data_root, device=device, trust=trust)
    found = pv.runs.impute_run(run, data, num_draws=draws, num_particles=particles, seed=seed)
    paths = pv.report.write_imputation(found, out or folder / "imputed.csv")
    text = f"{found}\nwritten: {', '.join(map(str, paths))}"
    show(text, {**found.summary(), "files": [str(path) for path in paths]}, as_json)
