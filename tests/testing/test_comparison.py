"""What counts as equal, what as a failure, and how it is told."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom, norm

from ppl_vae.testing._comparison import ROUNDING, Discrepancy, Report, Rung, mean_is, same, share_is


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_an_identity_holds_to_rounding(factor):
    comparison = Discrepancy("a", 10 + factor * ROUNDING * 11, 10)
    assert (comparison.excess(limit=4) > 1) == (factor > 1)


@pytest.mark.parametrize("factor", [-1.1, -0.9, 0.9, 1.1])
@pytest.mark.parametrize("relation", ["=", "<=", ">="])
def test_a_z_score_counts_on_the_wrong_side_alone(factor, relation):
    comparison = Discrepancy("a", 3 + factor * 4 * 0.1, 3, 0.1, relation)
    assert comparison.deviation == pytest.approx(4 * factor)
    fails = {"=": abs(factor) > 1, "<=": factor > 1, ">=": factor < -1}[relation]
    assert (comparison.excess(limit=4) > 1) == fails


@pytest.mark.parametrize("relation", ["=", "<=", ">="])
@pytest.mark.parametrize("error", [None, 0.1])
def test_nan_fails(relation, error):
    assert Discrepancy("a", math.nan, 1.0, error, relation).excess(4) == math.inf


def test_values_equal_draw_by_draw_have_no_standard_error():
    rows = torch.randn(100).double()
    assert abs(mean_is("a", rows + 1e-10, rows).deviation) < 1
    assert mean_is("a", rows + 1e-6, rows).deviation > 10


def test_the_standard_error_is_that_of_the_difference():
    rows, noise = torch.randn(2, 100).double()
    comparison = mean_is("a", rows + noise, rows)
    assert comparison.error == pytest.approx(noise.std().item() / 10)
    assert comparison.found - comparison.expected == pytest.approx(noise.mean().item())


def test_the_mean_of_skewed_draws_raises_no_more_false_alarms_than_it_should(significance):
    """Of a hundred exponential draws: the usual z is below -2 twice as often as a normal."""
    trials, one = 4000, torch.ones(100).double()
    draws = torch.distributions.Exponential(one).sample((trials,))
    comparisons = [mean_is("a", row, one) for row in draws]
    usual = [replace(comparison, skewness=0.0) for comparison in comparisons]
    low, low_of_usual = (sum(c.deviation < -2 for c in found) for found in (comparisons, usual))
    significance.require_count(low, trials, norm.cdf(-2))
    with pytest.raises(AssertionError):
        significance.require_count(low_of_usual, trials, norm.cdf(-2))


@pytest.mark.parametrize("skewness", [-0.3, 0.0, 0.3])
def test_a_clear_deviation_stays_clear_whatever_the_skewness(skewness):
    values = [Discrepancy("a", 0.1 * z, 0.0, 0.1, "=", skewness).deviation for z in range(-99, 100)]
    assert sorted(values) == values
    assert min(-values[0], values[-1]) > 10


def test_of_tensors_the_worst_entry_is_compared():
    comparison = same("a", torch.tensor([1.0, 5.0, 3.0]), torch.tensor([1.0, 2.0, 3.5]))
    assert (comparison.found, comparison.expected) == (5, 2)
    assert same("a", torch.tensor([1.0, math.nan]), 1.0).excess(4) == math.inf
    assert same("a", 0.1, torch.tensor(0.1).double() * 0 + 0.1).deviation == 0


@pytest.mark.parametrize("count", [0, 5, 60, 80, 91, 95, 99, 100])
def test_a_share_has_the_tail_of_the_binomial(count):
    hits = torch.arange(100) < count
    least, most = (share_is("a", hits, 0.9, relation) for relation in (">=", "<="))
    assert (least.found, least.expected) == (count / 100, 0.9)
    for z, tail in (
        (-least.deviation, binom.cdf(count, 100, 0.9)),
        (most.deviation, binom.sf(count - 1, 100, 0.9)),
    ):
        # Where it matters, on the wrong side; elsewhere the normal approximation will do.
        if 1e-300 < tail < 0.15:
            assert z == pytest.approx(norm.isf(tail), rel=1e-4)
        else:
            assert z < 1.1 or tail == 0


def report(*rungs, false_alarm=0.01):
    return Report.of("IWAE(5)", list(rungs), false_alarm)


def test_the_limit_is_split_over_the_statistical_comparisons():
    z, identity = Discrepancy("a", 1.0, 1.0, 0.1), Discrepancy("b", 1.0, 1.0)
    found = report(Rung("one", (z, z, identity)), Rung("two", (z, z)), Rung("three", (identity,)))
    assert found.limit == pytest.approx(3.0233, abs=1e-4)  # two-sided, 0.01 / 4
    found.require_passed()


def test_it_prints_as_a_table():
    z, side = Discrepancy("a", 1.2, 1.0, 0.1), Discrepancy("b", 0.0, 1.0, 0.1, "<=")
    rungs = [
        Rung("value", (Discrepancy("c", 1.0, 1.0),)),
        Rung("gradient", (z,)),
        Rung("side", (side,)),
        Rung("growth", skipped="not claimed"),
    ]
    assert str(report(*rungs)).splitlines() == [
        "IWAE(5), |z| below 2.8: passed",
        "  value     passed          error 0e+00",
        "  gradient  passed          |z| 2.0",
        "  side      passed          z -10.0",
        "  growth    not claimed",
    ]


def test_a_check_that_could_not_look_has_not_passed():
    found = report(Rung("side"), Rung("growth", skipped="not looked"))
    assert found.not_looked == ("growth",)
    assert found.verdict == "not passed, could not look whether growth"
    assert str(found).splitlines()[0].endswith(found.verdict)
    found.require_passed()


def test_every_failed_rung_has_one_line():
    far, further = Discrepancy("a", 2.0, 1.0, 0.1), Discrepancy("b", 3.0, 1.0, 0.1, "<=")
    problem = ValueError("two\n  lines")
    rungs = [
        Rung("value", (Discrepancy("c", 1.0, 1.5),)),
        Rung("gradient", (far, further)),
        Rung("scale", raised=problem),
        Rung("shape", raised=AssertionError("expected 3, found 4")),
        Rung("right", (Discrepancy("c", 1.0, 1.0),)),
    ]
    with pytest.raises(AssertionError) as caught:
        report(*rungs).require_passed()
    assert str(caught.value).splitlines() == [
        "IWAE(5) fails 4 of 5 rungs (|z| may be 2.8):",
        "- value: c: expected 1.5, found 1, relative error -0.2",
        "- gradient: b: expected at most 1, found 3, z = 20 (and 1 more)",
        "- scale: ValueError: two lines",
        "- shape: expected 3, found 4",
    ]
    assert caught.value.__cause__ is problem
