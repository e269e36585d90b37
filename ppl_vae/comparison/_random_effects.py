"""Training runs as draws from a population: how much they differ, and what a new one may be."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import optimize, stats

from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._mean_squares import mean_squares


@final
@dataclass(frozen=True)
class RandomEffects:
    """Per-seed means as ``mean_s ~ N(mu, tau^2 + v_s)`` on these very data, in nats per datum.

    Attributes:
        mean: Of all training runs like these, on these data.
        error: Its standard error (Hartung and Knapp).
        tau: Standard deviation over training runs, beyond Monte Carlo and data-sampling noise.
        i_squared: Share of the spread of the per-seed means that tau accounts for, 0 to 1.
        interval: Of the mean, for these data; :class:`~ppl_vae.comparison.CrossedMean` has the one
            for new data.
        prediction_interval: Of the mean log p(x) of one new training run on these data.
        num_seeds: The runs it rests on.
    """

    mean: float
    error: float
    tau: float
    i_squared: float
    interval: tuple[float, float]
    prediction_interval: tuple[float, float]
    num_seeds: int


def random_effects(cells: Cells, confidence: float) -> RandomEffects | None:
    """Fit the model by Paule and Mandel's tau and Hartung and Knapp's interval.

    The noise of a per-seed mean is ``v_s = (m_s + (MS_rest - m)+) / N``, with ``m_s`` the mean
    Monte Carlo variance of its log p(x) and ``m`` the mean over seeds: the data themselves are the
    same for all seeds, and move none against another. Intervals are Student-t with S - 1 degrees of
    freedom; for equal ``v_s`` and tau above 0 both are exact.

    Returns:
        None where there is but one seed.

    References:
        Paule and Mandel, 1982, Consensus values and weighting factors.
        Hartung and Knapp, 2001, A refined method for the meta-analysis of controlled clinical
        trials with binary outcome.
        Higgins, Thompson and Spiegelhalter, 2009, A re-evaluation of random-effects meta-analysis.
    """
    num_seeds = len(cells.seeds)
    if num_seeds < 2:
        return None
    means = cells.values.mean(1).numpy()
    noise = _noise(cells)
    spread_of_means = float(means.var(ddof=1))
    if spread_of_means == 0:
        value = float(means[0])
        return RandomEffects(value, 0.0, 0.0, 0.0, (value, value), (value, value), num_seeds)
    noise = np.maximum(noise, 1e-6 * spread_of_means)
    alone = _heterogeneity(0.0, means, noise)
    # Falls in tau^2, and is below S - 1 where tau^2 alone is more than the whole spread.
    excess = alone - (num_seeds - 1)
    tau = 0.0
    if excess > 0:
        most = num_seeds * spread_of_means
        tau = math.sqrt(
            optimize.brentq(lambda t: _heterogeneity(t, means, noise) - (num_seeds - 1), 0.0, most)
        )
    weights = 1 / (noise + tau**2)
    center = float(np.average(means, weights=weights))
    error = math.sqrt(_heterogeneity(tau**2, means, noise) / (num_seeds - 1) / float(weights.sum()))
    quantile = float(stats.t.ppf(0.5 + confidence / 2, num_seeds - 1))
    spread = quantile * math.sqrt(tau**2 + float(noise.mean()) + error**2)
    half = quantile * error
    return RandomEffects(
        mean=center,
        error=error,
        tau=tau,
        i_squared=max(0.0, excess / alone) if alone > 0 else 0.0,
        interval=(center - half, center + half),
        prediction_interval=(center - spread, center + spread),
        num_seeds=num_seeds,
    )


def _heterogeneity(tau_squared: float, means: np.ndarray, noise: np.ndarray) -> float:
    """Cochran's Q: squared distances to the weighted mean, in units of their variances."""
    weights = 1 / (noise + tau_squared)
    return float((weights * (means - np.average(means, weights=weights)) ** 2).sum())


def _noise(cells: Cells) -> np.ndarray:
    """Variance of each seed's mean that the same model on the same data would show."""
    monte_carlo = cells.monte_carlo_variance.mean(1).numpy()
    rest = float(mean_squares(cells.values.numpy()).rest)
    extra = max(0.0, rest - float(monte_carlo.mean()))
    return np.asarray((monte_carlo + extra) / cells.values.shape[1])
