"""Where the temperatures stand between the start (0) and the posterior (1)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Spacing = Literal["linear", "sigmoidal", "adaptive"]

_STEEPNESS = 4.0
_FLOOR = 0.05
"""Share of an average interval that every interval counts as at least: where a few chains happen
to agree, the schedule must not jump."""


def linear(num_temperatures: int) -> Float[Tensor, " points"]:
    """``b_t = t / T`` for t = 0..T."""
    return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)


def sigmoidal(num_temperatures: int) -> Float[Tensor, " points"]:
    """``sigmoid(4 (2t/T - 1))`` for t = 0..T, moved and stretched onto [0, 1].

    Dense at both ends, where the distributions change fastest.

    References:
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """
    levels = torch.sigmoid(_STEEPNESS * (2 * linear(num_temperatures) - 1))
    return (levels - levels[0]) / (levels[-1] - levels[0])


def interval_length(log_increment: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    """``sqrt(-log(CESS / K))``, how hard a step from one temperature to the next is, per datum.

    CESS is the conditional effective sample size ``K (mean w)^2 / mean w^2`` of the increments
    ``w = f_(b')(u) / f_b(u)`` of K chains at temperature b. Over a short step the length is the
    step times the standard deviation of ``d/db log f_b``, so that lengths add up along the path,
    and equal lengths are equal CESS.

    Args:
        log_increment: log w of each chain.

    References:
        Zhou, Johansen and Aston, 2016, Toward automatic model comparison: an adaptive sequential
        Monte Carlo approach.
    """
    log_fraction = 2 * log_increment.logsumexp(0) - (2 * log_increment).logsumexp(0)
    return (math.log(len(log_increment)) - log_fraction).clamp(min=0).sqrt()


def of_equal_steps(
    schedule: Float[Tensor, "points levels"], lengths: Float[Tensor, "intervals batch"]
) -> Float[Tensor, "points batch"]:
    """The schedule with as many temperatures whose intervals have equal lengths, per datum."""
    finite = torch.where(lengths.isfinite(), lengths, math.sqrt(math.log(2)))
    padded = finite + _FLOOR * finite.mean(0) + torch.finfo(finite.dtype).eps
    travelled = torch.cat([torch.zeros_like(padded[:1]), padded.cumsum(0)])
    travelled = (travelled / travelled[-1]).mT.contiguous()
    points = schedule.expand(travelled.shape[1], travelled.shape[0]).mT.contiguous()
    wanted = torch.linspace(0, 1, len(schedule), dtype=points.dtype, device=points.device)
    right = torch.searchsorted(travelled, wanted.expand_as(travelled).contiguous())
    right = right.clamp(1, len(schedule) - 1)
    ends = [(t.gather(1, right - 1), t.gather(1, right)) for t in (travelled, points)]
    (before, after), (low, high) = ends
    found = low + (high - low) * (wanted - before) / (after - before)
    found[:, 0], found[:, -1] = 0.0, 1.0
    return found.mT.contiguous()
