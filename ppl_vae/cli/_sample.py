"""``ppl-vae sample``."""

from pathlib import Path

import click

import ppl_vae as pv
from ppl_vae.cli._options import place, trust
from ppl_vae.cli._output import show
from ppl_vae.cli._setting import setting


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@setting(
    "--count",
    of="report.write_sample_figures",
    type=click.IntRange(1, 100),
    help="Columns of the pictures.",
)
@setting("--seed", of="report.write_sample_figures", type=int, help="Seed of the draws.")
@trust
@place
def sample(
    folder: Path,
    count: int,
    seed: int,
    data_root: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Draw pictures: the decoder's mean for draws from the prior, and reconstructions."""
    run = pv.runs.open_run(folder, data_root=data_root, device=device, trust=trust)
    paths = pv.report.write_sample_figures(run, count=count, seed=seed)
    show("\n".join(map(str, paths)), {"files": [str(path) for path in paths]}, as_json)
