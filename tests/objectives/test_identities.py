"""What one draw must give alike under two objectives: values and gradients, in float64."""

import pytest
import torch

from ppl_vae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    MIWAE,
    MMD,
    PIWAE,
    RWS,
    STL,
    TVO,
    VIMCO,
    BetaTC,
    DReG,
    GeneralizedDReG,
    InfoVAE,
    Reinforce,
    Renyi,
    TailAdaptive,
    VRMax,
)

from .linear import PHI, THETA, draw_once, restrict

EVERYTHING = THETA + PHI
LIKELIHOOD = ("W", "b")
SAME = [
    (MIWAE(1, 5), IWAE(5), EVERYTHING),
    (MIWAE(5, 1), ELBO(5), EVERYTHING),
    (IWAE(1), ELBO(1), EVERYTHING),
    (PIWAE(1, 5), IWAE(5), EVERYTHING),
    (PIWAE(5, 1), IWAE(5), THETA),
    (PIWAE(5, 1), ELBO(5), PHI),
    (PIWAE(3, 4), IWAE(12), THETA),
    (PIWAE(3, 4), MIWAE(3, 4), PHI),
    (Renyi(0.0, 5), IWAE(5), EVERYTHING),
    (Renyi(1.0, 5), ELBO(5), EVERYTHING),
    (CIWAE(5, 0.0), IWAE(5), EVERYTHING),
    (CIWAE(5, 1.0), ELBO(5), EVERYTHING),
    (STL(1), IWAESTL(1), EVERYTHING),
    (STL(1), DReG(1), EVERYTHING),
    (STL(1), TailAdaptive(1), EVERYTHING),
    (STL(5), ELBO(5), THETA),
    (IWAESTL(5), IWAE(5), THETA),
    (DReG(5), IWAE(5), THETA),
    (GeneralizedDReG(5), DReG(5), LIKELIHOOD + PHI),
    (VIMCO(5), IWAE(5), THETA),
    (RWS(5), IWAE(5), THETA),
    (RWS(5, "sleep"), IWAE(5), THETA),
    (RWS(5, "both"), IWAE(5), THETA),
    (Reinforce(5), ELBO(5), THETA),
    (TVO(1, 5), ELBO(5), THETA),
    (TailAdaptive(5), ELBO(5), THETA),
    (CUBO(1, 5), IWAE(5), THETA),
    (CUBO(2, 5), IWAE(5), THETA),
    (CUBO(2, 5, log_reference=-4.0), IWAE(5), THETA),
    (InfoVAE(0.0, 1.0, 5), ELBO(5), EVERYTHING),
    (InfoVAE(1.0, 7.0, 5), MMD(7.0, 5), EVERYTHING),
    (MMD(0.0, 5), ELBO(5), LIKELIHOOD),
    (BetaTC(1.0, 1.0, 1.0, 5), ELBO(5), EVERYTHING),
]
"""One objective, another, and the parameters whose gradients they share."""


@pytest.mark.parametrize(("one", "other", "names"), SAME, ids=str)
def test_the_same_gradient(one, other, names):
    left, right = draw_once(one), draw_once(other)
    torch.testing.assert_close(left.particles.log_weight, right.particles.log_weight)
    torch.testing.assert_close(restrict(left.gradient, names), restrict(right.gradient, names))
    # The comparison is not of zeros.
    assert all(value.abs().min() > 1e-6 for value in restrict(left.gradient, names).values())


def elbo(log_weight):
    return log_weight.mean(0)


def iwae(log_weight):
    return log_weight.exp().mean(0).log()


VALUES = {
    elbo: [
        ELBO(6), STL(6), Reinforce(6), TailAdaptive(6), TVO(1, 6), Renyi(1.0, 6),
        MIWAE(6, 1), CIWAE(6, 1.0), MMD(3.0, 6), InfoVAE(0.5, 3.0, 6), BetaTC(4.0, 2.0, 3.0, 6),
    ],
    iwae: [
        IWAE(6), IWAESTL(6), DReG(6), GeneralizedDReG(6), VIMCO(6), RWS(6), PIWAE(2, 3),
        PIWAE(3, 2), MIWAE(1, 6), Renyi(0.0, 6), CIWAE(6, 0.0), CUBO(1, 6),
    ],
    lambda w: (iwae(w[:3]) + iwae(w[3:])) / 2: [MIWAE(2, 3)],
    lambda w: 0.25 * elbo(w) + 0.75 * iwae(w): [CIWAE(6, 0.25)],
    lambda w: iwae(3 * w) / 3: [CUBO(3, 6), Renyi(-2.0, 6)],
    lambda w: -iwae(-w): [Renyi(2.0, 6)],
    lambda w: w.max(0).values: [VRMax(6)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "objective"),
    [pytest.param(v, o, id=repr(o)) for v, objectives in VALUES.items() for o in objectives],
)
def test_the_value_is_the_formula(value, objective):
    drawn = draw_once(objective)
    torch.testing.assert_close(drawn.bound, value(drawn.particles.log_weight.detach()))


def test_the_chi_bound_of_order_one_is_descended_by_phi():
    cubo, iwae = draw_once(CUBO(1, 5)).gradient, draw_once(IWAE(5)).gradient
    torch.testing.assert_close({n: -cubo[n] for n in PHI}, restrict(iwae, PHI))
