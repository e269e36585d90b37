"""Training runs as draws from a population: how much they differ, and what a new one may be."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from ppl_vae.comparison.cells import Cells
from ppl_vae.comparison.mean_squares import mean_squares


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
    # In units of the spread: the iteration has an absolute tolerance, and divides by the noise.
    unit = float(means.std(ddof=1))
    if unit == 0:
        value = float(means[0])
        return RandomEffects(value, 0.0, 0.0, 0.0, (value, value), (value, value), num_seeds)
    scaled = np.maximum(noise / unit**2, 1e-6)
    fit = combine_effects((means - means.mean()) / unit, scaled, method_re="iterated", use_t=True)
    center = float(means.mean() + unit * fit.mean_effect_re)
    error = unit * float(fit.sd_eff_w_re_hksj)
    tau = unit * math.sqrt(fit.tau2)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, num_seeds - 1))
    spread = quantile * math.sqrt(tau**2 + float(noise.mean()) + error**2)
    half = quantile * error
    return RandomEffects(
        mean=center,
        error=error,
        tau=tau,
        i_squared=max(0.0, float(fit.i2)),
        interval=(center - half, center + half),
        prediction_interval=(center - spread, center + spread),
        num_seeds=num_seeds,
    )


def _noise(cells: Cells) -> np.ndarray:
    """Variance of each seed's mean that the same model on the same data would show."""
    monte_carlo = cells.monte_carlo_variance.mean(1).numpy()
    rest = float(mean_squares(cells.values.numpy()).rest)
    extra = max(0.0, rest - float(monte_carlo.mean()))
    return np.asarray((monte_carlo + extra) / cells.values.shape[1])
