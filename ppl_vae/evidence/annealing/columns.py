"""From weights to values per datum, and from these to evidence."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.annealing.checkpoint import Columns
from ppl_vae.evidence.pareto import measured
from ppl_vae.evidence.result import Direction, Evidence
from ppl_vae.weights import RunningWeights

ADVICE = "use more temperatures or chains"


def weight_columns(
    log_weight: Float[Tensor, "chains batch"], evaluations: int, computed_in: torch.dtype
) -> Columns:
    """``log mean W`` per datum, and what its weights say of it.

    Args:
        log_weight: log W of independent chains.
        computed_in: Type of the log-densities along the path.
        evaluations: Decoder evaluations spent on each datum.

    Raises:
        ValueError: If a weight is not a number, or infinite; names the datum.
    """
    require_numbers(log_weight)
    weights = RunningWeights(len(log_weight))
    weights.add(log_weight, computed_in)
    found = measured(weights)
    return {**found, "evaluations": torch.full_like(found["log_prob"], evaluations)}


def evidence_of(
    columns: Columns,
    *,
    num_particles: int,
    direction: Direction,
    method: str,
    seconds: float,
    gap: float | None = None,
) -> Evidence:
    """The result of all data."""
    names = {f.name for f in dataclasses.fields(Evidence)}
    values: dict[str, Any] = {name: v for name, v in columns.items() if name in names}
    return Evidence(
        **values,
        num_particles=num_particles,
        direction=direction,
        method=method,
        seconds=seconds,
        gap=gap,
        advice=ADVICE,
    )


def require_numbers(log_weight: Float[Tensor, "chains batch"]) -> None:
    """Check that no log-weight is NaN or +inf; a weight of 0 is a weight.

    Raises:
        ValueError: If one is; names the datum.
    """
    wrong = (log_weight.isnan() | log_weight.isposinf()).any(0)
    if bool(wrong.any()):
        datum = int(wrong.nonzero()[0])
        raise ValueError(
            f"an annealed log-weight of datum {datum} of its chunk is not finite: look for a "
            "likelihood that is NaN or infinite where the start puts its draws."
        )
