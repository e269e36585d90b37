"""``ppl-vae fit``."""

import dataclasses
from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._config import ObjectiveName, config_of
from ppl_vae.cli._options import distributions, live, model, place
from ppl_vae.cli._output import show
from ppl_vae.cli._setting import setting


@click.command("fit")
@setting(
    "--objective",
    of="runs.RunConfig",
    type=ObjectiveName(),
    metavar="NAME",
    help="elbo, stl, iwae:K (K particles), dreg:K, ... (ppl-vae objectives lists them), or "
    "module:Class.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of the run.",
)
@distributions
@model
@live
@place
def fit_command(
    folder: Path,
    tensorboard: bool,
    data_root: Path | None,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train one model into a folder."""
    config = config_of(settings)
    run, result = pv.runs.train_run(
        config, folder, data_root=data_root, device=device, tensorboard=tensorboard
    )
    record = result.history.records[result.kept_epoch - 1]
    point = run.has_point_guide
    term = "-log p" if point else "KL"
    kl = ", ".join(f"{term}({site}) {value:.3f}" for site, value in record.kl.items())
    bound = "joint log-density log p(x, z)" if point else f"{config.objective} bound"
    text = (
        f"{run.dataset.description}\n"
        f"{len(result.history)} epochs{' (stopped early)' if result.stopped_early else ''}, "
        f"{result.history.records[-1].updates} updates, kept epoch {record.epoch}: {bound} "
        f"{record.bound:.3f} nats on training data (log-likelihood {record.log_likelihood:.3f}, "
        f"{kl}), {'what is maximised' if point else 'validation bound'} {record.validation:.3f} +- "
        f"{record.validation_error:.3f}{' on validation data' if point else ''}\n"
        f"run in {folder}; next: ppl-vae evaluate {folder}"
    )
    values = {
        "folder": str(folder),
        "epochs": len(result.history),
        "kept": dataclasses.asdict(record),
    }
    show(text, values, as_json)
