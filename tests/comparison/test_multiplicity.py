import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from comparison.simulated import cells_of, simulate
from ppl_vae.comparison.confidence import ConfidenceDistribution
from ppl_vae.comparison.crossed import stack
from ppl_vae.comparison.multiplicity import paired_tests


def differences(count, num_seeds=3):
    values = simulate(np.random.default_rng(0), (count, num_seeds, 60), 0.05, 1.0, 0.5)
    return [cells_of(each + 0.1 * number).mean for number, each in enumerate(values)]


def test_one_difference_is_simultaneous_with_itself():
    (found,) = paired_tests(differences(1), 0.9)
    assert found.simultaneous == pytest.approx(found.interval)
    assert found.adjusted_p == pytest.approx(found.p_value)


def test_none_is_no_test():
    assert paired_tests([], 0.95) == []


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_holm_and_bonferroni(confidence):
    means = differences(6)
    found = paired_tests(means, confidence)
    cautious = ConfidenceDistribution(stack(means), cautious=True)
    expected = multipletests(cautious.p_value(), method="holm")[1]
    assert [test.adjusted_p for test in found] == pytest.approx(expected.tolist())
    low, high = cautious.interval(1 - (1 - confidence) / 6)
    assert [test.simultaneous[0] for test in found] == pytest.approx(low.tolist())
    assert [test.simultaneous[1] for test in found] == pytest.approx(high.tolist())
    for test, mean in zip(found, means, strict=True):
        assert test.simultaneous[0] < test.interval[0] < test.interval[1] < test.simultaneous[1]
        assert test.interval == pytest.approx(mean.interval(confidence))
        assert test.adjusted_p > test.p_value
        # An interval of all that excludes 0 is always called real by Holm, too.
        excludes = test.simultaneous[0] > 0 or test.simultaneous[1] < 0
        assert not excludes or test.adjusted_p <= 1 - confidence
