"""From weights to values per datum, and from these to evidence."""

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.annealing.checkpoint import Columns
from ppl_vae.evidence.result import Direction, Evidence
from ppl_vae.weights import RunningWeights

ADVICE = "use more temperatures or chains"


def weight_columns(log_weight: Float[Tensor, "chains batch"], evaluations: int) -> Columns:
    """``log mean W`` per datum with its delta-method error and effective sample size.

    Args:
        log_weight: log W of independent chains.
        evaluations: Decoder evaluations spent on each datum.

    Raises:
        ValueError: If a weight is not a number, or infinite; names the datum.
    """
    require_numbers(log_weight)
    weights = RunningWeights()
    weights.add(log_weight)
    return {
        "log_prob": weights.log_mean,
        "standard_error": weights.standard_error,
        "effective_sample_size": weights.effective_sample_size,
        "evaluations": torch.full_like(weights.log_mean, evaluations),
    }


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
    return Evidence(
        log_prob=columns["log_prob"],
        standard_error=columns["standard_error"],
        effective_sample_size=columns["effective_sample_size"],
        evaluations=columns["evaluations"],
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
