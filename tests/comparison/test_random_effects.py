import numpy as np
import pytest
import torch
from scipy import stats
from significance import mean_of
from statsmodels.stats.meta_analysis import combine_effects

from comparison.simulated import cells_of, require_coverage, simulate
from ppl_vae.comparison._seeds import _noise, random_effects


def fit(values, standard_error=0.0):
    return random_effects(cells_of(values, standard_error), 0.95)


def test_one_seed_has_none():
    assert fit(np.random.default_rng(0).standard_normal((1, 20))) is None


def test_equal_noise_gives_the_known_intervals():
    values = simulate(np.random.default_rng(0), (5, 200), 1.0, 3.0, 0.5)
    per_seed = values.mean(1)
    spread, t = per_seed.std(ddof=1), stats.t.ppf(0.975, 4)
    found = fit(values)
    assert found.mean == pytest.approx(per_seed.mean())
    half = t * spread / 5**0.5
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), rel=1e-4)
    half = t * spread * (1 + 1 / 5) ** 0.5
    expected = found.mean - half, found.mean + half
    assert found.prediction_interval == pytest.approx(expected, rel=1e-3)
    noise = found.tau**2 / spread**2
    assert found.i_squared == pytest.approx(noise, abs=1e-4)


def test_unequal_noise_is_weighed_as_in_statsmodels():
    generator = np.random.default_rng(4)
    values = generator.standard_normal((6, 40)) + generator.standard_normal((6, 1))
    cells = cells_of(values)
    cells.monte_carlo_variance[:] = torch.tensor(generator.uniform(0.1, 9.0, (6, 1)))
    found, noise = random_effects(cells, 0.95), _noise(cells)
    theirs = combine_effects(values.mean(1), noise, method_re="iterated", use_t=True, atol=1e-12)
    assert theirs.tau2 > 0.1
    assert found.tau**2 == pytest.approx(theirs.tau2, rel=1e-6)
    assert found.mean == pytest.approx(theirs.mean_effect_re, rel=1e-6)
    assert found.error == pytest.approx(theirs.sd_eff_w_re_hksj, rel=1e-6)
    assert found.i_squared == pytest.approx(theirs.i2, rel=1e-6)


def test_tau_is_the_spread_between_seeds(significance):
    studies = simulate(np.random.default_rng(0), (300, 6, 50), 1.0, 3.0, 1.0)
    tau = torch.tensor([fit(values).tau ** 2 for values in studies])
    significance.require_equal(mean_of(tau), 1.0)


def test_noise_alone_is_no_spread_between_seeds():
    studies = simulate(np.random.default_rng(0), (100, 5, 50), 0.0, 3.0, 1.0)
    found = [fit(values) for values in studies]
    assert np.median([each.tau for each in found]) < 0.1
    assert np.mean([each.i_squared for each in found]) < 0.4
    assert np.mean([each.tau == 0 for each in found]) > 0.4


def test_a_noisier_seed_counts_less():
    generator = np.random.default_rng(0)
    values = generator.standard_normal((3, 40)) * np.array([[0.1], [0.1], [3.0]])
    cells = cells_of(values)
    cells.monte_carlo_variance[:] = torch.tensor([[0.01], [0.01], [9.0]])
    found = random_effects(cells, 0.95)
    near = values[:2].mean()
    assert abs(found.mean - near) < 0.5 * abs(values.mean() - near)


def test_the_same_for_all_seeds():
    found = fit(np.repeat(np.random.default_rng(0).standard_normal((1, 20)), 3, axis=0))
    assert (found.tau, found.i_squared, found.error) == (0.0, 0.0, 0.0)
    assert found.interval == (found.mean, found.mean)


@pytest.mark.parametrize("num_seeds", [2, 3, 6])
def test_a_new_training_run_falls_into_the_predicted_interval(num_seeds, significance):
    studies = simulate(np.random.default_rng(0), (500, num_seeds + 1, 30), 1.0, 5.0, 1.0)
    held = []
    for values in studies:
        low, high = fit(values[:-1]).prediction_interval
        held.append(low <= values[-1].mean() <= high)
    require_coverage(significance, np.array(held))


def test_a_new_training_run_falls_out_of_the_interval_of_the_mean(significance):
    studies = simulate(np.random.default_rng(0), (500, 7, 30), 1.0, 5.0, 1.0)
    held = []
    for values in studies:
        low, high = fit(values[:-1]).interval
        held.append(low <= values[-1].mean() <= high)
    with pytest.raises(AssertionError, match="covered"):
        require_coverage(significance, np.array(held))
