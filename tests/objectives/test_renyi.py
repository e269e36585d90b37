"""The Renyi family: its ends, its limits and their rates, its bias."""

import itertools
import math

import pytest
import torch
from significance import Estimate, mean_of

from ppl_vae.objectives import ELBO, Renyi, VRMax

from .linear import draw_once
from .replicated import log_evidence, log_moment, mild_parameters, replicates

ELBO_VALUE = draw_once(ELBO(6)).bound
LOG_WEIGHT = draw_once(ELBO(6)).particles.log_weight.detach()


def value(alpha, K=6):
    return draw_once(Renyi(K, alpha=alpha)).bound


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4])
def test_towards_one_it_nears_the_elbo_at_the_rate_of_the_variance(step, sign):
    """R = mean + (1 - alpha) variance / 2 + (1 - alpha)^2 third cumulant / 6 + ..."""
    centred = LOG_WEIGHT - LOG_WEIGHT.mean(0)
    order = sign * step
    slope = (value(1 - order) - ELBO_VALUE) / order
    second, third = centred.square().mean(0), centred.pow(3).mean(0)
    fourth = centred.pow(4).mean(0)
    # The rest of the series, and rounding over the order.
    allowed = step**2 * (fourth + 3 * second**2) / 12 + 1e-14 / step**2
    assert ((slope - second / 2 - order * third / 6).abs() < allowed).all()


def test_alpha_of_one_is_the_limit_itself():
    assert torch.equal(value(1.0), ELBO_VALUE)
    torch.testing.assert_close(value(1 - 1e-7), ELBO_VALUE)


@pytest.mark.parametrize("alpha", [-10.0, -1e3, -1e6])
def test_towards_minus_infinity_it_nears_the_largest_weight(alpha):
    """max - log K / (1 - alpha) <= R <= max."""
    largest = draw_once(VRMax(6)).bound
    below = largest - value(alpha)
    assert (below >= -1e-12).all()
    assert (below <= math.log(6) / (1 - alpha) + 1e-12).all()


@pytest.mark.parametrize("alpha", [-1e6, -1e3])
def test_so_does_its_gradient(alpha):
    gap = {
        name: (renyi - largest).abs().max().item()
        for (name, renyi), largest in zip(
            draw_once(Renyi(6, alpha=alpha)).gradient.items(),
            draw_once(VRMax(6)).gradient.values(),
            strict=True,
        )
    }
    assert all(value < 1e-9 for value in gap.values()), gap


def test_it_falls_with_alpha_draw_by_draw():
    values = [value(alpha) for alpha in (-1e3, -2.0, 0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 1e3)]
    for higher, lower in itertools.pairwise(values):
        assert (higher > lower).all()


def test_large_orders_do_not_overflow():
    smallest = LOG_WEIGHT.min(0).values
    torch.testing.assert_close(value(1e8), smallest, rtol=0, atol=1e-6)


def test_the_estimate_is_biased_towards_the_elbo(significance):
    """Below the exact bound at alpha = 1/2, nearer to it with more particles."""
    values = mild_parameters()
    exact = (log_evidence(values) + 2 * log_moment(values, 0.5)).item()
    few, many = (mean_of(replicates(Renyi(K, alpha=0.5), 50_000)[0]) for K in (2, 8))
    significance = significance.split(3)
    significance.require_less(few, many)
    significance.require_less(many, exact)
    elbo = mean_of(replicates(ELBO(1), 20_000, seed=1)[0])
    significance.require_less(elbo, few)


def test_below_zero_it_is_no_lower_bound(significance):
    """The exact bound at alpha = -1 is an upper one, and 16 particles come above log p(x)."""
    values = mild_parameters()
    exact = (log_evidence(values) + log_moment(values, 2.0) / 2).item()
    estimate = mean_of(replicates(Renyi(16, alpha=-1.0), 20_000)[0])
    significance = significance.split(2)
    significance.require_less(estimate, exact)
    significance.require_less(
        Estimate(-estimate.value, estimate.error), -log_evidence(values).item()
    )
    assert Renyi(4, alpha=-1.0).claims.direction == "neither"
    assert Renyi(4, alpha=0.5).claims.direction == "lower"


def test_orders_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"finite alpha, got -inf; -inf is vr-max:K"):
        Renyi(4, alpha=-math.inf)
    with pytest.raises(ValueError, match="finite alpha, got nan"):
        Renyi(4, alpha=math.nan)
