"""``ppl-vae evaluate``: log p(x) of a trained run, its plan and its certificate."""

from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import (
    Command,
    as_json,
    engine,
    engine_of,
    import_from_here,
    methods,
    opening,
    resources,
    rows,
    settings,
    typed,
)
from ppl_vae.cli._output import opened, show

CERTIFICATE = 20
"""Simulated data of a certificate: of no more than there are real ones, it costs no more than the
estimate."""


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@settings("registry.build_estimator", "estimator", chosen=("method",))
@rows
@settings("decoders.NamedDecoder", "alone", "Decoder without a run")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Parts that the data are cut in, each with draws of its own; on Ray they run side by "
    "side.",
)
@click.option(
    "--list",
    "listed",
    is_flag=True,
    help="Print the evaluations and diagnoses that the run's folder holds, and compute nothing.",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Print what the estimate will cost, by pilots on some of the data, and estimate nothing.",
)
@click.option(
    "--certificate",
    type=click.IntRange(min=0),
    metavar="N",
    help="Data to simulate, whose log p(x) method auto bounds from both sides; 0: none.  "
    f"[default: {CERTIFICATE}, or as many as there are data]",
)
@opening
@as_json
@methods
@engine
@resources
def evaluate(
    folder: Path | None,
    listed: bool,
    plan: bool,
    certificate: int | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Estimate log p(x) of a trained run, with its standard error.

    Every evaluation has a file of its own in the run's folder, in evaluations/; none takes
    another's place, and one that is there is read back. With --decoder in place of a run, that of a
    decoder of your own.
    """
    if asked["alone"]["decoder"] is not None:
        of_runs = {"--list": listed, "--plan": plan, "--certificate": certificate}
        _evaluate_decoder(folder, of_runs, as_json, asked)
        return
    folder = _run_alone(folder, asked["alone"])
    if listed:
        _show_list(folder, as_json)
        return
    on, opening, shards = asked["on"], asked["opening"], asked["shards"]
    # The split has a default, so that only a typed one contradicts a file.
    if on["file"] is not None and "split" in typed(on):
        raise click.BadParameter("the rows of --data have no splits.", param_hint="--split")
    estimator = pv.registry.build_estimator(**asked["estimator"], options=asked["options"])
    _require_certifiable(estimator, certificate)
    engine = engine_of(asked)
    run = opened(folder, opening)
    rows = run.rows(on["split"], on["limit"], on["file"])
    if plan:
        _show_plan(estimator, run, rows, on["seed"], as_json)
        return
    estimator, levels = _judged(estimator, run, rows, on["seed"])
    alone = estimator
    if shards > 1 or asked["engine"]["name"] != "in-process":
        estimator, on["engine"] = pv.evidence.Sharded(estimator, shards), engine
    evidence = pv.runs.evaluate_run(run, estimator=estimator, **on)
    path = pv.runs.file_of(folder, evidence)
    lines = [f"{run.config.objective} on {rows.source}", str(evidence)]
    if on["limit"] is not None and on["limit"] > len(rows):
        lines.insert(
            1, f"--limit {on['limit']}: only {len(rows)} rows are there, and all are taken"
        )
    values = pv.runs.StoredEvaluation(path, evidence.identity, evidence).summary()
    lines += _about(run, rows, evidence, values)
    if levels:
        sandwich = levels[max(levels)]
        title = f"{run.config.objective} on {run.data.name}: simulated data"
        pictures = pv.report.write_sandwich(levels, folder, evidence, title)
        lines += ["", str(sandwich), *(f"picture: {each}" for each in pictures)]
        values["sandwich"] = sandwich.summary()
    values["certificate"] = None
    if isinstance(alone, pv.evidence.AutomaticSampling):
        text, values["certificate"] = _certificate(
            alone, run, rows, evidence, certificate, on["seed"]
        )
        lines += ["", text] if text else []
    # Of one datum there is no error over data, and of the prior as a guide no posterior.
    if len(rows) > 1 and run.config.model.kind.encodes:
        programs = run.vae.model, run.vae.guide
        terms = pv.diagnostics.decompose(*programs, rows, device=run.device, seed=on["seed"])
        lines += ["", str(terms)]
        values["decomposition"] = terms.summary()
    lines += ["", f"per-datum values in {path}"]
    show("\n".join(lines), values, as_json)


def _show_list(folder: Path, as_json: bool) -> None:
    stored = pv.runs.list_evaluations(folder)
    text = pv.runs.format_evaluations(stored) if stored else f"{folder} holds no evaluations"
    show(text, {"evaluations": [each.summary() for each in stored]}, as_json)


def _require_certifiable(estimator: Any, certificate: int | None) -> None:
    if certificate and not isinstance(estimator, pv.evidence.AutomaticSampling):
        raise click.BadParameter(
            "method auto alone has one; of annealing --method bdmc is a sandwich.",
            param_hint="--certificate",
        )


def _run_alone(folder: Path | None, alone: dict[str, Any]) -> Path:
    """The folder, where there is one and nothing that belongs to a decoder."""
    if folder is None:
        raise click.UsageError("Missing argument 'FOLDER': of a run, or give --decoder.")
    for name in typed(alone):
        raise click.BadParameter("belongs to --decoder.", param_hint=f"--{name}")
    return folder


def _evaluate_decoder(
    folder: Path | None, of_runs: dict[str, Any], as_json: bool, asked: dict[str, Any]
) -> None:
    """Print log p(x) of a decoder that is named, and keep nothing."""
    if folder is not None:
        raise click.BadParameter(f"it stands in place of {folder}.", param_hint="--decoder")
    of_runs |= {"--shards": asked["shards"] > 1}
    of_runs |= {"--engine": asked["engine"]["name"] != "in-process"}
    for name, value in of_runs.items():
        if value:
            raise click.BadParameter("needs a run.", param_hint=name)
    on, opening = asked["on"], asked["opening"]
    if on["file"] is None:
        raise click.BadParameter("give the data set or file.", param_hint="--data")
    # Whoever types its name wants it imported.
    import_from_here()
    estimator = pv.registry.build_estimator(**asked["estimator"], options=asked["options"])
    evidence = pv.decoders.NamedDecoder(**asked["alone"]).log_prob(
        on["file"], split=on["split"], limit=on["limit"], estimator=estimator, seed=on["seed"],
        data_root=opening["data_root"], device=opening["device"],
    )  # fmt: skip
    lines = [str(evidence)]
    if evidence.gap is not None:
        lines.append(f"gap {evidence.gap:.3f} nats on data simulated from the decoder")
    show("\n".join(lines), evidence.summary(), as_json)


def _certificate(
    estimator: Any, run: Any, rows: Any, evidence: Any, count: int | None, seed: int
) -> tuple[str, dict[str, Any] | None]:
    """Text and values of a certificate; no text where there is none."""
    wanted = min(CERTIFICATE, len(rows)) if count is None else count
    if wanted == 0:
        return "", None
    try:
        found = pv.runs.certify_run(run, estimator, evidence, rows, num_simulated=wanted, seed=seed)
    except ValueError as error:
        # Where nobody asked for it, a model whose data cannot be simulated is no failure.
        if count is not None:
            raise
        return f"no certificate: {error}", None
    return (found["text"], found) if found else ("", None)


def _about(run: Any, rows: Any, evidence: Any, values: dict[str, Any]) -> list[str]:
    """Lines on what log p(x) is of; their numbers are added to the values."""
    lines: list[str] = []
    values["decomposition"] = None
    normalizers = pv.runs.find_normalizers(run.vae)
    if normalizers:
        lines += map(str, normalizers)
        values["normalizers"] = [each.to_dict() for each in normalizers]
    # Of these rows, which may miss more or fewer cells than the training data.
    missing = pv.data.missing_cells(rows.x) / rows.x.numel()
    if missing:
        lines.append(f"log p of the observed cells; {missing:.1%} of all cells are missing")
    if run.has_discrete_data:
        # Bits of a density would depend on the unit of the data; a missing cell has none.
        observed = run.data.schema.features * (1 - missing)
        bits = pv.evidence.bits_per_dimension(evidence.mean, observed)
        on_average = " observed in a row on average" if missing else ""
        lines.append(f"{bits:.4f} bits per dimension, of {observed:g}{on_average}")
        values["bits_per_dimension"] = bits
    return lines


def _show_plan(estimator: Any, run: Any, rows: Any, seed: int, as_json: bool) -> None:
    if not isinstance(estimator, pv.evidence.AutomaticSampling):
        raise click.BadParameter(
            "the cost of method auto alone follows from pilots; leave --method out.",
            param_hint="--plan",
        )
    if (own := run.own_evidence(rows)) is not None:
        text = f"{len(rows)} data: {own.method}, without decoder evaluations"
        show(text, {"evaluations": 0, "method": own.method}, as_json)
        return
    programs = run.vae.model, run.vae.guide
    cost = estimator.plan(*programs, rows, device=run.device, seed=seed)
    show(str(cost), cost.to_dict(), as_json)


def _judged(estimator: Any, run: Any, rows: Any, seed: int) -> tuple[Any, dict[int, Any]]:
    """Judge the annealing of a sandwich on simulated data.

    Returns:
        The estimator to take, and its sandwiches by the number of temperatures; of others none.
    """
    if not isinstance(estimator, pv.BidirectionalMonteCarlo):
        return estimator, {}
    programs = run.vae.model, run.vae.guide
    # On simulated data both sides bound log p(x), so that their gap measures the annealing.
    levels = pv.evidence.sandwiches(estimator, *programs, rows, device=run.device, seed=seed)
    sandwich = levels[estimator.annealing.num_temperatures]
    return pv.evidence.with_gap(estimator, sandwich.gap), levels
