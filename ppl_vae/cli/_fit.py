"""Commands that train: ``ppl-vae fit`` and ``ppl-vae compare``, a study without a file."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._config import config_file, config_of
from ppl_vae.cli._options import (
    Command,
    as_json,
    engine,
    engine_of,
    methods,
    place,
    resources,
    settings,
)
from ppl_vae.cli._output import show
from ppl_vae.cli._study import show_results
from ppl_vae.names import plural, warn

COMPARED = ("model", "objective", "prior", "guide", "network")
"""Settings whose levels are compared, in the order of an arm's name."""
OBJECTIVES = ("elbo", "iwae:50")
_NO_FACTORS = {
    "data": "compare on each data set by itself",
    "seed": "give the number of training runs as --seeds",
}
"""Settings that arms cannot differ in, and what to do instead."""


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
@settings("runs.train_run", "together", "Workers", chosen=("workers",))
@engine
@resources
@as_json
def fit_command(
    folder: Path,
    config: dict[str, Any],
    place: dict[str, Any],
    together: dict[str, Any],
    as_json: bool,
    **asked: Any,
) -> None:
    """Train one model into a folder, by one process or by several workers."""
    workers: int = together["workers"]
    if workers < 1:
        raise click.BadParameter(f"must be 1 or more, got {workers}.", param_hint="--workers")
    starts = engine_of(asked)
    run, result = pv.runs.train_run(
        config_of(config), folder, workers=workers, engine=starts, **place
    )
    here = asked["engine"]["name"] == "in-process"
    if here and not pv.training.Workers.joined(workers).is_first:
        # Torchrun has started a command for every worker: one of them tells.
        return
    if result.divergence is not None:
        # Workers of Ray have warned where nobody reads it; the same line is printed once.
        warn(result.divergence)
    # Of the kept epoch, not the last: these are the parameters that evaluate will use.
    record = result.history.records[result.kept_epoch - 1]
    point = run.has_point_guide
    # A point has no density: log q - log p is -log p there, and no KL.
    term = "-log p" if point else "KL"
    told = _by_rule(run, record)
    if told is None:
        kl = ", ".join(f"{term}({site}) {value:.3f}" for site, value in record.kl.items())
        told = (
            f"{_reported(run, point)} {record.bound:.3f} nats on training data (log-likelihood "
            f"{record.log_likelihood:.3f}, {kl}), "
            f"{'what is maximised' if point else 'validation bound'} {record.validation:.3f} +- "
            f"{record.validation_error:.3f}{' on validation data' if point else ''}\n"
        )
    text = (
        f"{run.dataset.description}\n"
        f"{plural(len(result.history), 'epoch')}"
        f"{' (stopped early)' if result.stopped_early else ''}, "
        f"{plural(result.history.records[-1].updates, 'update')}{_compiled(result.history)}, "
        f"kept epoch {record.epoch}: {told}"
        f"{_phases(result)}{_finished(run)}"
        f"run in {folder}; next: ppl-vae evaluate {folder}"
    )
    values = {
        "folder": str(folder),
        "epochs": len(result.history),
        "kept": dataclasses.asdict(record),
        "phases": {name: len(history) for name, history in result.phases.items()},
        "fitted": run.fitted,
        "divergence": result.divergence,
    }
    show(text, values, as_json)


def _reported(run: "pv.runs.Run", point: bool) -> str:
    """Words for what the objective reports."""
    objective = run.config.objective
    if objective.startswith("reconstruction"):
        return "reconstruction log p(x|z)"
    return "joint log-density log p(x, z)" if point else f"{objective} bound"


def _by_rule(run: "pv.runs.Run", record: "pv.training.EpochRecord") -> str | None:
    """What a rule of the model's own reports of an epoch; None where there is an objective."""
    if run.config.model.kind.ascends:
        return None
    found = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in record.measures.items()]
    if math.isfinite(record.bound):
        found.append(f"log p(x) {record.bound:.3f} nats on training data")
    if record.validation is not None:
        found.append(
            f"log p(x) {record.validation:.3f} +- {record.validation_error:.3f} nats on validation "
            "data"
        )
    idle = run.config.without_effect
    note = f"without effect on this model: {', '.join(idle)}\n" if idle else ""
    return f"by {run.config.objective}, {', '.join(found)}\n{note}"


