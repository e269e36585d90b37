"""The thermodynamic sums: between which bounds, with which gradients, over which partition."""

import itertools
import math

import pytest
import torch
from significance import Estimate, mean_of

from ppl_vae.objectives import ELBO, IWAE, TVO

from .linear import draw_once
from .replicated import (
    COPIED,
    exact_gradient,
    log_evidence,
    mean_log_weight,
    mild_parameters,
    replicates,
    require_gradient,
)

K = 6
PARTITIONS = ["log", "linear", "moment"]
COUNT = 20_000


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("S", [2, 5, 30])
def test_draw_by_draw_the_log_mean_weight_lies_between_the_sums(S, partition):
    elbo, iwae = draw_once(ELBO(K)).bound, draw_once(IWAE(K)).bound
    left = draw_once(TVO(K, num_terms=S, partition=partition)).bound
    right = draw_once(TVO(K, num_terms=S, partition=partition, side="right")).bound
    assert (elbo < left).all()
    assert (left < iwae).all()
    assert (iwae < right).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_sums_close_in_on_it_as_one_over_the_number_of_terms(side):
    """A Riemann sum over equal steps is off by half a step times the rise of the integrand."""
    drawn = draw_once(IWAE(K))
    log_weight = drawn.particles.log_weight.detach()
    rise = (torch.softmax(log_weight, 0) * log_weight).sum(0) - log_weight.mean(0)
    sign = {"left": -1, "right": 1}[side]
    off = [
        draw_once(TVO(K, num_terms=S, partition="linear", side=side)).bound - drawn.bound
        for S in (100, 1000)
    ]
    torch.testing.assert_close(1000 * off[1], sign * rise / 2, rtol=0.02, atol=0)
    torch.testing.assert_close(10 * off[1], off[0], rtol=0.2, atol=0)


def test_one_right_term_is_the_mean_under_the_posterior():
    drawn = draw_once(TVO(K, num_terms=1, side="right"))
    log_weight = drawn.particles.log_weight.detach()
    expected = (torch.softmax(log_weight, 0) * log_weight).sum(0)
    torch.testing.assert_close(drawn.bound, expected)


def test_one_left_term_has_the_elbos_value():
    torch.testing.assert_close(draw_once(TVO(K, num_terms=1)).bound, draw_once(ELBO(K)).bound)


@pytest.mark.parametrize("particles", [2, 5])
def test_one_left_term_has_the_elbos_gradient(particles, significance):
    """Theta's and phi's, for any number of particles."""
    exact = exact_gradient(lambda values: mean_log_weight(values, 0.0))
    gradient = replicates(TVO(particles, num_terms=1), COUNT)[1]
    require_gradient(significance, gradient, exact, COPIED)
    # Dividing the covariance by K rather than K - 1 would be seen.
    for name in ("c", "s"):
        gradient[name] = gradient[name] * (particles - 1) / particles
    with pytest.raises(AssertionError):
        require_gradient(significance, gradient, exact, COPIED)


def test_one_draw_is_refused():
    with pytest.raises(ValueError, match=r"TVO needs num_particles >= 2 .*, got 1"):
        TVO(1, num_terms=4)


def exact_sum(values, ends, side):
    nodes = ends[:-1] if side == "left" else ends[1:]
    terms = zip(ends.diff().tolist(), nodes.tolist(), strict=True)
    return sum(width * mean_log_weight(values, b) for width, b in terms)


def sum_gradient(side):
    """Theta's ascends the sum. Phi's ascends a lower and descends an upper bound."""
    ends = TVO(2, num_terms=3).ends(torch.zeros(2, 1, dtype=torch.float64))
    gradient = exact_gradient(lambda values: exact_sum(values, ends, side))
    if side == "right":
        gradient.update({name: -gradient[name] for name in ("c", "s")})
    return gradient


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_covariance_gradient_tends_to_that_of_the_exact_sum(side, significance):
    """Its bias is of order 1/K: twice the one at 2K less the one at K is free of it."""
    few, many = (replicates(TVO(K, num_terms=3, side=side), 6_000, seed=K)[1] for K in (16, 32))
    combined = {name: 2 * many[name] - few[name] for name in COPIED}
    require_gradient(significance, combined, sum_gradient(side), COPIED)
    biased = replicates(TVO(3, num_terms=3, side=side), COUNT)[1]
    with pytest.raises(AssertionError):
        require_gradient(significance, biased, sum_gradient(side), COPIED)
    other = sum_gradient({"left": "right", "right": "left"}[side])
    with pytest.raises(AssertionError):
        require_gradient(significance, combined, other, COPIED)


def test_the_left_sum_is_a_lower_bound_for_every_k(significance):
    significance = significance.split(2)
    bounds = [mean_of(replicates(TVO(K, num_terms=4), COUNT, seed=K)[0]) for K in (2, 8)]
    exact = log_evidence(mild_parameters()).item()
    for lower, higher in itertools.pairwise([*bounds, exact]):
        significance.require_less(lower, higher)


def test_the_right_sum_is_an_upper_bound_of_many_particles_only(significance):
    significance = significance.split(2)
    exact = log_evidence(mild_parameters()).item()
    sums = [TVO(2, num_terms=30, side="right"), TVO(32, num_terms=2, side="right")]
    few, many = (mean_of(replicates(objective, COUNT)[0]) for objective in sums)
    significance.require_less(few, exact)
    significance.require_less(Estimate(-many.value, many.error), -exact)
    assert TVO(2, num_terms=2, side="right").claims.direction == "neither"
    assert TVO(2, num_terms=2).claims.direction == "lower"


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("S", [1, 2, 7])
def test_a_partition_goes_from_zero_to_one(S, partition):
    log_weight = draw_once(ELBO(K)).particles.log_weight.detach()
    ends = TVO(K, num_terms=S, partition=partition).ends(log_weight)
    assert ends.shape == (S + 1,)
    assert (ends[0], ends[-1]) == (0, 1)
    assert (ends.diff() > 0).all()


def test_the_partitions_are_what_they_are_called():
    log_weight = draw_once(ELBO(K)).particles.log_weight.detach()
    linear = TVO(K, num_terms=4, partition="linear").ends(log_weight)
    torch.testing.assert_close(linear, torch.linspace(0, 1, 5).double())
    log = TVO(K, num_terms=4, partition="log", smallest=0.001).ends(log_weight)
    torch.testing.assert_close(log, torch.tensor([0, 1e-3, 1e-2, 1e-1, 1.0]).double())
    moment = TVO(K, num_terms=4, partition="moment").ends(log_weight)
    means = torch.stack([(torch.softmax(b * log_weight, 0) * log_weight).sum(0) for b in moment])
    steps = means.mean(1).diff()
    # Interpolated on a grid of 100 steps.
    torch.testing.assert_close(steps, steps.mean().expand(4), rtol=0.02, atol=0)


def test_equal_weights_leave_the_moment_partition_defined():
    objective = TVO(K, num_terms=5, partition="moment")
    ends = objective.ends(torch.zeros(K, 3, dtype=torch.float64))
    assert ends.isfinite().all()
    assert (ends.diff() >= 0).all()


def test_arguments(unchecked_types):
    for kwargs, message in [
        ({"num_terms": 0}, "S >= 1"),
        ({"partition": "cubic"}, "log, linear or moment"),
        ({"side": "top"}, "left or right"),
        ({"smallest": 1.0}, "between 0 and 1"),
        ({"smallest": math.nan}, "between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            TVO(**({"num_terms": 3, "num_particles": 4} | kwargs))
