"""The Pareto tail of importance weights."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.weights import RunningWeights, tail_size

LEAST_PARTICLES = 100
"""Least number of particles: with fewer, the largest fifth of the weights is too few for a fit that
means something."""
_DISTINCT = 0.9
"""Least share of a tail's values that differ where weights have a density: rounding ties fewer.
With fewer the latents are discrete and come back, and there is no Pareto tail to fit."""
_ROUNDINGS = 16
"""Relative rounding errors of one log-weight, of the densities whose difference it is, by which
equal weights may differ."""
_FITTED_AT_ONCE = 4_000_000
# The fit's weak prior: of the shape, 0.5 with the weight of 10 values; of the scale, 3.
_PRIOR_SHAPE, _PRIOR_WEIGHT, _PRIOR_SCALE = 0.5, 10, 3


@final
@dataclass(frozen=True)
class Tail:
    """The tails of the weights of each datum.

    Attributes:
        pareto_k: Shape; -inf where all weights are equal, or few latent states come back and the
            best of them too; inf where that was drawn once; NaN where fewer than 100 weights are
            positive, too few to tell.
        tail_share: Part of the sum of all weights by which the tail exceeds where it begins; NaN
            where the shape is.
        smoothed: The sums with the tail's weights replaced by quantiles of the fitted tail.
    """

    pareto_k: Float[Tensor, " batch"]
    tail_share: Float[Tensor, " batch"]
    smoothed: RunningWeights


def pareto_tail(weights: RunningWeights) -> Tail:
    """Fit the ``min(K/5, 3 sqrt(K))`` largest of K positive weights of each datum.

    Args:
        weights: Of 100 particles or more. Of those that are 0 a datum's tail has none.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
        Zhang and Stephens, 2009, A new and efficient estimation method for the generalized Pareto
        distribution.
    """
    largest, positive = weights.largest, weights.num_positive
    shape = torch.full_like(weights.log_mean, math.nan)
    share, smoothed = shape.clone(), largest.clone()
    # Data with as many positive weights have tails of one size, and are fitted together.
    for count in positive.unique().tolist():
        if count < LEAST_PARTICLES:
            continue
        # Of more particles than it was made for, the sums keep the tail of fewer.
        size = min(tail_size(count), len(largest) - 1)
        at_once = max(1, _FITTED_AT_ONCE // (size * _grid_size(size)))
        for rows in (positive == count).nonzero().squeeze(1).split(at_once):
            tail = largest[: size + 1, rows]
            excess = torch.exp(tail - weights.log_sum[rows])
            share[rows] = (excess[:-1] - excess[-1]).sum(0)
            shape[rows], smoothed[:size, rows] = _fitted(tail, weights.precision)
    return Tail(shape, share, weights.with_largest(smoothed))


def _fitted(
    tail: Float[Tensor, "size_and_cutoff batch"], precision: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "size batch"]]:
    """The shape, and the log of the fitted tail's quantiles in the order of the weights."""
    values, cutoff = tail[:-1], tail[-1]
    # Equal weights have no tail to fit, and fitting one to rounding says nothing.
    least = max(1e-9, _ROUNDINGS * precision)
    flat = values[0] - values[-1] <= least * (1 + values[0].abs())
    distinct = (values[1:] < values[:-1]).sum(0) + 1
    discrete = distinct < _DISTINCT * len(values)
    scale = torch.exp(values - values[0])
    above = scale - torch.exp(cutoff - values[0])
    none = flat | discrete
    # What has no tail gets one that can be fitted, and whose fit is not used.
    steps = torch.arange(len(values), 0, -1, device=tail.device, dtype=tail.dtype).unsqueeze(1)
    shape, sigma = _generalised_pareto(torch.where(none, steps, above))
    probability = (steps - 0.5) / len(values)
    quantile = -torch.log1p(-probability)
    # expm1(k q) / k is 0 / 0 at k = 0; its limit is q.
    stretched = torch.where(shape == 0, quantile, torch.expm1(shape * quantile) / shape)
    # No smoothed weight exceeds the largest one that was drawn.
    fitted = (torch.exp(cutoff - values[0]) + sigma * stretched).clamp(max=1.0).log() + values[0]
    repeated = torch.where(values[0] == values[1], -math.inf, math.inf)
    shape = torch.where(flat, -math.inf, torch.where(discrete, repeated, shape))
    return shape, torch.where(none, values, fitted)


def _grid_size(count: int) -> int:
    return 30 + int(math.sqrt(count))


def _generalised_pareto(
    above: Float[Tensor, "size batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Posterior mean shape and scale, from a tail's excess in descending order."""
    count = len(above)
    # A mean over a grid of rates in place of a maximum of the likelihood, which may not exist.
    grid = torch.arange(1, _grid_size(count) + 1, dtype=above.dtype, device=above.device)
    spread = 1 - torch.sqrt(_grid_size(count) / (grid - 0.5))
    # The quartile in ascending order.
    quartile = above[count - int(count / 4 + 0.5)]
    rate = spread.unsqueeze(1) / (_PRIOR_SCALE * quartile) + 1 / above[0]
    shapes = torch.log1p(-rate.unsqueeze(1) * above).mean(1)
    fit = count * (torch.log(-rate / shapes) - shapes - 1)
    rate_mean = (torch.softmax(fit, 0) * rate).sum(0)
    shape = torch.log1p(-rate_mean * above).mean(0)
    sigma = -shape / rate_mean
    # Towards 0.5, as if 10 more values had said so: short tails are noisy.
    pulled = (count * shape + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (count + _PRIOR_WEIGHT)
    return pulled, sigma