def _phases(result: "pv.training.FitResult") -> str:
    """A line on the phases of training before the last."""
    told = [
        f"{name} {plural(len(history), 'epoch')} to {history.records[-1].bound:.3f} nats"
        for name, history in result.phases.items()
    ]
    return f"pretrained: {', '.join(told)}\n" if told else ""


def _finished(run: "pv.runs.Run") -> str:
    """A line on what was fitted after training."""
    found = run.fitted
    told = []
    if found.get("normals"):
        kind = "a normal" if found["normals"] == 1 else f"a mixture of {found['normals']} normals"
        told.append(f"p(z) is {kind} fitted to the codes of the training data")
    if found.get("text"):
        told.append(found["text"])
    if found.get("scale") and "residual" not in found:
        told.append(
            f"the noise has standard deviation {found['scale']:.4g}, by log p(x) of validation "
            f"data ({found['method']})"
        )
    elif found.get("scale"):
        told.append(
            f"p(x|z) has scale {found['scale']:.4g}, by log p(x) of validation data "
            f"({found['method']}; that of the residuals is {found['residual']:.4g})"
        )
    return f"{'; '.join(told)}\n" if told else ""


def _compiled(history: "pv.training.History") -> str:
    """Words for a step that was compiled, wholly or for some batch sizes."""
    share = history.compiled or 0.0
    return f" ({share:.0%} compiled)" if share else ""


def _as_factor(name: str) -> str:
    """How several values of a setting that is no option of arms are compared."""
    if name in _NO_FACTORS:
        return _NO_FACTORS[name]
    return (
        f"list both under factors, {name}, in a study's file (ppl-vae study init writes one to "
        "start from)"
    )


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
@settings("runs.RunConfig", "config", several=COMPARED, instead=_as_factor)
@settings("registry.build_estimator", "estimator", "Evaluation", chosen=("method",))
@click.option(
    "--beside",
    multiple=True,
    metavar="METHOD",
    help="Another method (repeat), such as iwae:5000: its estimate, and how far that is below, "
    "stand beside the one that arms are compared by.",
)
@settings("runs.evaluate_run", "on", "Evaluation", chosen=("split", "limit"))
@methods
@place
@engine
@resources
@as_json
def compare_command(
    seeds: int,
    folder: Path | None,
    beside: tuple[str, ...],
    config: dict[str, Any],
    estimator: dict[str, Any],
    on: dict[str, Any],
    options: dict[str, Any],
    place: dict[str, Any],
    as_json: bool,
    **asked: Any,
) -> None:
    """Compare models, objectives, priors, guides or networks over seeds, on the same data.

    Every combination of the models, objectives, priors, guides and networks that are given (repeat
    the option) is an arm: trained with each seed, evaluated on the same data with the same random
    numbers. Without an objective, elbo and iwae:50 are compared, or elbo alone where there are
    several of another kind. Runs are trained one after the other, or side by side on --engine ray.
    """
    starts = engine_of(asked)
    levels = {name: tuple(config[name]) for name in COMPARED}
    # The option's default stands for one run; a comparison needs two levels of something.
    source = click.get_current_context().get_parameter_source("objective")
    if source == click.core.ParameterSource.DEFAULT:
        alone = all(len(levels[name]) == 1 for name in COMPARED if name != "objective")
        levels["objective"] = OBJECTIVES if alone else OBJECTIVES[:1]
        if levels["model"] != ("vae",):
            # Each model has an objective of its own.
            levels["objective"] = ("auto",)
    base = config_of({**config, **{name: values[0] for name, values in levels.items()}})
    given = {name: value for name, value in options.items() if value is not None}
    study = pv.studies.Study(
        config=base,
        factors={
            name: values
            for name, values in levels.items()
            if len(values) > 1 or (name == "objective" and values != ("auto",))
        },
        seeds=tuple(range(base.seed, base.seed + seeds)),
        methods=(
            pv.studies.Method(estimator["method"] or pv.registry.method_for(given), given),
            *map(pv.studies.Method, beside),
        ),
        resources=pv.engines.Resources(**asked["resources"]),
        **on,
    )
    results = pv.studies.run_study(
        study,
        folder or Path(f"compare-{Path(base.dataset.data).stem}"),
        engine=starts,
        place=pv.studies.Place(**place),
        command=pv.studies.command_line(),
    )
    show_results(results, as_json)
