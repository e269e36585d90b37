"""One cell of a study: a run that is trained, evaluated and measured."""

import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from ppl_vae.data import Rows, RowTensor, load
from ppl_vae.diagnostics import bound_against_particles, decompose, gradient_statistics
from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    Evidence,
    Sharded,
    sandwiches,
    with_gap,
)
from ppl_vae.files import exclusive, write_atomically
from ppl_vae.identity import hash_bytes
from ppl_vae.names import plural
from ppl_vae.objectives import parse_objective, with_particles
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs import (
    CHECKPOINT,
    CONFIG,
    LACKING,
    LOCK,
    MEASURES,
    PICTURES,
    Run,
    RunRecord,
    describe_codes,
    evaluate_run,
    file_of,
    find_normalizers,
    key_of,
    train_run,
)
from ppl_vae.store import read_sealed, write_sealed
from ppl_vae.studies._plan import CELLS, CellPlan, Method, read_cell

_WAIT = 60.0
"""Seconds for which another worker, thought dead, may still be writing."""
_ASIDE = ".changed"
"""Ending of a checkpoint that is not the one that was written."""
_CURVE_DATA, _CURVE = 200, (1, 2, 5, 10, 20, 50, 100, 200)
_GRADIENT_DATA, _GRADIENT_PARTICLES, _GRADIENT_REPLICATES = 20, (1, 4, 16, 64), 100
_ANNEALING = AnnealedImportanceSampling(num_temperatures=300, num_chains=8)
_PICTURES = 10


@final
@dataclass(frozen=True)
class Place:
    """Place where a study's cells are computed.

    Attributes:
        data_root: Folder of the data sets.
        device: ``auto``, ``cpu``, ``cuda``, ...
        tensorboard: Write learning curves for TensorBoard too.
    """

    data_root: Path | None = None
    device: str = "auto"
    tensorboard: bool = False


def run_cell(plan: CellPlan, study: Path, place: Place) -> RunRecord:
    """Carry out a cell, going on from what there is of it.

    Whatever goes wrong in it is its result: the other cells are not concerned.

    Args:
        plan: Plan of the cell; a plain value, so that it can be sent anywhere.
        study: Folder of the study.
        place: Folder of the data, and device to compute on.

    Raises:
        KeyboardInterrupt: If one is sent.
        OSError: If another process works on the cell, or nothing can be written.
    """
    folder = study / CELLS / plan.folder
    with exclusive(folder / LOCK, f"cell {plan.name}", wait=_WAIT):
        before = read_cell(plan, study)
        # Read under the lock: the worker that was waited for may have finished the cell.
        if before.state == "done":
            return before
        # Made again below.
        for name, change in before.changed_files().items():
            before.log(f"{name} {change}")
            if name == CHECKPOINT and (folder / name).is_file():
                # Training is what takes long: what may be somebody's is not deleted.
                os.replace(folder / name, folder / f"{name}{_ASIDE}")
            elif name != CONFIG:
                (folder / name).unlink(missing_ok=True)
        try:
            with before.attempt() as attempt:
                return _carry_out(plan, place, attempt)
        except Exception:
            # The attempt has recorded its failure; what could not be recorded is raised.
            failed = read_cell(plan, study)
            if failed.state != "failed" or failed.attempts == before.attempts:
                raise
            return failed


def _carry_out(plan: CellPlan, place: Place, attempt: RunRecord) -> RunRecord:
    run, fitted = train_run(
        plan.config, attempt.folder, progress=False, attempt=attempt, **vars(place)
    )
    record = attempt.trained(fitted)
    record.log(f"trained {plural(record.epochs, 'epoch')}, kept epoch {record.kept_epoch}")
    rows, methods, lacking = run.rows(plan.split, plan.limit), dict[str, str](), dict[str, str]()
    # What is fitted after training is part of its cost.
    seconds = record.seconds + run.fitted.get("seconds", 0.0)
    for method in plan.methods:
        evidence = _evaluate(plan, run, method, rows.x)
        seconds += evidence.seconds
        methods[method.label] = str(file_of(run.folder, evidence).relative_to(run.folder))
        record.log(f"{method.label}: {str(evidence).splitlines()[0]}")
    for name in plan.measures:
        if (reason := _lacks(run, name, rows)) is not None:
            record.log(f"{name} not measured: {reason}")
            lacking[name] = reason
            continue
        _measure(run, name, rows)
        record.log(f"measured {name}")
    if lacking:
        _keep_reasons(run, lacking)
    return record.done(
        seconds=seconds,
        methods=methods,
        discrete_data=run.has_discrete_data,
        normalizers=[each.to_dict() for each in find_normalizers(run.vae)],
    )


def _lacks(run: Run, measure: str, rows: Rows) -> str | None:
    """Reason why a model does not have a measure; None if it has it."""
    kind = run.config.model.kind
    if measure in ("decomposition", "bound_curve") and not kind.encodes:
        return "the guide is the prior"
    # A bound against the number of draws is a bound only where the guide has a density.
    if measure == "bound_curve" and run.has_point_guide:
        return "the guide is a point without a density"
    if measure == "gradients" and not kind.ascends:
        return f"training by {run.config.objective} ascends no objective"
    if measure == "sandwich" and run.own_evidence(rows) is not None:
        return "log p(x) is the model's own, not an estimate from draws"
    return None


