"""Analysis of variance, and the confidence distribution of a mean over few seeds and many data.

The bootstrap over seeds and data in closed form, its small-sample errors corrected. Few seeds say
little of how much seeds matter, so that the variance from seeds is itself uncertain, as in
Student's t; the many data determine theirs well, but are skewed:

    mu = mean - T sqrt(V_seed + V_data),  V_data = (MS_datum - MS_rest)+ / (S N),
    V_seed = MS_seed / (S N w),  w ~ chi2(S - 1) / (S - 1) times 1 + 0.15 V_data / V_seed,

with T normal (Student-t where the data are few) after Hall's transformation for skewness. Without
the last factor this is the Behrens-Fisher distribution, which never covers too little, but up to
98.8% at S = 2 and 97.7% at S = 3 where 95% is stated. Satterthwaite's approximation covers down to
87% at S = 2 and 92% at S = 3. The factor, chosen for that, gives 93.6 to 97% at S = 2, 94.9 to
96.6% at S = 3 and nearer to 95% with more (for many normal data, by quadrature). It is for one
statement; where several are made at once, levels are far smaller, where no method is calibrated for
two or three seeds, and Behrens-Fisher is taken (``cautious``). ``benchmarks/coverage.py`` measures
all of them.

References:
    Fisher, 1935, The fiducial argument in statistical inference.
    Hall, 1992, On the removal of skewness by transformation.
    Owen, 2007, The pigeonhole bootstrap.
    Hannig, Iyer, Lai and Lee, 2016, Generalized fiducial inference: a review and new results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
from jaxtyping import Float
from scipy import special, stats
from scipy.optimize import elementwise

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_NODES = np.linspace(0.0, 1.0, 128)
_BEYOND = 1e-13
"""Probability of each tail of w that the integral leaves out."""
_TINY = 1e-200
_CALIBRATED = 0.15
"""Constant c of the factor 1 + c V_data / V_seed whose coverage of 95% is nearest for S = 2."""


@final
@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of ``y_si = mu + seed_s + datum_i + rest_si``, for any number of cases at once.

    ``E MS_seed = N v_seed + v_rest``, ``E MS_datum = S v_datum + v_rest``, ``E MS_rest = v_rest``.
    With one seed, MS_seed and MS_rest are 0: nothing is known of them.

    Attributes:
        mean: Mean over all seeds and data.
        seed: Mean square of the seeds.
        datum: Mean square of the data.
        rest: Mean square of what is left.
        third_cumulant: Third cumulant of the mean over data, given the seeds: the source of its
            skewness.
        num_seeds: Number of seeds S of each case.
        num_data: Number of data N of each case.
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
        """Variance of the mean from seeds and the rest, ``MS_seed / (S N)``."""
        return np.asarray(self.seed / (self.num_seeds * self.num_data))

    @property
    def data_variance(self) -> Float[Array, "*cases"]:
        """Variance of the mean from data alone, ``(MS_datum - MS_rest)+ / (S N)``."""
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
        # Residuals: a difference of sums of squares would lose digits where data effects are large.
        left = values - seed_means[..., None] - deviation[..., None, :]
        rest = np.einsum("...sn,...sn->...", left, left) / ((num_seeds - 1) * (num_data - 1))
    # Unbiased third cumulant of one datum's mean, over N^2 for the mean of N.
    third = (deviation**3).sum(-1) / (num_data * max(num_data - 1, 1) * max(num_data - 2, 1))
    counts = np.full_like(mean, num_seeds), np.full_like(mean, num_data)
    return MeanSquares(*(np.asarray(each) for each in (mean, seed, datum, rest, third, *counts)))


@final
@dataclass(frozen=True)
class ConfidenceDistribution:
    """Confidence distribution of means, elementwise; see the module.

    Attributes:
        squares: Mean squares of the values of each mean.
        cautious: Whether to cover enough at every level (Behrens-Fisher); else calibrated at 95%.
    """

    squares: MeanSquares
    cautious: bool = False

    def interval(self, confidence: float) -> tuple[Float[Array, "*cases"], Float[Array, "*cases"]]:
        """Compute lower and upper ends of equal-tailed intervals."""
        tail = (1 - confidence) / 2
        return self._end(tail, sign=-1.0), self._end(tail, sign=1.0)

    def p_value(self, value: float = 0.0) -> Float[Array, "*cases"]:
        """Compute two-sided p-values: the interval of confidence 1 - p just reaches the value."""
        distance = np.ravel(value - self.squares.mean)
        cases = np.arange(distance.size)
        below, above = (self._tail(sign)(distance, cases) for sign in (-1.0, 1.0))
        p = np.minimum(2 * np.minimum(below, above), 1.0)
        return np.asarray(p.reshape(self.squares.mean.shape))

    def _end(self, tail: float, sign: float) -> Float[Array, "*cases"]:
        scale = np.sqrt(self.squares.seed_variance + self.squares.data_variance + _TINY)
        flat, beyond = scale.ravel(), self._tail(sign)

        def excess(position: Array, cases: Any) -> Array:
            return beyond(flat[cases] * np.sinh(position), cases) - tail

        # Tails are heavy with few seeds: the root is sought on a logarithmic scale. Cases that have
        # converged are dropped from the calls: the others are known by their index.
        root = elementwise.find_root(
            excess, (-60.0, 60.0), args=(np.arange(flat.size),), tolerances={"xatol": 1e-9}
        )
        return np.asarray(self.squares.mean + scale * np.sinh(root.x.reshape(scale.shape)))

    def _tail(self, sign: float) -> Callable[[Array, Any], Array]:
        """Make the confidence that mu is beyond mean + distance, above it for sign 1.

        Returns:
            A function of distances and of the indices of their cases: an integral over log w.
        """
        squares = self.squares
        seed, data, third, num_seeds, num_data = (
            array.reshape(-1, 1)
            for array in (
                squares.seed_variance, squares.data_variance, squares.third_cumulant,
                squares.num_seeds, squares.num_data,
            )
        )  # fmt: skip
        freedom = np.maximum(num_seeds - 1, 1)
        low = np.log(stats.chi2.ppf(_BEYOND, freedom) / freedom)
        high = np.log(stats.chi2.isf(_BEYOND, freedom) / freedom)
        log_w = low + (high - low) * _NODES
        from_seeds = seed * np.exp(-log_w)
        variance = np.maximum(from_seeds + data, _TINY)
        # The density of log w up to a factor, 1 at its mode: no gamma function, no overflow.
        weight = np.exp(freedom / 2 * (1 + log_w - np.exp(log_w)))
        if not self.cautious:
            weight = weight * (1 + _CALIBRATED * data / np.maximum(from_seeds, _TINY))
        skewness = np.clip(third / variance**1.5, -1.0, 1.0)
        # Data alone have t with N - 1 degrees; the less they contribute, the nearer to normal.
        degrees = (num_data - 1) * (variance / np.maximum(data, 1e-6 * variance)) ** 2

        def tail(distance: Array, cases: Any) -> Array:
            t, g = -distance[..., None] / np.sqrt(variance[cases]), skewness[cases]
            # Hall's monotone cubic: nearer to normal than t, whose numerator has this skewness.
            t = np.asarray(t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6)
            below = special.stdtr(degrees[cases], sign * t)
            return np.asarray((weight[cases] * below).sum(-1) / weight[cases].sum(-1))

        return tail
