"""How many more seeds would separate two arms."""

import bisect
import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import stats

from ppl_vae.comparison._crossed import CrossedMean, Squares

POWER = 0.8
MOST_SEEDS = 10_000

_NODES = (np.arange(200) + 0.5) / 200


@final
@dataclass(frozen=True)
class Power:
    """What it would take to show a difference as large as the estimated one, with 80% power.

    Attributes:
        more_seeds: Training runs of each arm, beyond those there are; 0 where the difference is
            shown already; None where no number of seeds can, or it is not known.
        more_data: At least so many more data, and infinitely many seeds, where no number of seeds
            can on these data; else None.
        floor: Standard error that the finite test set leaves with any number of seeds, in nats.
        power_now: Probability that a new study of this size shows the difference.
        text: In words.
    """

    more_seeds: int | None
    more_data: int | None
    floor: float
    power_now: float
    text: str


def power_of(difference: CrossedMean, level: float, *, shown: bool) -> Power:
    """Plan further seeds from the variance components of a difference.

    ``Var(mean) = (v_seed + v_rest / N) / S + v_datum / N``; see :func:`power`. The estimated
    difference is taken for the true one: a plan, no finding.

    Args:
        difference: Estimated.
        level: Of the two-sided test, multiplicity accounted for.
        shown: Whether it is called real already.

    References:
        Banerjee, 1960, Approximate confidence interval for linear functions of means of k
        populations when the population variances are not equal.
        Hoenig and Heisey, 2001, The abuse of power.
    """
    squares, effect = difference.squares, abs(difference.mean)
    num_seeds, num_data = int(squares.num_seeds), int(squares.num_data)
    floor = math.sqrt(_datum_variance(squares) / num_data)
    if num_seeds < 2:
        words = "one seed says nothing of how training runs differ: run 3 or more"
        return Power(0 if shown else None, None, floor, math.nan, "" if shown else words)
    now = power(squares, effect, num_seeds, level)
    if shown:
        return Power(0, None, floor, now, "")
    if power(squares, effect, MOST_SEEDS, level) < POWER:
        return _data_needed(squares, effect, level, floor, now)
    counts = range(num_seeds + 1, MOST_SEEDS + 1)
    found = bisect.bisect_left(counts, POWER, key=lambda s: power(squares, effect, s, level))
    more = counts[found] - num_seeds
    return Power(more, None, floor, now, f"about {more} more seed(s) of each")


def power(squares: Squares, effect: float, num_seeds: int, level: float) -> float:
    """Probability that a study with so many seeds shows a true difference of this size.

    The interval's half width is taken as ``sqrt(t_(S-1)^2 V_seed + t_(N-1)^2 V_data)``, which that
    of :mod:`ppl_vae.comparison._confidence` is close to (Banerjee 1960), and averaged over V_seed:
    where seeds alone matter this is the noncentral t.
    """
    num_data = squares.num_data
    of_seeds = (_seed_variance(squares) + squares.rest / num_data) / num_seeds
    of_data = _datum_variance(squares) / num_data
    error = math.sqrt(of_seeds + of_data)
    if error == 0:
        return 1.0 if effect > 0 else level
    estimated = of_seeds * stats.chi2.ppf(_NODES, num_seeds - 1) / (num_seeds - 1)
    of_seeds_t, of_data_t = (float(stats.t.isf(level / 2, n - 1)) for n in (num_seeds, num_data))
    half = np.sqrt(of_seeds_t**2 * estimated + of_data_t**2 * of_data)
    beyond = stats.norm.sf((half - effect) / error) + stats.norm.cdf((-half - effect) / error)
    return float(beyond.mean())


def _data_needed(squares: Squares, effect: float, level: float, floor: float, now: float) -> Power:
    words = f"no number of seeds can: the finite test set alone leaves an error of {floor:.2g}"
    if effect == 0:
        return Power(None, None, floor, now, "no number of seeds can: the difference is 0")
    reach = float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER))
    needed = math.ceil(_datum_variance(squares) * (reach / effect) ** 2)
    more = max(1, needed - int(squares.num_data))
    needs = f"it would take at least {more:,} more data, and that with infinitely many seeds"
    return Power(None, more, floor, now, f"{words}; {needs}")


def _seed_variance(squares: Squares) -> float:
    return max(0.0, squares.seed - squares.rest) / squares.num_data


def _datum_variance(squares: Squares) -> float:
    return max(0.0, squares.datum - squares.rest) / squares.num_seeds
