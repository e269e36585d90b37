"""Bootstrap over seeds and data, jointly for many means, and the ranks it gives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats

from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._confidence import Array, mean_squares
from ppl_vae.evidence import MeanDoubt

_CHUNK = 200
"""Replicates whose weights are in memory at once."""
_FEW_SEEDS = 2
"""Number of seeds that say nothing of how arms move together: each arm moves on its own."""


def hierarchical_bootstrap(
    cells: Sequence[Cells], data_factors: Sequence[float], replicates: int, seed: int
) -> Float[Array, "replicates means"]:
    """Resample seeds and data, the same ones for all means, and return joint replicates.

    ``mean* = mean + sum_s z_s (y_s. - mean) / sqrt(S (S - 1) w) + c sum_i (n_i / N) (y_.i - mean)``

    with ``n`` multinomial counts of the data, ``z`` normal and ``w ~ chi2(S - 1) / (S - 1)``. A few
    seeds drawn with replacement would coincide and show only (S - 1) / S of their variance; the
    multipliers z mend the one, w, as in Student's t, the other: their part of any difference has
    exactly t's distribution. Of two seeds each mean has multipliers of its own. c is
    :func:`data_factor`.

    Args:
        cells: Values of each mean; seeds of one number are the same seeds.
        data_factors: Factor c of each mean.
        replicates: Number of replicates.
        seed: Seed of the random numbers.

    References:
        Owen, 2007, The pigeonhole bootstrap.
        Owen and Eckles, 2012, Bootstrapping data arrays of arbitrary order.
    """
    generator = np.random.default_rng(seed)
    values = [each.values.numpy() for each in cells]
    means = np.array([each.mean() for each in values])
    data = np.stack([each.mean(0) - each.mean() for each in values], 1) * np.array(data_factors)
    draws = np.asarray(means + _seed_part(cells, replicates, generator))
    num_data = len(data)
    for start in range(0, replicates, _CHUNK):
        count = min(_CHUNK, replicates - start)
        drawn = generator.integers(num_data, size=(count, num_data))
        # A range of indices for each replicate, so that one bincount counts the data of all.
        drawn += num_data * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * num_data).reshape(count, num_data)
        draws[start : start + count] += times.astype(float) @ data / num_data
    return draws


def bootstrap_intervals(
    cells: Sequence[Cells], confidence: float, replicates: int, seed: int
) -> list[tuple[float, float]]:
    """Compute percentile intervals of :func:`hierarchical_bootstrap`, each for one mean alone.

    As those of the tests, they hold what the means may be low by. Without that they
    cover 93 to 97% where 95% is stated from 5 seeds on, more than that with fewer, and less where
    few data are very skewed: a check of ``comparison/_confidence.py``, which holds its level, by
    another way.
    """
    if not cells:
        return []
    factors = [data_factor(each.values.numpy()) for each in cells]
    draws = hierarchical_bootstrap(cells, factors, replicates, seed)
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(draws, [tail, 1 - tail], axis=0).tolist()
    return [
        each.doubt.widened(each.values.mean().item(), low, high)
        for each, low, high in zip(cells, lows, highs, strict=True)
    ]


def _seed_part(
    cells: Sequence[Cells], replicates: int, generator: np.random.Generator
) -> Float[Array, "replicates means"]:
    seeds = sorted({seed for each in cells for seed in each.seeds})
    multipliers = generator.standard_normal((replicates, len(seeds)))
    # One level for all means: where numbers of seeds are equal, differences keep t's distribution.
    level = generator.random((replicates, 1))
    freedom = np.array([len(each.seeds) - 1 for each in cells])
    deviations = np.zeros((len(seeds), len(cells)))
    for column, each in enumerate(cells):
        per_seed = each.values.mean(1).numpy()
        rows = [seeds.index(seed) for seed in each.seeds]
        deviations[rows, column] = per_seed - per_seed.mean()
    kinds, which = np.unique(np.maximum(freedom, 1), return_inverse=True)
    # The quantile is slow: once for each number of seeds, and not for each mean.
    w = (stats.chi2.ppf(level, kinds) / kinds)[:, which]
    scale = np.sqrt(np.maximum(freedom, 1) * (freedom + 1) * w)
    moved = multipliers @ deviations
    if len(seeds) == _FEW_SEEDS:
        # All means would move along one line, on which most of the arms can never be the best.
        apart = generator.standard_normal((replicates, len(seeds), len(cells)))
        moved = (apart * deviations).sum(1)
    return np.asarray(moved / scale)


def data_factor(values: Float[Array, "seeds data"]) -> float:
    """Compute factor c of the bootstrap: ``sqrt((1 - MS_rest / MS_datum)+ N / (N - 1))``.

    It removes the rest, which would be counted with the seeds and again with the data; N / (N - 1)
    makes up for the spread that multinomial counts lack.
    """
    squares = mean_squares(values)
    num_data = values.shape[1]
    share = float(1 - squares.rest / squares.datum) if squares.datum > 0 else 0.0
    return math.sqrt(max(share, 0.0) * num_data / (num_data - 1))


@final
@dataclass(frozen=True)
class Rank:
    """Place of an arm by mean log p(x).

    Attributes:
        rank: Rank by the estimated means; 1 is the highest.
        best: Probability that its mean over all training runs and data is the highest: the share of
            joint bootstrap replicates. By sampling alone: as if no log p(x) were low.
        interval: Interval of the true rank, at the comparison's confidence, which holds what arms
            may be low by.
    """

    rank: int
    best: float
    interval: tuple[int, int]


def rank_arms(
    cells: Mapping[str, Cells], confidence: float, replicates: int = 2000, seed: int = 0
) -> dict[str, Rank]:
    """Rank arms, best first, with their uncertainty over other data and training runs.

    Intervals of ranks reach over those of the replicates and of replicates that are higher by a
    draw of what each arm is low by. An arm that nothing bounds may be above all others.

    Args:
        cells: log p(x) of each arm.
        confidence: Confidence of the intervals of ranks.
        replicates: Number of replicates of :func:`hierarchical_bootstrap`.
        seed: Seed of its random numbers.

    References:
        Hall and Miller, 2009, Using the bootstrap to quantify the authority of an empirical
        ranking.
    """
    names = list(cells)
    # A datum's effect on all arms moves no rank, but unequal factors c would let it: taken off.
    shared = torch.stack([each.values.mean(0) for each in cells.values()]).mean(0)
    apart = [
        replace(each, values=each.values - (shared - shared.mean())) for each in cells.values()
    ]
    if {each.seeds for each in apart} == {apart[0].seeds} and len(apart[0].seeds) == _FEW_SEEDS:
        apart = _without_shared_seeds(apart)
    draws = hierarchical_bootstrap(apart, _relative_factors(cells), replicates, seed)
    # Arms that tie share the win: equal arms are each best with probability 1 / A.
    winners = draws == draws.max(1, keepdims=True)
    best = (winners / winners.sum(1, keepdims=True)).mean(0)
    intervals = _rank_intervals(draws, [each.doubt for each in cells.values()], confidence, seed)
    order = np.argsort([-each.values.mean().item() for each in cells.values()], kind="stable")
    return {
        names[arm]: Rank(place, float(best[arm]), intervals[arm])
        for place, arm in enumerate(order, start=1)
    }


def _rank_intervals(
    draws: Float[Array, "replicates means"],
    doubts: Sequence[MeanDoubt],
    confidence: float,
    seed: int,
) -> list[tuple[int, int]]:
    """Compute the interval of each rank, over what arms may be low by."""
    cases = [draws]
    if any(doubt.shift or doubt.rise for doubt in doubts):
        # A stream of its own: the replicates as they are stay those of arms that are not low.
        noise = np.random.default_rng([seed, 1]).standard_normal(draws.shape)
        shifts, rises, falls = np.array([doubt[:3] for doubt in doubts]).T
        away = np.where(noise > 0, rises, falls) / stats.norm.ppf(0.975) * noise
        cases.append(draws + shifts + away)
    unbounded = np.array([doubt.above for doubt in doubts])
    tail = (1 - confidence) / 2
    lows, highs = [], []
    for values in cases:
        # inverted_cdf: ranks that occurred, and none between two of them.
        ranks = stats.rankdata(-values, axis=1, method="average")
        lows.append(np.quantile(ranks, tail, axis=0, method="inverted_cdf"))
        ranks = _lowest_ranks(values, unbounded)
        highs.append(np.quantile(ranks, 1 - tail, axis=0, method="inverted_cdf"))
    low = np.where(unbounded, 1, np.floor(np.min(lows, axis=0)))
    high = np.ceil(np.max(highs, axis=0))
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)]


def _lowest_ranks(
    values: Float[Array, "replicates means"], unbounded: Bool[np.ndarray, " means"]
) -> Float[Array, "replicates means"]:
    """Rank each arm as if all others that nothing bounds were above it."""
    ranks = stats.rankdata(-np.where(unbounded, np.inf, values), axis=1, method="average")
    bounded = values[:, ~unbounded]
    for arm in np.flatnonzero(unbounded):
        own = values[:, [arm]]
        higher = (bounded > own).sum(1) + 0.5 * (bounded == own).sum(1)
        ranks[:, arm] = unbounded.sum() + higher
    return np.asarray(ranks)


def _without_shared_seeds(cells: Sequence[Cells]) -> list[Cells]:
    """Take off what a seed does to all arms alike, which moves no rank.

    The deviations that are left are made larger by ``sqrt(A / (A - 1))``: arms that move on their
    own differ as much as they did.
    """
    moved = torch.stack([each.values.mean(1) - each.values.mean() for each in cells])
    more = math.sqrt(len(cells) / max(len(cells) - 1, 1))
    changes = more * (moved - moved.mean(0)) - moved
    return [
        replace(each, values=each.values + change.unsqueeze(1))
        for each, change in zip(cells, changes, strict=True)
    ]


def _relative_factors(cells: Mapping[str, Cells]) -> list[float]:
    """Compute factor c of each arm's deviation from the mean of the arms with the same seed."""
    rows: dict[int, list[Float[Array, " data"]]] = {}
    for each in cells.values():
        for seed, row in zip(each.seeds, each.values.numpy(), strict=True):
            rows.setdefault(seed, []).append(row)
    means = {seed: sum(of_seed) / len(of_seed) for seed, of_seed in rows.items()}
    return [
        data_factor(each.values.numpy() - np.stack([means[seed] for seed in each.seeds]))
        for each in cells.values()
    ]
