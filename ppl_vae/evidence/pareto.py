"""Generalised Pareto tails of importance weights, by arviz-stats."""

import math
from dataclasses import dataclass
from typing import final

import torch
from arviz_stats.base import array_stats
from jaxtyping import Float
from torch import Tensor

LEAST_PARTICLES = 100
"""With fewer, the largest fifth of the weights is too few for a fit that means something."""
_DISTINCT = 0.9
"""Of a tail's values differ, at the least, where weights have a density: rounding ties fewer. With
fewer the latents are discrete and come back, and there is no Pareto tail to fit."""


@final
@dataclass(frozen=True)
class Smoothed:
    """Pareto-smoothed log-weights and the tails' shapes.

    Attributes:
        log_weight: Unnormalised, shape (particles, batch), in nats.
        pareto_k: Shape of the tail of each datum's weights; -inf where all weights are equal, or
            few latent states come back and the best of them too; inf where that was drawn once.
        tail_share: Part of the sum of all weights by which the tail exceeds where it begins.
    """

    log_weight: Float[Tensor, "particles batch"]
    pareto_k: Float[Tensor, " batch"]
    tail_share: Float[Tensor, " batch"]


def pareto_smooth(log_weight: Float[Tensor, "particles batch"]) -> Smoothed:
    """The largest ``min(K/5, 3 sqrt(K))`` weights replaced by quantiles of their fitted tail.

    Args:
        log_weight: log w_k, shape (particles, batch), at least 100 particles.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """
    log_weight = log_weight.double().cpu()
    columns = [_smooth_one(column) for column in log_weight.unbind(1)]
    return Smoothed(
        torch.stack([column for column, _ in columns], 1),
        torch.tensor([k for _, k in columns], dtype=torch.float64),
        _tail_share(log_weight),
    )


def _tail_share(log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " batch"]:
    weight = torch.softmax(log_weight, 0)
    tail = weight.topk(_tail_size(len(weight)) + 1, dim=0).values
    return (tail[:-1] - tail[-1]).sum(0)


def _smooth_one(log_weight: Float[Tensor, " particles"]) -> tuple[Tensor, float]:
    tail = log_weight.topk(_tail_size(len(log_weight))).values
    # Equal weights have no tail to fit, and fitting one to rounding says nothing.
    if (tail[0] - tail[-1]).item() <= 1e-9 * (1 + abs(tail[0].item())):
        return log_weight, -math.inf
    if len(tail.unique()) < _DISTINCT * len(tail):
        return log_weight, -math.inf if tail[0] == tail[1] else math.inf
    smoothed, k = array_stats.psislw(-log_weight.numpy(), axis=-1)
    normalised = torch.as_tensor(smoothed)
    # Below the tail a weight stays as it was, which tells what all were divided by.
    smallest = int(log_weight.argmin())
    return normalised + (log_weight[smallest] - normalised[smallest]), float(k)


def _tail_size(count: int) -> int:
    return int(3 * math.sqrt(count)) if count > 225 else count // 5
