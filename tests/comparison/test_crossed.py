import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from significance import mean_of
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from comparison.simulated import simulate
from ppl_vae.comparison import crossed_mean
from ppl_vae.comparison._confidence import mean_squares


def mean_of_values(values, variance=0.0):
    values = torch.as_tensor(values)
    return crossed_mean(values, torch.full_like(values, variance))


def test_mean_squares_are_those_of_two_way_analysis_of_variance():
    values = simulate(np.random.default_rng(0), (4, 7), 1.0, 1.0, 1.0)
    seed, datum = np.indices(values.shape)
    frame = pd.DataFrame({"y": values.ravel(), "seed": seed.ravel(), "datum": datum.ravel()})
    table = anova_lm(ols("y ~ C(seed) + C(datum)", frame).fit())["mean_sq"]
    found = mean_squares(values)
    assert [found.seed, found.datum, found.rest] == pytest.approx(table.tolist())


def test_third_cumulant_of_the_mean_is_unbiased(significance):
    # Exponential data: the third cumulant is 2, that of their mean 2 / N^2.
    values = np.random.default_rng(0).standard_exponential((4000, 1, 20))
    found = mean_squares(values).third_cumulant
    significance.require_equal(mean_of(torch.tensor(found)), 2 / 20**2)


def test_many_cases_at_once_are_each_by_itself():
    values = simulate(np.random.default_rng(0), (3, 4, 10), 1.0, 1.0, 1.0, 2.0)
    together = vars(mean_squares(values))
    for case in range(3):
        for name, value in vars(mean_squares(values[case])).items():
            assert together[name][case] == pytest.approx(float(value)), name


def test_variance_components_are_unbiased(significance):
    sds, shape, cases = (0.3, 1.0, 0.5), (6, 100), 400
    values = simulate(np.random.default_rng(3), (cases, *shape), *sds)
    results = [mean_of_values(each) for each in values]
    seed, datum, rest = (sd**2 for sd in sds)
    truth = {
        "error": seed / 6 + datum / 100 + rest / 600,
        "data_error": datum / 100,
        "seed_error": seed / 6,
    }
    significance = significance.split(len(truth))
    for name, variance in truth.items():
        found = torch.tensor([getattr(result, name) ** 2 for result in results])
        significance.require_equal(mean_of(found), variance)


def test_one_seed_gives_the_error_over_data_alone():
    y = torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = mean_of_values(y, 0.01)
    assert result.error == pytest.approx(y.std().item() / math.sqrt(50))
    assert result.monte_carlo_error == pytest.approx(0.1 / math.sqrt(50))
    assert result.data_error == pytest.approx(math.sqrt(y.var().item() - 0.01) / math.sqrt(50))
    assert math.isnan(result.seed_spread)
    low, high = result.t_interval()
    expected = stats.ttest_1samp(y[0], 0).confidence_interval()
    assert [low, high] == pytest.approx([expected.low, expected.high])


def test_interval_moves_and_scales_with_the_values():
    values = simulate(np.random.default_rng(1), (3, 40), 0.3, 1.0, 0.5, 2.0)
    low, high = mean_of_values(values).interval(0.9)
    assert mean_of_values(5 * values + 2).interval(0.9) == pytest.approx(
        (5 * low + 2, 5 * high + 2)
    )
    # Mirrored values have a mirrored interval, skewed the other way.
    assert mean_of_values(-values).interval(0.9) == pytest.approx((-high, -low))
    assert mean_of_values(values).mean - low != pytest.approx(high - mean_of_values(values).mean)


def test_one_datum_is_refused():
    with pytest.raises(ValueError, match="2 data"):
        mean_of_values(torch.zeros(3, 1))
