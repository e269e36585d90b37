"""``ppl-vae compare``: a study without a file."""

import dataclasses
from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._config import ObjectiveName, PartSpec, config_of
from ppl_vae.cli._options import estimator, evaluation_options, live, model, place
from ppl_vae.cli._setting import setting
from ppl_vae.cli._study import show_results

COMPARED = ("elbo", "iwae:50")


@click.command("compare")
@setting(
    "--objective",
    "objectives",
    type=ObjectiveName(),
    otherwise=f"{' and '.join(COMPARED)}; {COMPARED[0]} where priors, guides or networks are "
    "compared",
    multiple=True,
    metavar="NAME",
    help="An objective to compare (repeat); ppl-vae objectives lists them.",
)
@setting(
    "--prior",
    "priors",
    of="runs.RunConfig",
    parameter="prior",
    type=PartSpec(),
    multiple=True,
    metavar="NAME",
    help="A prior p(z) to compare (repeat); ppl-vae parts lists them.",
)
@setting(
    "--guide",
    "guides",
    of="runs.RunConfig",
    parameter="guide",
    type=PartSpec(),
    multiple=True,
    metavar="NAME",
    help="A guide q(z|x) to compare (repeat); ppl-vae parts lists them.",
)
@setting(
    "--network",
    "networks",
    of="runs.RunConfig",
    parameter="network",
    type=PartSpec(),
    multiple=True,
    metavar="NAME",
    help="Bodies of encoder and decoder to compare (repeat); ppl-vae parts lists them.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of training runs of each arm.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the runs and results.  [default: compare-DATA]",
)
@model
@live
@estimator
@evaluation_options
@place
def compare_command(
    objectives: tuple[str, ...],
    priors: tuple[Any, ...],
    guides: tuple[Any, ...],
    networks: tuple[Any, ...],
    seeds: int,
    method: str,
    folder: Path | None,
    split: Any,
    limit: int | None,
    tensorboard: bool,
    data_root: Path | None,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare objectives, priors, guides or networks over seeds, on the same data.

    Every combination of what is repeated is an arm: trained with each seed, evaluated on the same
    data with the same random numbers.
    """
    given = {name: settings.pop(name) for name in pv.registry.METHOD_OPTIONS if name in settings}
    options = {name: value for name, value in given.items() if value is not None}
    config = config_of(settings)
    one_each = max(map(len, (priors, guides, networks))) == 1
    objectives = objectives or (COMPARED if one_each else COMPARED[:1])
    levels = {"objective": objectives, "prior": priors, "guide": guides, "network": networks}
    config = dataclasses.replace(
        config, prior=priors[0], guide=guides[0], network=networks[0], objective=objectives[0]
    )
    study = pv.studies.Study(
        config=config,
        factors={
            name: tuple(values)
            for name, values in levels.items()
            if len(values) > 1 or name == "objective"
        },
        seeds=tuple(range(config.seed, config.seed + seeds)),
        methods=(pv.studies.Method(method, options),),
        split=split,
        limit=limit,
    )
    results = pv.studies.run_study(
        study,
        folder or Path(f"compare-{Path(config.data).stem}"),
        place=pv.studies.Place(data_root, device, tensorboard),
        command=pv.studies.command_line(),
    )
    show_results(results, as_json)
