"""The two-way analysis of variance of values over seeds and data."""

from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
from jaxtyping import Float

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@final
@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of ``y_si = mu + seed_s + datum_i + rest_si``, for any number of cases at once.

    ``E MS_seed = N v_seed + v_rest``, ``E MS_datum = S v_datum + v_rest``, ``E MS_rest = v_rest``.
    With one seed, MS_seed and MS_rest are 0: nothing is known of them.

    Attributes:
        mean: Over all seeds and data.
        seed, datum, rest: The mean squares.
        third_cumulant: Of the mean over data, the seeds held fixed: what makes its distribution
            skewed.
        num_seeds, num_data: S and N of each case.
    """

    mean: Float[Array, "*cases"]
    seed: Float[Array, "*cases"]
    datum: Float[Array, "*cases"]
    rest: Float[Array, "*cases"]
    third_cumulant: Float[Array, "*cases"]
    num_seeds: Float[Array, "*cases"]
    num_data: Float[Array, "*cases"]

    @property
    def seed_variance(self) -> Float[Array, "*cases"]:
        """``MS_seed / (S N)``: of the mean, from seeds and the rest."""
        return np.asarray(self.seed / (self.num_seeds * self.num_data))

    @property
    def data_variance(self) -> Float[Array, "*cases"]:
        """``(MS_datum - MS_rest)+ / (S N)``: of the mean, from data alone."""
        share = np.maximum(self.datum - self.rest, 0.0)
        return np.asarray(share / (self.num_seeds * self.num_data))


def mean_squares(values: Float[Array, "*cases seeds data"]) -> MeanSquares:
    """Split the spread of values into seeds, data and the rest.

    Args:
        values: One value a seed and datum; at least 2 data.

    References:
        Searle, Casella and McCulloch, 1992, Variance components, chapter 4.
    """
    num_seeds, num_data = values.shape[-2:]
    mean = values.mean((-2, -1))
    seed_means, datum_means = values.mean(-1), values.mean(-2)
    deviation = datum_means - mean[..., None]
    datum = num_seeds * (deviation**2).sum(-1) / (num_data - 1)
    if num_seeds == 1:
        seed, rest = np.zeros_like(mean), np.zeros_like(mean)
    else:
        seed = num_data * seed_means.var(-1, ddof=1)
        left = values - seed_means[..., None] - deviation[..., None, :]
        rest = np.einsum("...sn,...sn->...", left, left) / ((num_seeds - 1) * (num_data - 1))
    # Unbiased third cumulant of one datum's mean, over N^2 for the mean of N.
    third = (deviation**3).sum(-1) / (num_data * max(num_data - 1, 1) * max(num_data - 2, 1))
    counts = np.full_like(mean, num_seeds), np.full_like(mean, num_data)
    return MeanSquares(*(np.asarray(each) for each in (mean, seed, datum, rest, third, *counts)))
