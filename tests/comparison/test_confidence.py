"""Intervals and p-values hold their level; others do not."""

import numpy as np
import pytest
from scipy import integrate, stats

from comparison.simulated import COMPONENTS, all_pairs, require_coverage, simulate
from ppl_vae.comparison._confidence import ConfidenceDistribution, MeanSquares, mean_squares

CASES = 2000


def squares(mean=0.0, seed=0.0, datum=0.0, rest=0.0, third=0.0, num_seeds=3, num_data=100):
    values = np.broadcast_arrays(
        *(np.atleast_1d(float(x)) for x in (mean, seed, datum, rest, third, num_seeds, num_data))
    )
    return MeanSquares(*(np.array(value) for value in values))


def half_width(found, confidence, cautious=False):
    ((low,), (high,)) = ConfidenceDistribution(found, cautious).interval(confidence)
    return (high - low) / 2


@pytest.mark.parametrize("cautious", [True, False])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
class TestClosedForms:
    @pytest.mark.parametrize("num_seeds", [2, 3, 5, 100])
    def test_seeds_alone_give_students_t(self, num_seeds, confidence, cautious):
        found = half_width(
            squares(5.0, seed=2.0, num_seeds=num_seeds), confidence, cautious=cautious
        )
        t = stats.t.ppf(0.5 + confidence / 2, num_seeds - 1)
        assert found == pytest.approx(t * np.sqrt(2.0 / (num_seeds * 100)), rel=1e-6)

    @pytest.mark.parametrize("num_seeds", [1, 3])
    @pytest.mark.parametrize("num_data", [10, 1000])
    def test_data_alone_give_students_t(self, num_seeds, num_data, confidence, cautious):
        known = squares(datum=2.0, num_seeds=num_seeds, num_data=num_data)
        t = stats.t.ppf(0.5 + confidence / 2, num_data - 1)
        expected = t * np.sqrt(2.0 / (num_seeds * num_data))
        assert half_width(known, confidence, cautious) == pytest.approx(expected, rel=1e-6)

    def test_equal_values_give_a_point(self, confidence, cautious):
        (low, high) = ConfidenceDistribution(squares(3.0), cautious).interval(confidence)
        assert low == high == 3.0


def test_equal_parts_give_behrens_and_fishers_quantile():
    known = squares(seed=700.0, datum=700.0, num_seeds=7, num_data=10**7)
    found = half_width(known, 0.95, cautious=True) / np.sqrt(700.0 / (7 * 10**7))

    def density(x):
        within = stats.norm.cdf(found - x) - stats.norm.cdf(-found - x)
        return stats.t.pdf(x, 6) * within

    assert integrate.quad(density, -60, 60, points=[-found, found])[0] == pytest.approx(0.95)


def test_p_value_is_where_the_interval_begins_to_hold_the_value():
    found = mean_squares(simulate(np.random.default_rng(0), (20, 3, 50), 0.3, 1, 0.5, 2.0))
    for cautious in (False, True):
        distribution = ConfidenceDistribution(found, cautious)
        p = distribution.p_value()
        for case in range(0, 20, 7):
            low, high = distribution.interval(1 - p[case])
            assert min(abs(low[case]), abs(high[case])) < 1e-6


