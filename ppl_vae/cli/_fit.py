"""Commands that train: ``ppl-vae fit`` and ``ppl-vae compare``, a study without a file."""

import dataclasses
from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import Command, as_json, config_file, config_of, methods, place, settings
from ppl_vae.cli._output import show
from ppl_vae.cli._study import show_results

COMPARED = ("objective", "prior", "guide", "network")
"""Settings whose levels are compared, in the order of an arm's name."""
OBJECTIVES = ("elbo", "iwae:50")


@click.command("fit", cls=Command)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of the run.",
)
@config_file
@settings("runs.RunConfig", "config")
@place
@as_json
def fit_command(folder: Path, config: dict[str, Any], place: dict[str, Any], as_json: bool) -> None:
    """Train one model into a folder."""
    run, result = pv.runs.train_run(config_of(config), folder, **place)
    # Of the kept epoch, not the last: these are the parameters that evaluate will use.
    record = result.history.records[result.kept_epoch - 1]
    point = run.has_point_guide
    # A point has no density: log q - log p is -log p there, and no KL.
    term = "-log p" if point else "KL"
    kl = ", ".join(f"{term}({site}) {value:.3f}" for site, value in record.kl.items())
    bound = "joint log-density log p(x, z)" if point else f"{run.config.objective} bound"
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


@click.command("compare", cls=Command)
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
@config_file
@settings("runs.RunConfig", "config", several=COMPARED)
@settings("registry.build_estimator", "estimator", "Evaluation", chosen=("method",))
@settings("runs.evaluate_run", "on", "Evaluation", chosen=("split", "limit"))
@methods
@place
@as_json
def compare_command(
    seeds: int,
    folder: Path | None,
    config: dict[str, Any],
    estimator: dict[str, Any],
    on: dict[str, Any],
    options: dict[str, Any],
    place: dict[str, Any],
    as_json: bool,
) -> None:
    """Compare objectives, priors, guides or networks over seeds, on the same data.

    Every combination of the objectives, priors, guides and networks that are given (repeat the
    option) is an arm: trained with each seed, evaluated on the same data with the same random
    numbers. Without an objective, elbo and iwae:50 are compared, or elbo alone where there are
    several of another kind.
    """
    levels = {name: tuple(config[name]) for name in COMPARED}
    # The option's default stands for one run; a comparison needs two levels of something.
    source = click.get_current_context().get_parameter_source("objective")
    if source == click.core.ParameterSource.DEFAULT:
        alone = all(len(levels[name]) == 1 for name in COMPARED[1:])
        levels["objective"] = OBJECTIVES if alone else OBJECTIVES[:1]
    base = config_of({**config, **{name: values[0] for name, values in levels.items()}})
    given = {name: value for name, value in options.items() if value is not None}
    study = pv.studies.Study(
        config=base,
        factors={n: values for n, values in levels.items() if len(values) > 1 or n == "objective"},
        seeds=tuple(range(base.seed, base.seed + seeds)),
        methods=(pv.studies.Method(estimator["method"], given),),
        **on,
    )
    results = pv.studies.run_study(
        study,
        folder or Path(f"compare-{Path(base.dataset.data).stem}"),
        place=pv.studies.Place(**place),
        command=pv.studies.command_line(),
    )
    show_results(results, as_json)
