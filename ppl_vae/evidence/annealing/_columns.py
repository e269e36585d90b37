"""From weights to values per datum, and from these to evidence."""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import ndtri, stdtrit
from torch import Tensor

from ppl_vae.evidence._pareto import measured
from ppl_vae.evidence._result import MIN_EFFECTIVE_SAMPLE_SIZE, Direction, Evidence
from ppl_vae.evidence._unfinished import Columns, Part
from ppl_vae.identity import Identity
from ppl_vae.weights import RunningWeights

_ADVICE = "use more temperatures or chains"


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
    identity: Identity,
    gap: float | None = None,
    least_effective: float = MIN_EFFECTIVE_SAMPLE_SIZE,
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
        least_effective=least_effective,
        advice=_ADVICE,
        identity=identity,
    )


def part_of(columns: Columns) -> Part:
    """A chunk's values, on the CPU."""
    return Part({name: value.cpu() for name, value in columns.items()})


def jackknife_error(log_weight: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    """Standard error of ``log mean W`` by leaving out each chain, times t / 1.96, in nats.

    A few weights backwards are so skewed that the delta method, a first-order expansion, states too
    little. With the quantile of Student's t, 1.96 of these errors are a 95% interval for few
    chains. Infinite where all weights but one are 0; NaN of one chain.

    References:
        Tukey, 1958, Bias and confidence in not quite large samples.
    """
    count = len(log_weight)
    if count < 2:
        return torch.full_like(log_weight[0], math.nan)
    nothing = torch.full_like(log_weight[:1], -math.inf)
    before = torch.cat([nothing, log_weight.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weight.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
    left_out = torch.logaddexp(before, after)
    variance = left_out.var(0, correction=0) * (count - 1)
    error = variance.sqrt() * float(stdtrit(count - 1, 0.975) / ndtri(0.975))
    return error.nan_to_num(nan=math.inf)


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