def test_of_equal_values_the_p_value_is_one_or_nothing():
    assert ConfidenceDistribution(squares(0.0)).p_value() == 1
    assert ConfidenceDistribution(squares(1e-9)).p_value() == 0


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("num_data", [50, 150])
@pytest.mark.parametrize("skewness", [0.0, 2.0])
def test_95_percent_covers_in_93_to_97_percent(num_seeds, num_data, skewness, significance):
    generator = np.random.default_rng(num_seeds)
    significance = significance.split(len(COMPONENTS))
    for components in COMPONENTS.values():
        values = simulate(generator, (CASES // 2, num_seeds, num_data), *components, skewness)
        p = ConfidenceDistribution(mean_squares(values)).p_value()
        require_coverage(significance, p >= 0.05)


def test_one_seed_covers_over_data(significance):
    values = simulate(np.random.default_rng(0), (CASES, 1, 100), 0.0, 1.0, 1.0, 2.0)
    require_coverage(significance, ConfidenceDistribution(mean_squares(values)).p_value() >= 0.05)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_cautious_form_covers_enough_at_every_level(num_seeds, significance):
    generator = np.random.default_rng(num_seeds)
    significance = significance.split(2 * len(COMPONENTS))
    for components in COMPONENTS.values():
        values = simulate(generator, (CASES // 2, num_seeds, 100), *components)
        p = ConfidenceDistribution(mean_squares(values), cautious=True).p_value()
        for level in (0.05, 0.005):
            require_coverage(significance, p >= level, low=1 - level, high=1.0)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_no_difference_among_four_arms_is_called_real_in_at_most_5_percent(num_seeds, significance):
    generator = np.random.default_rng(num_seeds)
    significance = significance.split(len(COMPONENTS))
    for components in COMPONENTS.values():
        p = ConfidenceDistribution(
            all_pairs(simulate(generator, (300, 4, num_seeds, 50), *components)), cautious=True
        ).p_value()
        # Any interval excludes its difference of 0; shifted, of any true differences, alike.
        require_coverage(significance, p.min(1) > 0.05 / p.shape[1], low=0.95, high=1.0)


class TestWrongVariants:
    """What the tests above must not let through."""

    def values(self, num_seeds, components, num_data=200, skewness=0.0, seed=1):
        shape = (CASES, num_seeds, num_data)
        return simulate(np.random.default_rng(seed), shape, *COMPONENTS[components], skewness)

    def require_failure(self, significance, covered):
        with pytest.raises(AssertionError, match="covered"):
            require_coverage(significance, covered)

    def test_values_taken_as_independent(self, significance):
        flat = self.values(5, "seeds").reshape(CASES, 1, -1)
        p = ConfidenceDistribution(mean_squares(flat)).p_value()
        self.require_failure(significance, p >= 0.05)

    def test_data_alone(self, significance):
        over_seeds = self.values(5, "seeds").mean(1, keepdims=True)
        p = ConfidenceDistribution(mean_squares(over_seeds)).p_value()
        self.require_failure(significance, p >= 0.05)

    def test_seeds_alone(self, significance):
        per_seed = self.values(5, "data").mean(2)
        p = stats.ttest_1samp(per_seed, 0, axis=1).pvalue
        self.require_failure(significance, p >= 0.05)

    def test_satterthwaite_with_two_seeds(self, significance):
        found = mean_squares(self.values(2, "seeds"))
        variance = found.seed_variance + found.data_variance
        degrees = 1 / (found.seed_variance / variance) ** 2
        p = 2 * stats.t.sf(np.abs(found.mean) / np.sqrt(variance), degrees)
        self.require_failure(significance, p >= 0.05)

    def test_plain_bootstrap_of_seeds_and_data(self, significance):
        values = self.values(3, "seeds")[:500]
        generator = np.random.default_rng(0)
        of_seeds = generator.multinomial(3, [1 / 3] * 3, 400) / 3
        of_data = generator.multinomial(200, [1 / 200] * 200, 400) / 200
        draws = np.einsum("bs,csn,bn->cb", of_seeds, values, of_data, optimize=True)
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        self.require_failure(significance, (low < 0) & (high > 0))

    def test_skewness_left_in(self, significance):
        found = mean_squares(self.values(5, "data", num_data=50, skewness=4.0))
        straight = MeanSquares(**{**vars(found), "third_cumulant": np.zeros(CASES)})
        self.require_failure(significance, ConfidenceDistribution(straight).p_value() >= 0.05)
        require_coverage(significance, ConfidenceDistribution(found).p_value() >= 0.05)

    def test_unpaired_seeds(self, significance):
        generator = np.random.default_rng(0)
        shared = 3 * generator.standard_normal((CASES, 5, 1))
        a, b = (shared + self.values(5, "both", seed=seed) for seed in (1, 2))
        p = ConfidenceDistribution(mean_squares(a - b)).p_value()
        require_coverage(significance, p >= 0.05)
        # Each arm's seeds taken for others: too wide by what the seeds share.
        shuffled = ConfidenceDistribution(mean_squares(a - b[:, [1, 2, 3, 4, 0]])).p_value()
        self.require_failure(significance, shuffled >= 0.05)

    def test_many_tests_as_if_one(self, significance):
        p = ConfidenceDistribution(
            all_pairs(simulate(np.random.default_rng(0), (500, 5, 5, 50), *COMPONENTS["both"]))
        ).p_value()
        self.require_failure(significance, p.min(1) > 0.05)
