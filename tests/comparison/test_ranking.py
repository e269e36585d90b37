import numpy as np
import pytest
from scipy import stats

from comparison.simulated import COMPONENTS, cells_of, require_coverage, simulate
from ppl_vae.comparison._bootstrap import rank_arms
from ppl_vae.evidence import MeanDoubt


def rank(values, replicates=400, seed=0):
    return rank_arms(
        {f"arm {number}": cells_of(each) for number, each in enumerate(values)},
        0.95, replicates, seed,
    )  # fmt: skip


def test_far_apart_arms_are_ranked_for_sure():
    noise = simulate(np.random.default_rng(0), (3, 5, 50), 0.01, 0.1, 0.1)
    found = rank(noise + np.array([2.0, 9.0, 5.0])[:, None, None])
    assert list(found) == ["arm 1", "arm 2", "arm 0"]
    assert [each.rank for each in found.values()] == [1, 2, 3]
    assert found["arm 1"].best == 1
    assert found["arm 0"].interval == (3, 3)


def test_one_arm_is_the_best():
    (found,) = rank(np.zeros((1, 2, 5))).values()
    assert (found.rank, found.best, found.interval) == (1, 1.0, (1, 1))


def test_the_same_values_share_the_first_place():
    values = np.repeat(np.random.default_rng(0).standard_normal((1, 3, 20)), 4, axis=0)
    for found in rank(values).values():
        assert found.best == pytest.approx(0.25)
        assert found.interval == (2, 3)


@pytest.mark.parametrize("seeds", [2, 4])
def test_probability_of_two_arms_is_the_t_distributions(seeds):
    generator = np.random.default_rng(0)
    values = generator.standard_normal((2, seeds, 1)) + generator.standard_normal((1, 1, 30))
    difference = values[1, :, 0] - values[0, :, 0]
    t = difference.mean() / (difference.std(ddof=1) / seeds**0.5)
    found = rank(values, 20_000)["arm 1"].best
    expected = stats.t.cdf(t, seeds - 1)
    assert found == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 20_000) ** 0.5)


@pytest.mark.parametrize("seeds", [2, 3])
def test_probabilities_sum_to_one_and_what_all_share_moves_none(seeds):
    values = simulate(np.random.default_rng(0), (4, seeds, 30), *COMPONENTS["both"])
    shared = simulate(np.random.default_rng(1), (1, seeds, 30), 5.0, 50.0, 5.0)
    found, moved = rank(values), rank(values + shared)
    assert sum(each.best for each in found.values()) == pytest.approx(1)
    for arm, each in found.items():
        assert moved[arm].best == pytest.approx(each.best, abs=1e-9)
        assert moved[arm].rank == each.rank


def test_two_seeds_rule_out_no_arm_that_is_the_best():
    """All arms would move along one line, where 12 of 115 that were ruled out were the best."""
    generator = np.random.default_rng(0)
    ruled_out = best = 0
    for _ in range(60):
        truth = 0.1 * generator.standard_normal(4)
        values = truth[:, None, None] + simulate(generator, (4, 2, 100), 0.1, 0.0, 0.05)
        found = rank(values, 1000)
        low = [arm for arm in range(4) if found[f"arm {arm}"].best < 0.01]
        ruled_out, best = ruled_out + len(low), best + (int(truth.argmax()) in low)
    assert best <= 1 < ruled_out


def test_equal_arms_are_each_best_as_often(significance):
    generator = np.random.default_rng(0)
    studies = simulate(generator, (60, 4, 3, 40), *COMPONENTS["both"])
    best = np.array([[each.best for _, each in sorted(rank(y, 200).items())] for y in studies])
    z = (best.mean(0) - 0.25) / (best.std(0) / len(best) ** 0.5)
    assert np.abs(z).max() < significance.split(4).limit


@pytest.mark.parametrize("components", ["both", "seeds"])
def test_intervals_of_ranks_hold_the_true_ones(components, significance):
    generator = np.random.default_rng(0)
    held = []
    for _ in range(60):
        truth = 0.2 * generator.standard_normal(4)
        values = truth[:, None, None] + simulate(generator, (4, 5, 40), *COMPONENTS[components])
        found = rank(values, 300)
        for arm, place in enumerate(stats.rankdata(-truth).astype(int)):
            low, high = found[f"arm {arm}"].interval
            held.append(low <= place <= high)
    require_coverage(significance, np.array(held), high=1.0)


class TestDoubt:
    """Intervals of ranks hold what arms may be low by; P(best) is of sampling alone."""

    def ranked(self, *doubts):
        """Arms 0, 1 and 2 at 0, 2 and 4 nats, far apart."""
        noise = simulate(np.random.default_rng(0), (3, 5, 50), 0.01, 0.1, 0.1)
        return rank_arms(
            {
                f"arm {number}": cells_of(each + 2 * number, doubt=doubt)
                for number, (each, doubt) in enumerate(zip(noise, doubts, strict=True))
            },
            0.95, 400, 0,
        )  # fmt: skip

    def intervals(self, *doubts):
        found = self.ranked(*doubts)
        plain = self.ranked(*3 * [MeanDoubt()])
        assert [each.best for each in found.values()] == [each.best for each in plain.values()]
        return [found[f"arm {number}"].interval for number in range(3)]

    def test_what_all_are_low_by_alike_moves_none(self):
        assert self.intervals(*3 * [MeanDoubt(7.0, 0.0)]) == [(3, 3), (2, 2), (1, 1)]

    def test_an_arm_that_is_low_by_more_than_the_next_is_above(self):
        found = self.intervals(MeanDoubt(3.0, 0.0), MeanDoubt(), MeanDoubt())
        assert found == [(2, 3), (2, 3), (1, 1)]

    def test_what_is_not_known_moves_either_way(self):
        """A half width of 3 nats at 95% over 5 seeds: 2 nats are passed by a few in a hundred."""
        wide = 3.0 * 5**0.5
        found = self.intervals(MeanDoubt(), MeanDoubt(0.0, wide, wide), MeanDoubt())
        assert found == [(2, 3), (1, 3), (1, 2)]
        found = self.intervals(MeanDoubt(), MeanDoubt(0.0, wide), MeanDoubt())
        assert found == [(3, 3), (1, 2), (1, 2)]

    def test_an_arm_without_any_bound_may_be_above_all(self):
        found = self.intervals(MeanDoubt(above=True), MeanDoubt(), MeanDoubt())
        assert found == [(1, 3), (2, 3), (1, 2)]
        found = self.intervals(MeanDoubt(above=True), MeanDoubt(), MeanDoubt(above=True))
        assert found == [(1, 3), (2, 3), (1, 2)]
        # The best of all, without a bound, is no lower than it is.
        found = self.intervals(MeanDoubt(), MeanDoubt(), MeanDoubt(above=True))
        assert found == [(3, 3), (2, 2), (1, 1)]
