"""What the bounds are in expectation, in the linear-Gaussian model."""

import pytest
import torch
from programs import weight_moment
from significance import mean_of

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO

from .wrong_variants import ReportsItsSurrogate

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
X = MODEL.simulate(1, seed=3)
LOG_EVIDENCE = MODEL.log_evidence(X).item()


# Weights with five finite moments, as an expansion in 1/K wants them.
LIGHT = LinearGaussian.random(4, 2, 1.0, seed=3)


def replicates(objective, count, model=MODEL, x=X):
    """Independent values of the bound, each from draws of its own, for one datum."""
    vae = model.mean_field_vae()
    with torch.no_grad():
        return objective.bound(objective.draw(vae.model, vae.guide, x.expand(count, -1)))


def bias(model, K):
    """E L_K - log p(x), up to terms of order K^-3."""
    second, third = weight_moment(model, 2), weight_moment(model, 3)
    variance, skewness = second - 1, third - 3 * second + 2
    return -variance / (2 * K) + (skewness / 3 - 3 * variance**2 / 4) / K**2


@pytest.mark.parametrize("objective", [ELBO(7), AnalyticELBO(7), IWAE(7), IWAE(1)], ids=repr)
def test_at_the_posterior_every_bound_is_the_evidence(objective):
    vae, x = MODEL.vae(), MODEL.simulate(20)
    bound = objective.bound(objective.draw(vae.model, vae.guide, x))
    torch.testing.assert_close(bound, MODEL.log_evidence(x), rtol=0, atol=1e-10)
    loss = objective.loss(vae.model, vae.guide, x)
    assert loss == pytest.approx(-MODEL.log_evidence(x).sum().item(), abs=1e-9)


@pytest.mark.parametrize("kind", [ELBO, AnalyticELBO])
@pytest.mark.parametrize("K", [1, 5])
def test_the_elbo_is_low_by_the_mean_field_gap(kind, K, significance):
    expected = LOG_EVIDENCE - MODEL.mean_field_gap().item()
    significance.require_equal(mean_of(replicates(kind(K), 20_000)), expected)


def check_order(kind, significance):
    significance = significance.split(4)
    bounds = [mean_of(replicates(kind(K), 100_000)) for K in (1, 2, 4, 8)]
    for lower, higher in zip(bounds, [*bounds[1:], LOG_EVIDENCE], strict=True):
        significance.require_less(lower, higher)


def test_order(significance):
    """ELBO < IWAE-2 < IWAE-4 < IWAE-8 < log p(x)."""
    check_order(IWAE, significance)
    significance.require_equal(
        mean_of(replicates(IWAE(1), 20_000)), mean_of(replicates(ELBO(1), 20_000))
    )


def test_of_the_order_test(significance):
    """-sum_k v_k log w_k overshoots log p(x): no bound."""
    with pytest.raises(AssertionError, match="not clearly less"):
        check_order(ReportsItsSurrogate, significance)


@pytest.mark.parametrize("K", [5, 10])
def test_bias_falls_as_one_over_k(K, significance):
    x = LIGHT.simulate(1, seed=3)
    log_evidence = LIGHT.log_evidence(x).item()
    estimate = mean_of(replicates(IWAE(K), 200_000, LIGHT, x))
    significance.require_equal(estimate, log_evidence + bias(LIGHT, K))
    # The test can tell 1/K from no bias, from K^-1/2 and from 1/K^2.
    for other in (0.0, bias(LIGHT, K) * K**0.5, bias(LIGHT, K) / K):
        with pytest.raises(AssertionError):
            significance.require_equal(estimate, log_evidence + other)


def test_averaging_does_not_tighten_the_elbo(significance):
    one, many = (mean_of(replicates(ELBO(K), 20_000)) for K in (1, 20))
    significance.require_equal(many, one)
    assert many.error < one.error / 3
