"""Replicates of a gradient turned into signal-to-noise, variance, bias and slopes, with errors."""

import math
from dataclasses import dataclass
from typing import final

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BOOTSTRAP_REPLICATES = 400
_MOST_BLOCKS = 500
"""Replicates are resampled in at most so many blocks: their sums are all that is kept of them."""
_RESOLVED = 3.0
"""A signal-to-noise ratio below so many of its own errors says nothing of its logarithm."""
_SLOPE_POINTS = 4


@final
@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap standard error and 95% percentile interval."""

    value: float
    error: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the value stands out of its noise, so that its logarithm has an error bar."""
        return math.isfinite(self.value) and self.value > _RESOLVED * self.error


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance over replicates of each coordinate, shape (*resamples, coordinates)."""

    mean: Float[Tensor, "*resamples coordinates"]
    variance: Float[Tensor, "*resamples coordinates"]
    replicates: int

    @property
    def error(self) -> Float[Tensor, "*resamples coordinates"]:
        """Standard error of the mean."""
        return (self.variance / self.replicates).sqrt()

    @classmethod
    def of(cls, gradients: Float[Tensor, "replicates coordinates"]) -> "Moments":
        """The moments of a sample of 2 replicates or more."""
        return cls(gradients.mean(0), gradients.var(0), len(gradients))


def bootstrap_moments(gradients: Float[Tensor, "replicates coordinates"]) -> Moments:
    """Moments of the replicates drawn again with replacement, shape (resamples, coordinates).

    Draws from the caller's random state.
    """
    count, centre = len(gradients), gradients.mean(0)
    # Centred, so that second moment minus squared mean does not cancel digits.
    blocks = (gradients - centre).tensor_split(min(count, _MOST_BLOCKS))
    size = gradients.new_tensor([len(block) for block in blocks])
    first = torch.stack([block.sum(0) for block in blocks])
    second = torch.stack([block.square().sum(0) for block in blocks])
    drawn = torch.randint(len(blocks), (_BOOTSTRAP_REPLICATES, len(blocks)))
    weight = torch.zeros(drawn.shape, dtype=gradients.dtype)
    weight.scatter_add_(1, drawn, torch.ones_like(weight))
    total = (weight @ size).unsqueeze(-1)
    mean = weight @ first / total
    variance = (weight @ second / total - mean.square()).clamp(min=0) * total / (total - 1)
    return Moments(centre + mean, variance, count)


def signal_to_noise(
    moments: Moments, *, noises: int = 1
) -> Float[Tensor, "*resamples coordinates"]:
    """``|mean| / standard deviation`` of each coordinate, the noise of the mean taken off.

    The square of a mean of R replicates is high by s^2/R on average, which would hide how fast a
    small ratio falls; so mean^2 - s^2/R stands for mean^2 (0 where it is negative). A resampled
    mean has that noise twice (``noises=2``): once as a mean, once from its resampling.
    """
    signal = moments.mean.square() - noises * moments.variance / moments.replicates
    return signal.clamp(min=0).sqrt() / moments.variance.sqrt()


def median_signal_to_noise(
    moments: Moments, resampled: Moments, live: Bool[Tensor, " coordinates"]
) -> Interval:
    """The median over the live coordinates; NaN if there are none."""
    if not live.any():
        return Interval(math.nan, math.nan, math.nan, math.nan)
    value = _median(signal_to_noise(moments)[live])
    again = _median(signal_to_noise(resampled, noises=2)[..., live])
    return _interval(value, again)


def mean_variance(
    moments: Moments, resampled: Moments, live: Bool[Tensor, " coordinates"]
) -> Interval:
    """The mean over the live coordinates of their variances; 0 if there are none."""
    if not live.any():
        return Interval(0.0, 0.0, 0.0, 0.0)
    return _interval(moments.variance[live].mean(), resampled.variance[:, live].mean(-1))


def _median(values: Float[Tensor, "*resamples coordinates"]) -> Float[Tensor, "*resamples"]:
    # Halfway between the two middle ones; torch.median takes the lower.
    return torch.quantile(values, 0.5, dim=-1)


def _interval(value: Tensor, resampled: Float[Tensor, " resamples"]) -> Interval:
    low, high = torch.quantile(resampled, resampled.new_tensor([0.025, 0.975])).tolist()
    return Interval(value.item(), resampled.std().item(), low, high)


@final
@dataclass(frozen=True)
class Bias:
    """Distance of a mean gradient from its reference, over the coordinates of a group.

    Attributes:
        rms: Root mean square over coordinates of mean - reference, in nats per unit of the
            parameter. Noise alone makes it about ``rms_error``.
        rms_error: Root mean square of the differences' standard errors; by the triangle inequality
            the rms differs from that of the true bias by no more, in root mean square.
        largest_z: The largest absolute z-score of a coordinate, with the sign of its bias.
        coordinate: Which coordinate that is.
    """

    rms: float
    rms_error: float
    largest_z: float
    coordinate: int


def compare_means(sample: Moments, reference: Moments, rounding: float) -> Bias:
    """The bias of a sample's mean against a reference's, each with its own standard error.

    Args:
        sample: Moments of the gradient.
        reference: Of the reference; an exact one has variance 0.
        rounding: Absolute error that floating-point arithmetic makes in a coordinate.
    """
    difference = sample.mean - reference.mean
    variance = sample.error.square() + reference.error.square()
    # Where both sides are 0 but for rounding, the variance is 0 too: rounding stands in.
    z = difference / (variance + rounding**2).sqrt()
    coordinate = int(z.abs().argmax())
    return Bias(
        rms=difference.square().mean().sqrt().item(),
        rms_error=variance.mean().sqrt().item(),
        largest_z=z[coordinate].item(),
        coordinate=coordinate,
    )


def largest_innocent_z(false_alarm: float, comparisons: int, degrees_of_freedom: int) -> float:
    """The size of z that any of so many unbiased comparisons passes with at most this probability.

    Bonferroni's share of the false alarms, under Student's t, as the errors are estimates too.
    """
    # In the lower tail: 1 minus a small share would round.
    return float(-scipy.special.stdtrit(degrees_of_freedom, false_alarm / (2 * comparisons)))


@final
@dataclass(frozen=True)
class Slope:
    """``log SNR = a + slope log K + c / K``, by weighted least squares over the largest K.

    Attributes:
        slope: The estimate.
        error: Its standard error, from the bootstrap errors of the ratios.
        particles: The K it was fitted over. Fewer than 4 leave out the term ``c / K``.
        lack_of_fit: Probability of residuals as large as these if the points lie on the curve; NaN
            where it passes through all points. A small one says that the K are too small for the
            asymptotic slope.
    """

    slope: float
    error: float
    particles: tuple[int, ...]
    lack_of_fit: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Normal confidence interval."""
        half = self.error * float(scipy.special.ndtri((1 + confidence) / 2))
        return self.slope - half, self.slope + half


