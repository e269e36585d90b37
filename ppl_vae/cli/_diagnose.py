"""``ppl-vae diagnose``."""

from pathlib import Path

import click

import ppl_vae as pv
from ppl_vae.cli._options import place, rows_file, trust
from ppl_vae.cli._output import in_options, say, show
from ppl_vae.cli._setting import setting

DIAGNOSIS = "runs.diagnose_run"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@setting(
    "--particles", of=DIAGNOSIS, type=int, help="Number of particles K of log p(x), for each datum."
)
@setting("--seed", of=DIAGNOSIS, type=int, help="Seed of the draws.")
@setting(
    "--limit",
    of=DIAGNOSIS,
    type=click.IntRange(min=2),
    metavar="N",
    help="Only N of the data of each split, a fixed random subset.",
)
@setting(
    "--rate-data",
    of=DIAGNOSIS,
    type=click.IntRange(min=0),
    metavar="N",
    help="Data for the rate-distortion curve; 0 leaves it out.",
)
@setting(
    "--temperatures",
    of=DIAGNOSIS,
    type=int,
    metavar="T",
    help="Steps of the curve's annealing from prior to posterior.",
)
@setting(
    "--chains",
    of=DIAGNOSIS,
    type=int,
    metavar="C",
    help="Chains of the curve's annealing, for each datum.",
)
@click.option(
    "--flow",
    is_flag=True,
    help="Find the best flow for each datum too (takes the extra flows, and minutes).",
)
@trust
@rows_file
@place
def diagnose(
    folder: Path,
    particles: int,
    seed: int,
    limit: int,
    file: Path | None,
    rate_data: int,
    temperatures: int,
    chains: int,
    flow: bool,
    data_root: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Say what a trained run is like: gaps, information, calibration, rate against distortion.

    Finished parts are kept in the run's folder: the same command goes on where it stopped.
    """
    run = pv.runs.open_run(folder, data_root=data_root, device=device, trust=trust)
    found = pv.runs.diagnose_run(
        run,
        limit=limit,
        file=file,
        particles=particles,
        rate_data=rate_data,
        temperatures=temperatures,
        chains=chains,
        flow=flow,
        seed=seed,
        report=lambda line: say(in_options(line), err=True),
    )
    title = f"{run.config.objective} on {run.data.name}"
    paths = pv.report.write_diagnosis(found, folder, title)
    of = "test data" if file is None else file.name
    told = [in_options(each) if "left out, " in each else each for each in str(found).splitlines()]
    lines = "\n".join(told)
    text = f"{title}, {of}\n\n{lines}\n\nwritten: {', '.join(map(str, paths))}"
    show(text, {**found.summary(), "files": [str(path) for path in paths]}, as_json)
