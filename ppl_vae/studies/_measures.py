"""What is measured of a trained run beside log p(x)."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Rows
from ppl_vae.diagnostics import bound_against_particles, decompose, gradient_statistics
from ppl_vae.evidence import AnnealedImportanceSampling, BidirectionalMonteCarlo, sandwiches
from ppl_vae.files import write_atomically
from ppl_vae.identity import hash_bytes
from ppl_vae.objectives import Objective
from ppl_vae.randomness import Stream, seeded
from ppl_vae.registry import parse_objective, with_particles
from ppl_vae.runs import Run
from ppl_vae.store import read_sealed, write_sealed
from ppl_vae.studies._results import MEASURES, PICTURES

_CURVE = {"num_particles": (1, 2, 5, 10, 20, 50, 100, 200), "replicates": 10}
_CURVE_DATA = 200
_GRADIENT_DATA, _GRADIENT_PARTICLES, _GRADIENT_REPLICATES = 20, (1, 4, 16, 64), 100
_ANNEALING = AnnealedImportanceSampling(num_temperatures=300, num_chains=8)
_PICTURES = 10


def measure(run: Run, name: str, rows: Rows) -> None:
    """Measure, unless it has been for these parameters and data, and keep it in the run's folder.

    Args:
        run: Its folder gets ``measures.json`` or ``pictures.npz``.
        name: Of ``decomposition``, ``bound_curve``, ``pictures``, ``gradients``, ``sandwich``.
        rows: The data that log p(x) is estimated on.

    Raises:
        ValueError: If ``measures.json`` is damaged.
    """
    path, pictures = run.folder / MEASURES, run.folder / PICTURES
    kept: dict[str, Any] = {"keys": {}}
    if path.is_file():
        kept = read_sealed(path, "delete it to measure anew")
    key = run.identity(name, rows, run.config.seed).key
    if kept["keys"].get(name) == key and (name != "pictures" or _is_whole(pictures, kept)):
        return
    if name == "pictures":
        content = _pictures(run)
        write_atomically(pictures, content)
        kept["pictures_sha256"] = hash_bytes(content)
    else:
        kept[name] = _MEASURES[name](run, rows.x)
    kept["keys"][name] = key
    write_sealed(path, kept)


def _is_whole(pictures: Path, kept: dict[str, Any]) -> bool:
    written = kept.get("pictures_sha256")
    return pictures.is_file() and hash_bytes(pictures.read_bytes()) == written


def _decomposition(run: Run, x: Tensor) -> dict[str, Any]:
    return decompose(
        run.vae.model, run.vae.guide, x, device=run.device, seed=run.config.seed
    ).summary()


def _bound_curve(run: Run, x: Tensor) -> dict[str, Any]:
    curve = bound_against_particles(
        run.vae.model,
        run.vae.guide,
        x[:_CURVE_DATA],
        device=run.device,
        seed=run.config.seed,
        **_CURVE,  # type: ignore[arg-type]
    )
    return curve.summary()


def _gradients(run: Run, x: Tensor) -> dict[str, Any]:
    family, names = with_particles(run.config.objective, _GRADIENT_PARTICLES, keep=False)
    objectives: list[Objective] = [parse_objective(name) for name in names]
    bench = gradient_statistics(
        run.vae.model,
        run.vae.guide,
        x[:_GRADIENT_DATA].to(run.device),
        {family: objectives},
        replicates=_GRADIENT_REPLICATES,
        seed=run.config.seed,
    )
    return bench.summary()


def _sandwich(run: Run, x: Tensor) -> dict[str, Any]:
    estimator = BidirectionalMonteCarlo(_ANNEALING)
    found = sandwiches(
        estimator, run.vae.model, run.vae.guide, x[:2], device=run.device, seed=run.config.seed
    )
    rows = [found[count] for count in sorted(found)]
    columns: dict[str, Any] = {
        "temperatures": sorted(found),
        "lower": [row.lower.mean for row in rows],
        "lower_error": [row.lower.monte_carlo_error for row in rows],
        "upper": [row.upper.mean for row in rows],
        "upper_error": [row.upper.monte_carlo_error for row in rows],
        "gap": [row.gap for row in rows],
        "gap_error": [row.gap_error for row in rows],
    }
    plain = {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in columns.items()
    }
    return {"num_data": len(rows[0]), **plain}


_MEASURES: dict[str, Callable[[Run, Tensor], dict[str, Any]]] = {
    "decomposition": _decomposition,
    "bound_curve": _bound_curve,
    "gradients": _gradients,
    "sandwich": _sandwich,
}


def _pictures(run: Run) -> bytes:
    """Means of p(x|z), of z from the prior and from q(z|x), as arrays."""
    data = run.rows("test", _PICTURES).x.to(run.device)
    with seeded(run.config.seed, Stream.SAMPLING), torch.no_grad():
        arrays = {
            "samples": run.vae.generate(3 * _PICTURES).mean,
            "reconstruction": run.vae.reconstruct(data).mean,
            "data": data,
        }
    out = io.BytesIO()
    plain = {name: values.cpu().numpy().astype(np.float32) for name, values in arrays.items()}
    np.savez_compressed(out, **plain)
    return out.getvalue()
