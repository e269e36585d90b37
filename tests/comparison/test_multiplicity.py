import gc

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from comparison.simulated import COMPONENTS, cells_of, simulate
from ppl_vae.comparison._confidence import ConfidenceDistribution
from ppl_vae.comparison._crossed import paired_tests, stack


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
def test_intervals_and_p_values_are_bonferronis(confidence):
    means = differences(6)
    found = paired_tests(means, confidence)
    cautious = ConfidenceDistribution(stack(means), cautious=True)
    expected = np.minimum(6 * cautious.p_value(), 1)
    assert [test.adjusted_p for test in found] == pytest.approx(expected.tolist())
    low, high = cautious.interval(1 - (1 - confidence) / 6)
    assert [test.simultaneous[0] for test in found] == pytest.approx(low.tolist())
    assert [test.simultaneous[1] for test in found] == pytest.approx(high.tolist())
    for test, mean in zip(found, means, strict=True):
        assert test.simultaneous[0] < test.interval[0] < test.interval[1] < test.simultaneous[1]
        assert test.interval == pytest.approx(mean.interval(confidence))
        assert test.adjusted_p > test.p_value
        assert test.shown == (test.adjusted_p < 1 - confidence)


def test_in_every_study_verdict_and_interval_agree(monkeypatch):
    """Three arms; that the intervals hold together is in test_confidence, at any effects."""
    # Holm's steps of statsmodels collect all garbage of the process first, 0.3 s.
    monkeypatch.setattr(gc, "collect", lambda: 0)
    generator = np.random.default_rng(1)
    pairs, differ = ((0, 1), (0, 2), (1, 2)), 0
    noise = simulate(generator, (3, 3, 100), *COMPONENTS["data"])
    for step in np.linspace(0.0, 0.9, 13):
        effects = (0.0, 9.0, 9.0 + step)
        arms = [cells_of(noise[arm] + effect) for arm, effect in enumerate(effects)]
        found = paired_tests([arms[b].minus(arms[a]).mean for a, b in pairs], 0.95)
        for (a, b), test in zip(pairs, found, strict=True):
            low, high = test.simultaneous
            said = test.verdict((str(b), str(a)))
            assert (said == f"{b} higher") == (low > 0)
            assert (said == f"{a} higher") == (high < 0)
            assert test.shown == (test.adjusted_p < 0.05)
        by_steps = multipletests([test.adjusted_p / 3 for test in found], method="holm")[0]
        differ += any(test.shown != real for test, real in zip(found, by_steps, strict=True))
    # Holm's verdicts would not have agreed.
    assert differ > 0
