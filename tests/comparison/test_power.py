import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from significance import Estimate

from comparison.simulated import simulate
from ppl_vae.comparison import crossed_mean
from ppl_vae.comparison._confidence import ConfidenceDistribution, MeanSquares, mean_squares
from ppl_vae.comparison._seeds import POWER, power, power_of


def difference(effect, seed_sd, datum_sd, rest_sd, seeds=3, data=200):
    """One whose mean squares are what they are on average."""
    seed, datum, rest = seed_sd**2, datum_sd**2, rest_sd**2
    values = effect, data * seed + rest, seeds * datum + rest, rest, 0.0, seeds, data
    squares = MeanSquares(*(np.asarray(float(value)) for value in values))
    blank = crossed_mean(torch.zeros(max(seeds, 2), data), torch.zeros(max(seeds, 2), data))
    return replace(blank, mean=effect, squares=squares)


@pytest.mark.parametrize("seeds", [2, 4, 20])
def test_seeds_alone_give_the_noncentral_t(seeds):
    known = difference(0.5, 0.7, 0.0, 0.0).squares
    t, shift = stats.t.isf(0.025, seeds - 1), 0.5 / 0.7 * math.sqrt(seeds)
    expected = stats.nct.sf(t, seeds - 1, shift) + stats.nct.cdf(-t, seeds - 1, shift)
    assert power(known, 0.5, seeds, 0.05) == pytest.approx(expected, abs=2e-3)


def test_planned_seeds_are_the_fewest_that_do():
    known = difference(0.5, 0.5, 1.0, 0.5)
    plan = power_of(known, 0.05, shown=False)
    seeds = 3 + plan.more_seeds
    assert power(known.squares, 0.5, seeds, 0.05) >= POWER
    assert power(known.squares, 0.5, seeds - 1, 0.05) < POWER
    assert f"{plan.more_seeds} more seed" in plan.text


@pytest.mark.parametrize(
    ("components", "level"),
    [((0.5, 1.0, 0.5), 0.05), ((0.3, 1.0, 1.0), 0.05), ((0.5, 1.0, 0.5), 0.01)],
)
def test_the_planned_seeds_show_the_difference_in_80_percent(components, level, significance):
    effect, cases, significance = 0.4, 3000, significance.split(2)
    plan = power_of(difference(effect, *components), level, shown=False)
    for seeds in (2 + plan.more_seeds, 3 + plan.more_seeds):
        shape = (cases, seeds, 200)
        found = mean_squares(simulate(np.random.default_rng(0), shape, *components) + effect)
        p = ConfidenceDistribution(found, cautious=level < 0.05).p_value()
        share = float((p < level).mean())
        error = math.sqrt(share * (1 - share) / cases)
        # The planned seeds reach 80%, one fewer does not, to 5 points.
        if seeds == 2 + plan.more_seeds:
            significance.require_less(Estimate(share, error), 0.85)
        else:
            significance.require_less(Estimate(0.75, error), share)


def test_no_seeds_can_do_what_takes_more_data():
    known = difference(0.1, 0.3, 1.0, 0.3)
    plan = power_of(known, 0.05, shown=False)
    assert plan.more_seeds is None
    assert plan.floor == pytest.approx(1 / math.sqrt(200))
    reach = stats.norm.isf(0.025) + stats.norm.ppf(0.8)
    assert plan.more_data == math.ceil((reach / 0.1) ** 2) - 200
    assert "no number of seeds can" in plan.text
    assert f"{plan.more_data} more data, and that with infinitely many seeds" in plan.text
    assert "0.071" in plan.text
    enough = difference(0.1, 0.3, 1.0, 0.3, data=200 + plan.more_data + 20)
    assert power_of(enough, 0.05, shown=False).more_seeds > 0


def test_what_is_shown_needs_nothing():
    plan = power_of(difference(1.0, 0.1, 1.0, 0.3), 0.05, shown=True)
    assert (plan.more_seeds, plan.text) == (0, "")
    assert plan.power_now > 0.99


def test_one_seed_cannot_plan():
    plan = power_of(difference(0.5, 0.5, 1.0, 0.5, seeds=1), 0.05, shown=False)
    assert plan.more_seeds is None
    assert math.isnan(plan.power_now)
    assert "one seed" in plan.text


def test_no_difference_at_all_takes_no_seeds_nor_data():
    plan = power_of(difference(0.0, 0.5, 1.0, 0.5), 0.05, shown=False)
    assert (plan.more_seeds, plan.more_data) == (None, None)
