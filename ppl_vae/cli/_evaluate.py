"""``ppl-vae evaluate``."""

from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import engine, estimator, evaluation_options, place, rows_file, trust
from ppl_vae.cli._output import show
from ppl_vae.cli._setting import setting


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@estimator
@setting("--seed", of="runs.evaluate_run", type=int, help="Seed of the draws.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Parts that the data are cut in, each with draws of its own; on Ray they run side by "
    "side.",
)
@engine
@evaluation_options
@rows_file
@click.option(
    "--list",
    "listed",
    is_flag=True,
    help="Print the evaluations and diagnoses that the run's folder holds, and compute nothing.",
)
@trust
@place
def evaluate(
    folder: Path,
    method: str,
    seed: int,
    shards: int,
    engine: str,
    address: str | None,
    cpus: int | None,
    gpus: float | None,
    split: Any,
    limit: int | None,
    file: Path | None,
    listed: bool,
    data_root: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate log p(x) of a trained run, with its standard error.

    Every evaluation has a file of its own in the run's folder, in evaluations/; none takes
    another's place, and one that is there is read back.
    """
    if listed:
        found = pv.runs.list_evaluations(folder)
        text = pv.runs.format_evaluations(found) if found else f"{folder} holds no evaluations"
        show(text, {"evaluations": [each.summary() for each in found]}, as_json)
        return
    typed = click.get_current_context().get_parameter_source("split")
    if file is not None and typed is click.core.ParameterSource.COMMANDLINE:
        raise click.BadParameter("the rows of --data have no splits", param_hint="split")
    estimator = pv.registry.build_estimator(method, options)
    work_on = pv.studies.Resources(cpus, gpus or 0.0).engine(engine, address)
    run = pv.runs.open_run(folder, data_root=data_root, device=device, trust=trust)
    programs = run.vae.model, run.vae.guide
    rows = run.rows(split, limit, file)
    estimator, sandwich, pictures = _judged(estimator, run, rows, seed)
    on: dict[str, Any] = {"split": split, "limit": limit, "file": file, "seed": seed}
    if shards > 1 or engine != "in-process":
        evidence = pv.runs.evaluate_sharded(
            folder,
            estimator,
            shards,
            work_on,
            data_root=data_root,
            device=device,
            trust=trust,
            **on,
        )
    else:
        evidence = pv.runs.evaluate_run(run, estimator=estimator, **on)
    # Of one datum there is no error over data, so no decomposition.
    parts = None
    if len(rows) > 1:
        parts = pv.diagnostics.decompose(*programs, rows, device=run.device, seed=seed)
    path = pv.runs.file_of(folder, evidence)
    lines = [f"{run.config.objective} on {rows.source}", str(evidence)]
    if limit is not None and limit > len(rows):
        lines.insert(1, f"--limit {limit}: only {len(rows)} rows are there, and all are taken")
    kept = pv.runs.StoredEvaluation(path, evidence.identity, evidence).summary()
    values: dict[str, Any] = {**kept, "decomposition": parts and parts.summary()}
    normalizers = pv.runs.find_normalizers(run.vae)
    if normalizers:
        lines += map(str, normalizers)
        values["normalizers"] = [found.to_dict() for found in normalizers]
    if run.data.missing_share:
        share = f"{run.data.missing_share:.1%}"
        lines.append(f"log p of the observed cells; {share} of all cells are missing")
    if run.has_discrete_data:
        bits = pv.evidence.bits_per_dimension(evidence.mean, run.data.schema.features)
        lines.append(f"{bits:.4f} bits per dimension, of {run.data.schema.features}")
        values["bits_per_dimension"] = bits
    if sandwich is not None:
        lines += ["", str(sandwich)]
        lines += [f"picture: {path}" for path in pictures]
        values["sandwich"] = sandwich.summary()
    lines += ["", str(parts), ""] if parts else [""]
    lines += [f"per-datum values in {path}"]
    show("\n".join(lines), values, as_json)


def _judged(estimator: Any, run: Any, rows: Any, seed: int) -> tuple[Any, Any, list[Path]]:
    """Of a sandwich its annealing, judged on simulated data, with the pictures of that."""
    if not isinstance(estimator, pv.BidirectionalMonteCarlo):
        return estimator, None, []
    programs = run.vae.model, run.vae.guide
    levels = pv.evidence.sandwiches(estimator, *programs, rows, device=run.device, seed=seed)
    title = f"{run.config.objective} on {run.data.name}: simulated data"
    pictures = pv.report.write_sandwich(levels, run.folder, title)
    sandwich = levels[estimator.annealing.num_temperatures]
    return pv.evidence.with_gap(estimator, sandwich.gap), sandwich, pictures