def fit_slope(ratios: dict[int, Interval]) -> Slope | None:
    """Fit ``log SNR`` against ``log K`` over the four largest K whose ratios are resolved.

    The slopes of the theory hold as K grows. What small K add to the logarithm is of order 1/K, so
    the smallest are left out and the next order is fitted along; K = 1, where nothing is weighted,
    never counts. None if fewer than 2 ratios are resolved.
    """
    usable = {K: ratio for K, ratio in ratios.items() if ratio.resolved and ratio.error > 0}
    points = sorted(K for K in usable if K > 1)
    points = points[-_SLOPE_POINTS:]
    if len(points) < 2:
        return None
    K = torch.tensor(points, dtype=torch.float64)
    # The term c / K takes a point more than slope and intercept, and one to check the fit by.
    terms = [K.log(), torch.ones_like(K)] + ([1 / K] if len(points) > 3 else [])
    # Each equation is divided by its error, so that all have the variance 1.
    root = torch.tensor([ratios[k].value / ratios[k].error for k in points], dtype=torch.float64)
    design = torch.stack(terms, 1) * root.unsqueeze(1)
    observed = torch.tensor([ratios[k].value for k in points], dtype=torch.float64).log() * root
    covariance = torch.linalg.inv(design.T @ design)
    fitted = covariance @ design.T @ observed
    misfit = (observed - design @ fitted).square().sum().item()
    freedom = len(points) - len(terms)
    return Slope(
        slope=fitted[0].item(),
        error=covariance[0, 0].sqrt().item(),
        particles=tuple(points),
        lack_of_fit=float(scipy.special.chdtrc(freedom, misfit)) if freedom else math.nan,
    )
