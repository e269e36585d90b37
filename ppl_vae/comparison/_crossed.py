"""The mean over seeds and data, both random, with its errors apart."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import final

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ppl_vae.comparison._confidence import ConfidenceDistribution
from ppl_vae.comparison._mean_squares import MeanSquares, mean_squares


@final
@dataclass(frozen=True)
class Squares:
    """The numbers of :class:`~ppl_vae.comparison._mean_squares.MeanSquares` for one mean."""

    mean: float
    seed: float
    datum: float
    rest: float
    third_cumulant: float
    num_seeds: float
    num_data: float


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
        squares: The mean squares that all of this and the intervals come from.

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
    squares: Squares

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The interval that holds its level; see :mod:`ppl_vae.comparison._confidence`."""
        ((low,), (high,)) = ConfidenceDistribution(stack([self])).interval(confidence)
        return float(low), float(high)

    def t_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student-t interval with Satterthwaite's degrees of freedom: too narrow for few seeds."""
        half = self.error * float(stats.t.ppf(0.5 + confidence / 2, self.degrees_of_freedom))
        return self.mean - half, self.mean + half


def stack(means: Sequence[CrossedMean]) -> MeanSquares:
    """The mean squares of many means, for what takes them all at once."""
    rows = np.array([astuple(mean.squares) for mean in means]).reshape(-1, len(fields(Squares)))
    return MeanSquares(*rows.T)


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
    num_seeds, num_data = values.shape
    require_two_data(num_data)
    cells = num_seeds * num_data
    found = mean_squares(values.double().numpy())
    squares = Squares(*(float(value) for value in vars(found).values()))
    # By chance the difference can fall below one of its parts, which no variance here can.
    mean_square = max(squares.seed + squares.datum - squares.rest, squares.seed, squares.datum)
    monte_carlo_ms = monte_carlo_variance.double().mean().item()
    seed_means = values.double().mean(1)
    return CrossedMean(
        mean=squares.mean,
        error=math.sqrt(mean_square / cells),
        degrees_of_freedom=_satterthwaite(squares, mean_square),
        seed_error=_root((squares.seed - squares.rest) / cells) if num_seeds > 1 else math.nan,
        data_error=_root((squares.datum - max(squares.rest, monte_carlo_ms)) / cells),
        monte_carlo_error=math.sqrt(monte_carlo_ms / cells),
        seed_spread=seed_means.std().item() if num_seeds > 1 else math.nan,
        per_seed=tuple(seed_means.tolist()),
        squares=squares,
    )


def require_two_data(num_data: int) -> None:
    """Raise ValueError where there are too few data for a spread over them."""
    if num_data < 2:
        raise ValueError(f"a comparison needs at least 2 data, got {num_data}.")


def _satterthwaite(squares: Squares, total: float) -> float:
    num_seeds, num_data = squares.num_seeds, squares.num_data
    if total == 0:
        return num_data - 1
    # Shares, not squares: values that agree to rounding would underflow.
    inverse = (squares.datum / total) ** 2 / (num_data - 1)
    if num_seeds > 1:
        inverse += (squares.seed / total) ** 2 / (num_seeds - 1)
        inverse += (squares.rest / total) ** 2 / ((num_seeds - 1) * (num_data - 1))
    return 1 / inverse


def _root(value: float) -> float:
    return math.sqrt(max(0.0, value))
