"""Which arm is best, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from ppl_vae.comparison._bootstrap import data_factor, hierarchical_bootstrap
from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._mean_squares import Array


@final
@dataclass(frozen=True)
class Rank:
    """An arm's place by mean log p(x).

    Attributes:
        rank: By the estimated means; 1 is the highest.
        best: Probability that its mean over all training runs and data is the highest: the share of
            joint bootstrap replicates.
        interval: Of the true rank, at the comparison's confidence.
    """

    rank: int
    best: float
    interval: tuple[int, int]


def rank_arms(
    cells: Mapping[str, Cells], confidence: float, replicates: int = 2000, seed: int = 0
) -> dict[str, Rank]:
    """Rank arms, best first, with what another set of data and training runs might say.

    Args:
        cells: log p(x) of each arm.
        confidence: Of the intervals of ranks.
        replicates: Of :func:`~ppl_vae.comparison._bootstrap.hierarchical_bootstrap`.
        seed: Of its random numbers.

    References:
        Hall and Miller, 2009, Using the bootstrap to quantify the authority of an empirical
        ranking.
    """
    names = list(cells)
    apart = _without_shared_data(list(cells.values()))
    draws = hierarchical_bootstrap(apart, _factors(cells), replicates, seed)
    ranks = stats.rankdata(-draws, axis=1, method="average")
    winners = draws == draws.max(1, keepdims=True)
    best = (winners / winners.sum(1, keepdims=True)).mean(0)
    tail = (1 - confidence) / 2
    low = np.quantile(ranks, tail, axis=0, method="inverted_cdf")
    high = np.quantile(ranks, 1 - tail, axis=0, method="inverted_cdf")
    means = np.array([each.values.mean().item() for each in cells.values()])
    order = np.argsort(-means, kind="stable")
    return {
        names[arm]: Rank(
            place, float(best[arm]), (int(np.floor(low[arm])), int(np.ceil(high[arm])))
        )
        for place, arm in enumerate(order, start=1)
    }


def _without_shared_data(cells: Sequence[Cells]) -> list[Cells]:
    """Less what a datum adds to all arms alike, of mean 0: it moves no rank, c would let it."""
    shared = torch.stack([each.values.mean(0) for each in cells]).mean(0)
    return [replace(each, values=each.values - (shared - shared.mean())) for each in cells]


def _factors(cells: Mapping[str, Cells]) -> list[float]:
    """Factor c of each arm against the others: what arms share moves no rank."""
    total: dict[int, Float[Array, " data"]] = {}
    count: dict[int, int] = {}
    for each in cells.values():
        for seed, row in zip(each.seeds, each.values.numpy(), strict=True):
            total[seed] = total.get(seed, np.zeros(())) + row
            count[seed] = count.get(seed, 0) + 1
    return [
        data_factor(
            each.values.numpy() - np.stack([total[seed] / count[seed] for seed in each.seeds])
        )
        for each in cells.values()
    ]
