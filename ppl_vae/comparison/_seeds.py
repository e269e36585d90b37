"""Training runs as draws from a population: their spread, and how many more are needed."""

import bisect
import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import optimize, stats

from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._confidence import MeanSquares, mean_squares
from ppl_vae.comparison._crossed import CrossedMean

POWER = 0.8
MOST_SEEDS = 10_000

_NODES = (np.arange(200) + 0.5) / 200


@final
@dataclass(frozen=True)
class RandomEffects:
    """Model of per-seed means, ``mean_s ~ N(mu, tau^2 + v_s)``, on these data, in nats per datum.

    Attributes:
        mean: Mean of all training runs like these, on these data.
        error: Standard error of the mean (Hartung and Knapp).
        tau: Standard deviation over training runs, beyond Monte Carlo and data-sampling noise.
        i_squared: Share of the spread of the per-seed means that tau accounts for, 0 to 1.
        interval: Interval of the mean, for these data;
            :class:`~ppl_vae.comparison.CrossedMean` has the one for new data.
        prediction_interval: Interval of the mean log p(x) of one new training run on these data.
        num_seeds: Number of training runs.
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
    spread_of_means = float(means.var(ddof=1))
    # Without a spread the floor of the noise below is 0, and weights could be infinite.
    if spread_of_means == 0:
        value = float(means[0])
        return RandomEffects(value, 0.0, 0.0, 0.0, (value, value), (value, value), num_seeds)
    # Noise far below the spread would make weights that differ by rounding alone.
    noise = np.maximum(_noise(cells), 1e-6 * spread_of_means)

    def heterogeneity(tau_squared: float) -> float:
        """Cochran's Q: squared distances to the weighted mean, in units of their variances."""
        weights = 1 / (noise + tau_squared)
        return float((weights * (means - np.average(means, weights=weights)) ** 2).sum())

    alone = heterogeneity(0.0)
    excess, tau = alone - (num_seeds - 1), 0.0
    if excess > 0:
        # Q falls in tau^2, and is below S - 1 where tau^2 alone is more than the whole spread.
        most = num_seeds * spread_of_means
        tau = math.sqrt(optimize.brentq(lambda t: heterogeneity(t) - (num_seeds - 1), 0.0, most))
    weights = 1 / (noise + tau**2)
    center = float(np.average(means, weights=weights))
    # Hartung and Knapp's factor Q / (S - 1) is 1 unless tau is cut off at 0.
    error = math.sqrt(heterogeneity(tau**2) / (num_seeds - 1) / float(weights.sum()))
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


def _noise(cells: Cells) -> np.ndarray:
    """Estimate the variance of each seed's mean that one model on these data would show."""
    monte_carlo = cells.monte_carlo_variance.mean(1).numpy()
    rest = float(mean_squares(cells.values.numpy()).rest)
    # The rest holds the Monte Carlo noise already: it is not counted twice.
    extra = max(0.0, rest - float(monte_carlo.mean()))
    return np.asarray((monte_carlo + extra) / cells.values.shape[1])


@final
@dataclass(frozen=True)
class Power:
    """Seeds or data needed to show a difference as large as the estimated one, with 80% power.

    Attributes:
        more_seeds: Training runs of each arm, beyond those there are; 0 where the difference is
            shown already; None where no number of seeds can, or it is not known.
        more_data: At least so many more data, and infinitely many seeds, where no number of seeds
            can on these data, and more data can; else None.
        floor: Standard error that the finite test set leaves with any number of seeds, in nats.
        power_now: Probability that a new study of this size shows the difference.
        text: Plan in words.
    """

    more_seeds: int | None
    more_data: int | None
    floor: float
    power_now: float
    text: str


def power_of(
    difference: CrossedMean, level: float, *, shown: bool, hidden_by: str | None = None
) -> Power:
    """Plan further seeds from the variance components of a difference.

    ``Var(mean) = (v_seed + v_rest / N) / S + v_datum / N``; see :func:`power`. The estimated
    difference is taken for the true one: a plan, no finding.

    Args:
        difference: Estimated difference.
        level: Level of the two-sided test, multiplicity accounted for.
        shown: Whether it is called real already.
        hidden_by: Arm whose log p(x) may be low by more than the difference: no seeds and no data
            show it then. None: there is none.

    References:
        Banerjee, 1960, Approximate confidence interval for linear functions of means of k
        populations when the population variances are not equal.
        Hoenig and Heisey, 2001, The abuse of power.
    """
    squares, effect = difference.squares, abs(difference.mean)
    num_seeds, num_data = int(squares.num_seeds), int(squares.num_data)
    datum_variance = _datum_variance(squares)
    floor = math.sqrt(datum_variance / num_data)
    if hidden_by is not None:
        words = (
            f"no number of seeds can: {hidden_by} may be low by more than the difference; estimate "
            "its log p(x) better"
        )
        return Power(None, None, floor, 0.0, words)
    if num_seeds < 2:
        words = "one seed says nothing of how training runs differ: run 3 or more"
        return Power(0 if shown else None, None, floor, math.nan, "" if shown else words)
    now = power(squares, effect, num_seeds, level)
    if shown:
        return Power(0, None, floor, now, "")
    if power(squares, effect, MOST_SEEDS, level) >= POWER:
        # Power rises with the number of seeds: bisection finds the first count that suffices.
        counts = range(num_seeds + 1, MOST_SEEDS + 1)
        place = bisect.bisect_left(counts, POWER, key=lambda s: power(squares, effect, s, level))
        more = counts[place] - num_seeds
        return Power(more, None, floor, now, f"about {more} more seed(s) of each")
    if effect == 0:
        return Power(None, None, floor, now, "no number of seeds can: the difference is 0")
    # With infinitely many seeds the data alone make the error, which many data make normal.
    reach = float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER))
    more = max(1, math.ceil(datum_variance * (reach / effect) ** 2) - num_data)
    words = (
        f"no number of seeds can: the finite test set alone leaves an error of {floor:.2g}; it "
        f"would take at least {more:,} more data, and that with infinitely many seeds"
    )
    return Power(None, more, floor, now, words)


def power(squares: MeanSquares, effect: float, num_seeds: int, level: float) -> float:
    """Compute the probability that a study with so many seeds shows a difference of this size.

    The interval's half width is taken as ``sqrt(t_(S-1)^2 V_seed + t_(N-1)^2 V_data)``, which that
    of ``comparison/_confidence.py`` is close to (Banerjee 1960), and averaged over V_seed:
    where seeds alone matter this is the noncentral t.
    """
    num_data, rest = float(squares.num_data), float(squares.rest)
    seed_variance = max(0.0, float(squares.seed) - rest) / num_data
    of_seeds = (seed_variance + rest / num_data) / num_seeds
    of_data = _datum_variance(squares) / num_data
    error = math.sqrt(of_seeds + of_data)
    if error == 0:
        return 1.0 if effect > 0 else level
    # At quantiles of the chi-square distribution: a sum without random numbers.
    estimated = of_seeds * stats.chi2.ppf(_NODES, num_seeds - 1) / (num_seeds - 1)
    of_seeds_t, of_data_t = (float(stats.t.isf(level / 2, n - 1)) for n in (num_seeds, num_data))
    half = np.sqrt(of_seeds_t**2 * estimated + of_data_t**2 * of_data)
    beyond = stats.norm.sf((half - effect) / error) + stats.norm.cdf((-half - effect) / error)
    return float(beyond.mean())


def _datum_variance(squares: MeanSquares) -> float:
    return max(0.0, float(squares.datum) - float(squares.rest)) / float(squares.num_seeds)
