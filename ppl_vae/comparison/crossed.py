"""The mean over seeds and data, both random, with its errors apart."""

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from scipy import stats
from torch import Tensor


@final
@dataclass(frozen=True)
class CrossedMean:
    """The mean of values over seeds and data, with its sources of error apart; all in nats.

    The values are taken as ``y_si = mu + seed_s + datum_i + rest_si``, with seeds and data both
    random and crossed. With the mean squares of the two-way analysis of variance,
    ``Var(mean) = (MS_seed + MS_datum - MS_rest) / (S N)``, and Satterthwaite's degrees of freedom.
    One seed says nothing of the seeds: ``Var(mean) = s^2 / N``, for that training run only.

    Attributes:
        mean: Over all seeds and data.
        error: Standard error of the mean, all sources joined.
        degrees_of_freedom: Of the error.
        seed_error: From the finite number of seeds; NaN with one seed.
        data_error: From the finite number of data, the Monte Carlo noise removed.
        monte_carlo_error: From the finite number of particles.
        seed_spread: Standard deviation over seeds of the per-seed means; NaN with one seed.
        per_seed: The per-seed means.

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

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student-t confidence interval of the mean."""
        half = self.error * float(stats.t.ppf(0.5 + confidence / 2, self.degrees_of_freedom))
        return self.mean - half, self.mean + half


def crossed_mean(
    values: Float[Tensor, "seeds data"], monte_carlo_variance: Float[Tensor, "seeds data"]
) -> CrossedMean:
    """Estimate the mean over seeds and data with its errors.

    Args:
        values: One value a seed and datum, in nats.
        monte_carlo_variance: The squared Monte Carlo standard error of each.

    Raises:
        ValueError: If there are fewer than 2 data.
    """
    values = values.double()
    num_seeds, num_data = values.shape
    if num_data < 2:
        raise ValueError(f"a comparison needs at least 2 data, got {num_data}.")
    cells = num_seeds * num_data
    mean, seed_means, datum_means = values.mean(), values.mean(1), values.mean(0)
    datum_ms = num_seeds * datum_means.var().item()
    if num_seeds == 1:
        seed_ms = rest_ms = 0.0
    else:
        seed_ms = num_data * seed_means.var().item()
        rest = values - seed_means[:, None] - datum_means[None, :] + mean
        rest_ms = rest.square().sum().item() / ((num_seeds - 1) * (num_data - 1))
    # By chance the difference can fall below one of its parts, which no variance here can.
    mean_square = max(seed_ms + datum_ms - rest_ms, seed_ms, datum_ms)
    monte_carlo_ms = monte_carlo_variance.double().mean().item()
    return CrossedMean(
        mean=mean.item(),
        error=math.sqrt(mean_square / cells),
        degrees_of_freedom=_satterthwaite(seed_ms, datum_ms, rest_ms, num_seeds, num_data),
        seed_error=_root((seed_ms - rest_ms) / cells) if num_seeds > 1 else math.nan,
        data_error=_root((datum_ms - max(rest_ms, monte_carlo_ms)) / cells),
        monte_carlo_error=math.sqrt(monte_carlo_ms / cells),
        seed_spread=seed_means.std().item() if num_seeds > 1 else math.nan,
        per_seed=tuple(seed_means.tolist()),
    )


def _satterthwaite(
    seed_ms: float, datum_ms: float, rest_ms: float, num_seeds: int, num_data: int
) -> float:
    total = max(seed_ms + datum_ms - rest_ms, seed_ms, datum_ms)
    if total == 0:
        return float(num_data - 1)
    # Shares, not squares: values that agree to rounding would underflow.
    inverse = (datum_ms / total) ** 2 / (num_data - 1)
    if num_seeds > 1:
        inverse += (seed_ms / total) ** 2 / (num_seeds - 1)
        inverse += (rest_ms / total) ** 2 / ((num_seeds - 1) * (num_data - 1))
    return 1 / inverse


def _root(value: float) -> float:
    return math.sqrt(max(0.0, value))
