"""``ppl-vae sample``."""

from pathlib import Path

import click

import ppl_vae as pv
from ppl_vae.cli.options import place
from ppl_vae.cli.output import show


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--count",
    type=click.IntRange(1, 100),
    default=10,
    show_default=True,
    help="Columns of the pictures.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@place
def sample(
    folder: Path, count: int, seed: int, data_root: Path | None, device: str, as_json: bool
) -> None:
    """Draw pictures: the decoder's mean for draws from the prior, and reconstructions."""
    run = pv.runs.open_run(folder, data_root=data_root, device=device)
    paths = pv.report.write_sample_figures(run, count=count, seed=seed)
    show("\n".join(map(str, paths)), {"files": [str(path) for path in paths]}, as_json)