def _evaluate(plan: CellPlan, run: Run, method: Method, data: RowTensor) -> Evidence:
    estimator, seed = method.build(), plan.config.seed
    if isinstance(estimator, BidirectionalMonteCarlo):
        simulated = estimator(run.vae.model, run.vae.guide, data[:2], device=run.device, seed=seed)
        estimator = with_gap(estimator, simulated.gap)
    return evaluate_run(
        run,
        estimator=Sharded(estimator, plan.shards) if plan.shards > 1 else estimator,
        split=plan.split,
        limit=plan.limit,
        seed=seed,
        progress=False,
    )


def _measure(run: Run, name: str, rows: Rows) -> None:
    """Measure, unless it has been for these parameters and data, and keep it in the run's folder.

    Raises:
        ValueError: If ``measures.json`` is damaged.
    """
    path, pictures = run.folder / MEASURES, run.folder / PICTURES
    kept: dict[str, Any] = {"keys": {}}
    if path.is_file():
        kept = read_sealed(path, "delete it to measure anew")
    key = key_of(run.identity(name, rows, run.config.seed))
    if kept["keys"].get(name) == key:
        if name != "pictures":
            return
        # Pictures have a file of their own, which may be gone or changed.
        if pictures.is_file() and hash_bytes(pictures.read_bytes()) == kept.get("pictures_sha256"):
            return
    if name == "pictures":
        content = _pictures(run)
        # Before the key: a kill in between makes them again, and never leaves a key without a file.
        write_atomically(pictures, content)
        kept["pictures_sha256"] = hash_bytes(content)
    else:
        kept[name] = _MEASURES[name](run, rows.x)
    kept["keys"][name] = key
    write_sealed(path, kept)


def _keep_reasons(run: Run, lacking: dict[str, str]) -> None:
    """Keep why the model does not have a measure beside those that it has."""
    path = run.folder / MEASURES
    kept: dict[str, Any] = {"keys": {}}
    if path.is_file():
        kept = read_sealed(path, "delete it to measure anew")
    write_sealed(path, {**kept, LACKING: lacking})


def _decomposition(run: Run, x: RowTensor) -> dict[str, Any]:
    programs = run.vae.model, run.vae.guide
    return decompose(*programs, x, device=run.device, seed=run.config.seed).summary()


def _bound_curve(run: Run, x: RowTensor) -> dict[str, Any]:
    x = x[:_CURVE_DATA]
    return bound_against_particles(
        run.vae.model,
        run.vae.guide,
        x,
        num_particles=_CURVE,
        # Of few data more, for as many degrees of freedom as the covariance of the bounds takes.
        replicates=max(10, 1 + -(-10 * len(_CURVE) // len(x))),
        device=run.device,
        seed=run.config.seed,
    ).summary()


def _gradients(run: Run, x: RowTensor) -> dict[str, Any]:
    family, names = with_particles(run.config.objective, _GRADIENT_PARTICLES, keep=False)
    return gradient_statistics(
        run.vae.model,
        run.vae.guide,
        x[:_GRADIENT_DATA].to(run.device),
        {family: [parse_objective(name) for name in names]},
        replicates=_GRADIENT_REPLICATES,
        seed=run.config.seed,
    ).summary()


def _sandwich(run: Run, x: RowTensor) -> dict[str, Any]:
    estimator = BidirectionalMonteCarlo(_ANNEALING)
    by_count = sandwiches(
        estimator, run.vae.model, run.vae.guide, x[:2], device=run.device, seed=run.config.seed
    )
    rows = [by_count[count] for count in sorted(by_count)]
    columns: dict[str, Any] = {
        "temperatures": sorted(by_count),
        "lower": [row.lower.mean for row in rows],
        "lower_error": [row.lower.monte_carlo_error for row in rows],
        "upper": [row.upper.mean for row in rows],
        "upper_error": [row.upper.monte_carlo_error for row in rows],
        "gap": [row.gap for row in rows],
        "gap_error": [row.gap_error for row in rows],
    }
    # JSON has no infinity.
    plain = {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in columns.items()
    }
    return {"num_data": len(rows[0]), **plain}


def _codes(run: Run, x: RowTensor) -> dict[str, Any]:
    # The prior in a guide's place says nothing of x.
    if not run.config.model.kind.encodes:
        return {}
    return describe_codes(run, x, seed=run.config.seed)


_MEASURES: dict[str, Callable[[Run, RowTensor], dict[str, Any]]] = {
    "decomposition": _decomposition,
    "bound_curve": _bound_curve,
    "codes": _codes,
    "gradients": _gradients,
    "sandwich": _sandwich,
}


def _pictures(run: Run) -> bytes:
    """Means of p(x|z), of z from the prior and from q(z|x), as arrays."""
    data = load(run.rows("test", _PICTURES).x, run.device)
    with seeded(run.config.seed, Stream.SAMPLING), torch.no_grad():
        arrays = {
            "samples": run.vae.generate(3 * _PICTURES).mean,
            "data": data,
        }
        # The prior in a guide's place says nothing of x.
        if run.config.model.kind.encodes:
            arrays["reconstruction"] = run.vae.reconstruct(data).mean
    out = io.BytesIO()
    plain = {name: values.cpu().numpy().astype(np.float32) for name, values in arrays.items()}
    np.savez_compressed(out, **plain)
    return out.getvalue()
