"""Doubt of a log mean weight: how much higher log p(x) may be than what was drawn shows."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import scipy  # not scipy.stats, which it imports at its first use: 0.5 s
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._tails import Tail, pareto_tail
from ppl_vae.weights import RunningWeights, tail_size

NORMAL = 1.959963984540054
"""Half width of a 95% interval, in standard errors."""
_BEYOND = 0.95
"""Posterior probability of what the tail holds that the doubt goes up to."""
# The posterior of a tail's shape k and of theta = k / scale, on grids of either sign. Shapes of 1
# and above have no mean: their probability is what makes a doubt infinite.
_SHAPES = (torch.linspace(0.01, 1.49, 75), torch.linspace(-0.49, -0.01, 25))
_RATES = (torch.logspace(-3.0, 1.2, 88), torch.logspace(-2.5, -0.0005, 44))
# The weak prior of Pareto smoothing: as if 10 more values had said 0.5.
_PRIOR_SHAPE, _PRIOR_WEIGHT = 0.5, 10
_AT_ONCE = 256
_ELEMENTS = 2**16
"""Numbers of a temporary, which stays in the cache."""


class Doubt(NamedTuple):
    """Doubt of the log of a mean of weights, per datum, in nats.

    Attributes:
        bias: Estimate of how low it is.
        doubt: How far the upper end of a 95% interval for log p(x) lies above 1.96 standard errors;
            0 where the error says all, infinite where nothing bounds it.
    """

    bias: Float[Tensor, " batch"]
    doubt: Float[Tensor, " batch"]


def doubt_by_tail(weights: RunningWeights, tail: Tail | None = None) -> Doubt:
    r"""How low the log of a mean of 100 or more importance weights may be.

    The mean of what exceeds the start of the tail is ``sigma / (1 - k)`` for a generalised Pareto
    tail of shape k and scale sigma. The posterior of (k, sigma) given the M largest weights gives
    the posterior of that mean, and so of the sum of all weights: its median says how low the
    estimate is, its 95% point how low it may be. Where shapes of 1 and more, whose tail has no
    mean, have a probability above 5%, nothing bounds the doubt. The bias is no less than the delta
    method's, ``log(1 + SE^2) / 2``.

    What no draw has come near, such as a second mode, no statistic of the draws can see.

    Args:
        weights: Of all particles.
        tail: Their fitted tail, if it is known.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
        Zhang and Stephens, 2009, A new and efficient estimation method for the generalized Pareto
        distribution.
    """
    error, positive = weights.standard_error, weights.num_positive
    bias = 0.5 * torch.log1p(error.square())
    shape = (pareto_tail(weights) if tail is None else tail).pareto_k
    # Weights that are equal or, of discrete latents, come back have no tail (-inf). Where the best
    # of them was drawn once (inf), or few are positive (NaN), there may be any number of better.
    doubt = torch.where(shape.isneginf(), 0.0, math.inf).to(error)
    for count in positive.unique().tolist():
        rows = ((positive == count) & shape.isfinite()).nonzero().squeeze(1)
        for part in rows.split(_AT_ONCE) if len(rows) else ():
            found = _by_tail(weights, part, count)
            bias[part] = bias[part].maximum(found.bias)
            doubt[part] = found.doubt
    return Doubt(bias, doubt)


def doubt_by_normal(log_weight: Float[Tensor, "chains batch"]) -> Doubt:
    """How low the log of a mean of annealed weights may be.

    Along an annealing path log W is nearly normal: ``log p(x) = m + s^2 / 2 + c / 6`` with mean m,
    variance s^2 and a third cumulant c that is small. The interval is the one that independent
    estimates m and s^2 give, with the noise of c beside them; a c below 0 is not counted.

    Args:
        log_weight: log W of 2 or more independent chains.

    References:
        Zou, Taleban and Huo, 2009, Confidence interval estimation for lognormal data with
        application to health economics.
        Jarzynski, 1997, Nonequilibrium equality for free energy differences.
    """
    count, log_weight = len(log_weight), log_weight.double()
    weights = RunningWeights.of(log_weight)
    if count < 2:
        return Doubt(*2 * [torch.full_like(weights.log_mean, math.inf)])
    mean, variance = log_weight.mean(0), log_weight.var(0)
    third = (log_weight - mean).pow(3).mean(0).clamp(min=0)
    # The 2.5% point of a variance, by chi square, and the error of a third cumulant of a normal.
    widest = variance * (count - 1) / float(scipy.special.chdtri(count - 1, 1 - 0.025))
    skew_error = NORMAL * variance.pow(1.5) * math.sqrt(6 / count) / 6
    above = (
        NORMAL**2 * variance / count + 0.25 * (widest - variance).square() + skew_error.square()
    ).sqrt()
    plain = weights.log_mean + NORMAL * weights.standard_error
    doubt = (mean + 0.5 * variance + third / 6 + above - plain).clamp(min=0)
    # log(1 + v / K) / 2, the relative variance v of a log-normal weight being exp(s^2) - 1.
    exact = 0.5 * torch.log1p(torch.expm1(variance.clamp(max=1)) / count)
    large = 0.5 * torch.nn.functional.softplus(variance - math.log(count))
    bias = torch.where(variance < 1, exact, large)
    # A weight of 0 has no logarithm to be normal.
    return Doubt(*(value.nan_to_num(nan=math.inf) for value in (bias, doubt)))


def skewness_z(log_weight: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    r"""Skewness of log W over its standard error for normal log W.

    ``G = sqrt(n (n - 1)) / (n - 2) m_3 / m_2^(3/2)`` with central moments m of n chains, and
    ``Var(G) = 6 n (n - 1) / ((n - 2) (n + 1) (n + 3))``. :func:`doubt_by_normal` takes log W for
    near normal: from a start narrower than the posterior, log W is skewed to large values, and the
    interval is too short. NaN of fewer than 3 chains, without a spread, or where a weight is 0.

    References:
        Joanes and Gill, 1998, Comparing measures of sample skewness and kurtosis.
    """
    n = len(log_weight)
    if n < 3:
        return torch.full_like(log_weight[0], math.nan, dtype=torch.float64)
    centred = log_weight.double() - log_weight.double().mean(0)
    skewness = centred.pow(3).mean(0) / centred.square().mean(0).pow(1.5)
    return skewness * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))


def _by_tail(weights: RunningWeights, rows: Tensor, count: int) -> Doubt:
    """Doubt by the posterior of what a generalised Pareto tail of the weights holds."""
    size = min(tail_size(count), len(weights.largest) - 1)
    # As shares of the sum of all weights.
    share = torch.exp(weights.largest[: size + 1, rows] - weights.log_sum[rows])
    excess = share[:-1] - share[-1]
    drawn = excess.sum(0)
    middle, upper = _tail_sums(excess)
    error = weights.standard_error[rows]
    # The error of the body, and of how many weights are in the tail; the tail's own is in `upper`.
    inside = excess.square().sum(0) - drawn.square() / size
    body = (error.square() - inside).clamp(min=0)
    low, high = (torch.log1p(total - drawn) for total in (middle, upper))
    above = torch.sqrt(NORMAL**2 * body + high.clamp(min=0).square())
    return Doubt(low, (above - NORMAL * error).clamp(min=0))


def _tail_sums(
    excess: Float[Tensor, "size batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Median and 95% point of the posterior of ``size * sigma / (1 - k)``."""
    unit = excess.median(0).values
    scaled, size = excess / unit, len(excess)
    masses, means = [], []
    for shapes, rates in zip(_SHAPES, _RATES, strict=True):
        # theta > 0 goes with k > 0; below 0 theta is above -1 / max, or the largest could not be.
        k = shapes.to(excess).view(-1, 1, 1)
        theta = rates.to(excess).view(-1, 1, 1)
        theta = theta.expand(-1, 1, excess.shape[1]) if k[-1] > 0 else -theta / scaled[0]
        theta = theta.movedim(1, 0)
        logs = torch.zeros_like(theta)
        for values in scaled.split(max(1, _ELEMENTS // theta.numel())):
            logs += torch.log1p(theta * values[:, None, None]).sum(0)
        log_likelihood = -size * torch.log(k / theta) - (1 + 1 / k) * logs
        log_prior = -0.5 * _PRIOR_WEIGHT * ((k - _PRIOR_SHAPE) / (1 + _PRIOR_SHAPE)).square()
        # Uniform in k and log sigma, hence in k and log theta: cells of the grid differ in size.
        cell = math.log(float((shapes[1] - shapes[0]) * torch.log(rates[1] / rates[0]).abs()))
        mass = (log_likelihood + log_prior + cell).flatten(0, 1)
        mean = torch.where(k < 1, k / (theta * (1 - k)), math.inf).flatten(0, 1)
        # Up to a factor of its own a datum has the means of any other: all have one order.
        order = mean[:, 0].argsort()
        masses.append(mass[order])
        means.append(mean[order])
    shares = torch.softmax(torch.cat(masses), 0).split([len(mass) for mass in masses])
    points = _points_of_both(*(mean.T.contiguous() for mean in means), *(each.T for each in shares))
    middle, upper = (size * unit * point for point in points)
    return middle, upper


def _points_of_both(
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    share_a: Float[Tensor, "batch n"],
    share_b: Float[Tensor, "batch m"],
) -> Sequence[Float[Tensor, " batch"]]:
    """Median and 95% point of values in two ascending lists, without sorting them together."""
    below_a, below_b = (
        torch.nn.functional.pad(share.cumsum(1), (1, 0)) for share in (share_a, share_b)
    )
    first_of_a = _first_at(a, below_a, b, below_b)
    return first_of_a.minimum(_first_at(b, below_b, a, below_a)).unbind(1)


def _first_at(
    values: Float[Tensor, "batch n"],
    below: Float[Tensor, "batch n+1"],
    others: Float[Tensor, "batch m"],
    below_others: Float[Tensor, "batch m+1"],
) -> Float[Tensor, "batch points"]:
    """Find the first of the ascending values with half, and 95%, of both lists at it or below.

    Infinity where there is none. By bisection, as what lies below rises with the value: to look up
    all values in the other list takes longer than all else.
    """
    count, levels = values.shape[1], values.new_tensor([0.5, _BEYOND])
    low = torch.zeros(len(values), 2, dtype=torch.long, device=values.device)
    high = torch.full_like(low, count)
    for _ in range(count.bit_length()):
        middle = (low + high) // 2
        place = middle.clamp(max=count - 1)
        found = torch.searchsorted(others, values.gather(1, place), right=True)
        reached = below.gather(1, place + 1) + below_others.gather(1, found) >= levels
        high = torch.where(reached, middle, high)
        low = torch.where(reached, low, middle + 1).minimum(high)
    return torch.where(
        high < count, values.gather(1, high.clamp(max=count - 1)), torch.full_like(levels, math.inf)
    )
