"""``ppl-vae compare``."""

from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli.config import config_of
from ppl_vae.cli.options import evaluation, model, place
from ppl_vae.cli.output import show


@click.command()
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    default=("elbo", "iwae:50"),
    show_default=True,
    metavar="NAME",
    help="An objective to compare (repeat); ppl-vae objectives lists them.",
)
@click.option("--seeds", default=3, show_default=True, help="Training runs of each objective.")
@click.option(
    "--particles",
    default=1000,
    show_default=True,
    help="K, draws per datum when estimating log p(x).",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the runs and results.  [default: compare-DATA]",
)
@model
@evaluation
@place
def compare(
    objectives: tuple[str, ...],
    seeds: int,
    particles: int,
    folder: Path | None,
    split: Any,
    limit: int | None,
    data_root: Path | None,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare objectives over seeds: train each, evaluate each on the same data."""
    config = config_of(settings)
    folder = folder or Path(f"compare-{Path(config.data).stem}")
    result = pv.studies.run_study(
        config,
        objectives,
        seeds,
        folder,
        estimator=pv.ImportanceSampling(particles),
        split=split,
        limit=limit,
        data_root=data_root,
        device=device,
        report=lambda line: click.echo(line, err=True),
    )
    title = f"{split} log p(x) on {config.data}"
    pictures = pv.report.write_study_figures(result, folder, title)
    text = pv.studies.format_comparison(result.comparison, title, result.notes)
    text += "\n\npictures: " + ", ".join(map(str, pictures))
    text += f"\nnumbers:  {folder / 'comparison.json'}, {folder / 'comparison.nc'}"
    values = {
        **result.comparison.summary(),
        "notes": result.notes,
        "pictures": [str(path) for path in pictures],
    }
    show(text, values, as_json)
