"""Every estimator of one draw in closed form, written with loops over particles.

All of them are of one shape: weights v_k of the direct gradient of log p(x, z_k), u_k of the path
through z_k, g_k of the score of q. The weights are worked out here from log w alone.
"""

import math

import pytest
import torch

from ppl_vae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    MIWAE,
    PIWAE,
    RWS,
    STL,
    TVO,
    VIMCO,
    DReG,
    Reinforce,
    Renyi,
    TailAdaptive,
    VRMax,
)

from .linear import NOISE, X, draw_once, parameters
from .wrong_variants import MissingDetach, OneWeightForTheBatch, WrongAxis


def normalized(weights):
    total = sum(weights)
    return [w / total for w in weights]


def powered(log_weight, power):
    return normalized([math.exp(power * value) for value in log_weight])


def log_mean(log_weight):
    return math.log(sum(math.exp(value) for value in log_weight) / len(log_weight))


def uniform(log_weight):
    return [1 / len(log_weight)] * len(log_weight)


def zero(log_weight):
    return [0.0] * len(log_weight)


def minus(weights):
    return lambda log_weight: [-value for value in weights(log_weight)]


def power(n):
    return lambda log_weight: powered(log_weight, n)


def squared(log_weight):
    return [v**2 for v in powered(log_weight, 1)]


def grouped(num_groups, weights):
    """The weights within runs of consecutive particles, each run counting alike."""

    def whole(log_weight):
        size = len(log_weight) // num_groups
        runs = [log_weight[i * size : (i + 1) * size] for i in range(num_groups)]
        return [v / num_groups for run in runs for v in weights(run)]

    return whole


def without(log_weight, k):
    return [value for j, value in enumerate(log_weight) if j != k]


def vimco(log_weight):
    """L_K - L_K^(-k), less the score in log w_k."""
    gains = []
    for k, v in enumerate(powered(log_weight, 1)):
        others = without(log_weight, k)
        filled = [*others, sum(others) / len(others)]
        gains.append(log_mean(log_weight) - log_mean(filled) - v)
    return gains


def leave_one_out(log_weight):
    count = len(log_weight)
    return [
        (value - sum(without(log_weight, k)) / (count - 1)) / count
        for k, value in enumerate(log_weight)
    ]


def tail(log_weight):
    return normalized([1 / sum(other >= own for other in log_weight) for own in log_weight])


def largest(log_weight):
    return [float(value == max(log_weight)) for value in log_weight]


def mixed(beta):
    return lambda log_weight: [
        beta / len(log_weight) + (1 - beta) * v for v in powered(log_weight, 1)
    ]


def referred(n, log_reference):
    """Weights of the unbiased gradient of E[w^n] exp(-n reference) / n."""
    return lambda log_weight: [
        math.exp(n * (value - log_reference)) / len(log_weight) for value in log_weight
    ]


LARGEST, V = largest, power(1)
# Objective, v, u, g.
ESTIMATORS = [
    (ELBO(4), uniform, uniform, minus(uniform)),
    (STL(4), uniform, uniform, zero),
    (Reinforce(4), uniform, zero, leave_one_out),
    (IWAE(4), V, V, minus(V)),
    (IWAESTL(4), V, V, zero),
    (DReG(4), V, squared, zero),
    (VIMCO(4), V, zero, vimco),
    (RWS(4), V, zero, V),
    (MIWAE(3, num_bounds=2), grouped(2, V), grouped(2, V), minus(grouped(2, V))),
    (PIWAE(3, num_bounds=2), V, grouped(2, V), minus(grouped(2, V))),
    (CIWAE(4, beta=0.3), mixed(0.3), mixed(0.3), minus(mixed(0.3))),
    (Renyi(4, alpha=0.4), power(0.6), power(0.6), minus(power(0.6))),
    (Renyi(4, alpha=2.0), power(-1), power(-1), minus(power(-1))),
    (VRMax(4), LARGEST, LARGEST, minus(LARGEST)),
    (CUBO(4, order=2), V, minus(power(2)), power(2)),
    (CUBO(4, order=2, log_reference=-3.0), V, minus(referred(2, -3.0)), referred(2, -3.0)),
    (TailAdaptive(4), uniform, tail, zero),
]


def by_datum(weights, log_weight):
    rows = [weights(column) for column in log_weight.T.tolist()]
    return torch.tensor(rows, dtype=torch.float64).T


def by_hand(z, v, u, g):
    """The gradient of the sum over data, from the three kinds of weights, (particles, batch)."""
    W, b, m, t, A, c, s = (value.detach() for value in parameters().values())
    residual = (X - z @ W - b) / NOISE**2
    from_prior = (z - m) / t.exp() ** 2
    noise = (z - X @ A - c) / s.exp()
    path = residual @ W.T - from_prior + noise / s.exp()  # d log w / dz

    def sum_of(weight, value):
        return torch.einsum("kn,knl->l", weight, value)

    def of_x(weight, value):
        return torch.einsum("kn,nf,knl->fl", weight, X, value)

    return {
        "W": torch.einsum("kn,knl,knf->lf", v, z, residual),
        "b": sum_of(v, residual),
        "m": sum_of(v, from_prior),
        "t": sum_of(v, from_prior * (z - m) - 1),
        "A": of_x(u, path) + of_x(g, noise / s.exp()),
        "c": sum_of(u, path) + sum_of(g, noise / s.exp()),
        "s": sum_of(u, path * noise * s.exp()) + sum_of(g, noise**2 - 1),
    }


def check(objective, *weights):
    drawn = draw_once(objective)
    log_weight = drawn.particles.log_weight.detach()
    v, u, g = (by_datum(weight, log_weight) for weight in weights)
    expected = by_hand(drawn.particles.latents["z"].detach(), v, u, g)
    torch.testing.assert_close(drawn.gradient, expected)


@pytest.mark.parametrize(("objective", "v", "u", "g"), ESTIMATORS, ids=lambda o: repr(o)[:20])
def test_in_closed_form(objective, v, u, g):
    check(objective, v, u, g)


@pytest.mark.parametrize("wrong", [OneWeightForTheBatch, WrongAxis, MissingDetach])
def test_of_the_test(wrong):
    """The mistakes that change a gradient do not pass for IWAE."""
    with pytest.raises(AssertionError):
        check(wrong(4), V, V, minus(V))


@pytest.mark.parametrize("objective", [DReG(4), IWAESTL(4), STL(4)], ids=repr)
def test_dreg_is_none_of_its_neighbours(objective):
    wrong = {DReG: (squared, squared, zero), IWAESTL: (V, squared, zero), STL: (V, V, zero)}
    with pytest.raises(AssertionError):
        check(objective, *wrong[type(objective)])


def covariance(log_weight):
    """The leave-one-out score, less a score of expectation 0."""
    return [gain - 1 / len(log_weight) for gain in leave_one_out(log_weight)]


def test_one_left_term_of_the_thermodynamic_sum_has_the_elbos_gradient_in_expectation():
    check(TVO(4, num_terms=1), uniform, zero, covariance)
