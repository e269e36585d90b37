"""Mean over random seeds and random data, with its sources of error, and tests of several."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import final

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ppl_vae.comparison._confidence import ConfidenceDistribution, MeanSquares, mean_squares
from ppl_vae.evidence import MeanDoubt


@final
@dataclass(frozen=True)
class CrossedMean:
    """Mean of values over seeds and data, with its sources of error apart; all in nats.

    The values are taken as ``y_si = mu + seed_s + datum_i + rest_si``, with seeds and data both
    random and crossed. With the mean squares of the two-way analysis of variance,
    ``Var(mean) = (MS_seed + MS_datum - MS_rest) / (S N)``, and Satterthwaite's degrees of freedom.
    One seed says nothing of the seeds: ``Var(mean) = s^2 / N``, for that training run only.

    Attributes:
        mean: Mean over all seeds and data.
        error: Standard error of the mean, all sources joined.
        degrees_of_freedom: Degrees of freedom of the error.
        seed_error: Error from the finite number of seeds; NaN with one seed.
        data_error: Error from the finite number of data, the Monte Carlo noise removed.
        monte_carlo_error: Error from the finite number of particles.
        seed_spread: Standard deviation over seeds of the per-seed means; NaN with one seed.
        per_seed: Means of each seed.
        squares: Mean squares that all of this and the intervals come from.

    References:
        Satterthwaite, 1946, An approximate distribution of estimates of variance components.
        Searle, Casella and McCulloch, 1992, Variance components, chapter 4.
    """

    mean: float
    error: float
    degrees_of_freedom: float
    seed_error: float
    data_error: float
    monte_carlo_error: float
    seed_spread: float
    per_seed: tuple[float, ...]
    squares: MeanSquares

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Compute the interval that holds its level, calibrated by simulation."""
        ((low,), (high,)) = ConfidenceDistribution(stack([self])).interval(confidence)
        return float(low), float(high)

    def t_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Compute Satterthwaite's Student-t interval, which is too narrow for few seeds."""
        half = self.error * float(stats.t.ppf(0.5 + confidence / 2, self.degrees_of_freedom))
        return self.mean - half, self.mean + half


def stack(means: Sequence[CrossedMean]) -> MeanSquares:
    """Stack the mean squares of many means, so that their intervals are found in one call."""
    names = [field.name for field in fields(MeanSquares)]
    return MeanSquares(*(np.array([getattr(m.squares, name) for m in means]) for name in names))


def crossed_mean(
    values: Float[Tensor, "seeds data"], monte_carlo_variance: Float[Tensor, "seeds data"]
) -> CrossedMean:
    """Estimate the mean over seeds and data with its errors.

    Args:
        values: One value a seed and datum, in nats.
        monte_carlo_variance: Squared Monte Carlo standard error of each.

    Raises:
        ValueError: If there are fewer than 2 data.
    """
    num_seeds, num_data = values.shape
    require_two_data(num_data)
    cells = num_seeds * num_data
    squares = mean_squares(values.double().numpy())
    seed, datum, rest = (float(each) for each in (squares.seed, squares.datum, squares.rest))
    # By chance the sum can fall below one of its terms, which no variance of the mean can.
    total = max(seed + datum - rest, seed, datum)
    freedom = float(num_data - 1)
    if total > 0:
        # Shares, not squares: values that agree to rounding would underflow.
        inverse = (datum / total) ** 2 / (num_data - 1)
        if num_seeds > 1:
            inverse += (seed / total) ** 2 / (num_seeds - 1)
            inverse += (rest / total) ** 2 / ((num_seeds - 1) * (num_data - 1))
        freedom = 1 / inverse
    monte_carlo = monte_carlo_variance.double().mean().item()
    seed_means = values.double().mean(1)
    return CrossedMean(
        mean=float(squares.mean),
        error=math.sqrt(total / cells),
        degrees_of_freedom=freedom,
        seed_error=math.sqrt(max(0.0, (seed - rest) / cells)) if num_seeds > 1 else math.nan,
        # The rest holds the Monte Carlo noise; with one seed no more is known of the rest.
        data_error=math.sqrt(max(0.0, (datum - max(rest, monte_carlo)) / cells)),
        monte_carlo_error=math.sqrt(monte_carlo / cells),
        seed_spread=seed_means.std().item() if num_seeds > 1 else math.nan,
        per_seed=tuple(seed_means.tolist()),
        squares=squares,
    )


def require_two_data(num_data: int) -> None:
    """Raise ValueError where there are too few data for a spread over them."""
    if num_data < 2:
        raise ValueError(f"a comparison needs at least 2 data, got {num_data}.")


@final
@dataclass(frozen=True)
class PairedTest:
    """Test of one paired difference among several.

    Attributes:
        interval: Interval of this difference alone, at the comparison's confidence.
        simultaneous: Interval that holds together with all others at the confidence (Bonferroni).
        p_value: Two-sided p-value of no difference, for this one alone, by sampling alone: what an
            arm may be low by widens the intervals and not this.
        adjusted_p: Bonferroni's p-value, ``min(1, m p)``; the simultaneous interval of confidence
            1 - adjusted_p just reaches 0, before the doubt widens it.
        num_seeds: Number of seeds that both arms have.
    """

    interval: tuple[float, float]
    simultaneous: tuple[float, float]
    p_value: float
    adjusted_p: float
    num_seeds: int

    @property
    def shown(self) -> bool:
        """Whether the simultaneous interval excludes 0, so that the difference is called real."""
        low, high = self.simultaneous
        return low > 0 or high < 0

    def widened(self, doubt: MeanDoubt, mean: float) -> "PairedTest":
        """The test with intervals that hold the doubt of the difference; p-values stay."""
        interval, simultaneous = (
            doubt.widened(mean, *ends) for ends in (self.interval, self.simultaneous)
        )
        return replace(self, interval=interval, simultaneous=simultaneous)

    def verdict(self, pair: tuple[str, str]) -> str:
        """Say which of the two compared is higher, if the difference is real."""
        if not self.shown:
            return "no difference shown"
        return f"{pair[0] if self.simultaneous[0] > 0 else pair[1]} higher"


def paired_tests(differences: Sequence[CrossedMean], confidence: float) -> list[PairedTest]:
    """Test each difference, and all of them together.

    One difference alone is tested as ``comparison/_confidence.py`` calibrates it; several,
    at far smaller levels, by its cautious form. Intervals and verdicts are one procedure: Holm's
    steps would call more differences real, but with no interval that both shows it and holds
    together with the others.

    Args:
        differences: Differences, one or more.
        confidence: Confidence of each interval, and of all simultaneous ones together.

    References:
        Guilbaud, 2008, Simultaneous confidence regions corresponding to Holm's step-down procedure
        and other closed-testing procedures.
    """
    if not differences:
        return []
    squares, count = stack(differences), len(differences)
    alone = ConfidenceDistribution(squares)
    # The factor is calibrated at 95%: at Bonferroni's levels two seeds would miss theirs.
    together = ConfidenceDistribution(squares, cautious=count > 1)
    adjusted = np.minimum(count * together.p_value(), 1.0)
    lows, highs = (ends.tolist() for ends in alone.interval(confidence))
    lowest, highest = (ends.tolist() for ends in together.interval(1 - (1 - confidence) / count))
    return [
        PairedTest(ends, all_ends, p, adjusted_p, len(mean.per_seed))
        for ends, all_ends, p, adjusted_p, mean in zip(
            zip(lows, highs, strict=True),
            zip(lowest, highest, strict=True),
            alone.p_value().tolist(),
            adjusted.tolist(),
            differences,
            strict=True,
        )
    ]
