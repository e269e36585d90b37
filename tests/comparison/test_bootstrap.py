"""Joint replicates have the spread they should, and the same random numbers the same replicates."""

import numpy as np
import pytest
from scipy import stats

from comparison.simulated import COMPONENTS, cells_of, require_coverage, simulate
from ppl_vae.comparison._bootstrap import data_factor, hierarchical_bootstrap
from ppl_vae.comparison._confidence import mean_squares


def replicates(values, count=4000, seed=0):
    cells = [cells_of(each) for each in values]
    return hierarchical_bootstrap(cells, [data_factor(each) for each in values], count, seed)


def test_seeds_alone_give_students_t():
    values = np.random.default_rng(0).standard_normal((1, 4, 1)) + np.zeros((1, 4, 30))
    draws = replicates(values)[:, 0]
    error = values[0, :, 0].std(ddof=1) / 2
    assert stats.kstest((draws - values.mean()) / error, "t", (3,)).pvalue > 1e-6


def test_data_alone_have_the_variance_of_the_mean():
    values = np.random.default_rng(0).standard_normal((1, 1, 200))
    draws = replicates(values)[:, 0]
    expected = values.var(ddof=1) / 200
    assert stats.kstest((draws - values.mean()) / expected**0.5, "norm").pvalue > 1e-6
    assert draws.var() == pytest.approx(expected, rel=5 * (2 / 4000) ** 0.5)


def test_the_rest_is_counted_once():
    values = simulate(np.random.default_rng(0), (1, 40, 100), *COMPONENTS["both"])
    found = mean_squares(values[0])
    expected = (found.seed + found.datum - found.rest) / 4000
    # Student-t with 39 degrees of freedom: of the seeds' part, 39/37 times its scale.
    expected += found.seed / 4000 * (39 / 37 - 1)
    assert replicates(values)[:, 0].var() == pytest.approx(expected, rel=5 * (2.2 / 4000) ** 0.5)


def test_what_arms_share_cancels_in_their_difference():
    generator = np.random.default_rng(0)
    shared = 10 * simulate(generator, (1, 3, 50), 1.0, 1.0, 0.0)
    values = shared + 0.01 * generator.standard_normal((2, 3, 50))
    cells = [cells_of(each) for each in values]
    draws = hierarchical_bootstrap(cells, [1.0, 1.0], 500, 0)
    difference = draws[:, 1] - draws[:, 0]
    assert np.median(np.abs(difference - difference.mean())) < 0.01
    assert draws[:, 0].std() > 1


def test_the_difference_of_replicates_is_the_replicate_of_the_difference():
    values = simulate(np.random.default_rng(0), (2, 4, 50), *COMPONENTS["both"])
    both = [cells_of(each) for each in values]
    draws = hierarchical_bootstrap(both, [0.9, 0.9], 100, 3)
    of_difference = hierarchical_bootstrap([cells_of(values[1] - values[0])], [0.9], 100, 3)[:, 0]
    # Their seeds' parts are t of the same multipliers.
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], of_difference)


def test_a_seed_decides_the_replicates():
    values = simulate(np.random.default_rng(0), (2, 3, 30), *COMPONENTS["both"])
    assert np.array_equal(replicates(values, 450), replicates(values, 450))
    assert not np.array_equal(replicates(values, 450), replicates(values, 450, seed=1))


def test_arms_may_have_other_seeds():
    values = simulate(np.random.default_rng(0), (3, 4, 30), *COMPONENTS["both"])
    cells = [cells_of(each) for each in values]
    cells[1] = cells[1].only([2])
    draws = hierarchical_bootstrap(cells, [1.0, 1.0, 1.0], 100, 0)
    # One seed has no part of its own.
    data = hierarchical_bootstrap(
        [cells[0], cells_of(values[1][2:3]), cells[2]], [1.0, 1.0, 1.0], 100, 0
    )
    np.testing.assert_allclose(draws[:, 1], data[:, 1])


@pytest.mark.parametrize("num_seeds", [5, 10])
def test_its_percentiles_cover_from_five_seeds_on(num_seeds, significance):
    generator = np.random.default_rng(0)
    significance = significance.split(len(COMPONENTS))
    for components in COMPONENTS.values():
        values = simulate(generator, (300, num_seeds, 60), *components)
        low, high = np.quantile(replicates(values, 1000), [0.025, 0.975], axis=0)
        require_coverage(significance, (low < 0) & (high > 0))
