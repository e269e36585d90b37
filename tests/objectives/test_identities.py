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
    (MIWAE(5, num_bounds=1), IWAE(5), EVERYTHING),
    (MIWAE(1, num_bounds=5), ELBO(5), EVERYTHING),
    (IWAE(1), ELBO(1), EVERYTHING),
    (PIWAE(5, num_bounds=1), IWAE(5), EVERYTHING),
    (PIWAE(1, num_bounds=5), IWAE(5), THETA),
    (PIWAE(1, num_bounds=5), ELBO(5), PHI),
    (PIWAE(4, num_bounds=3), IWAE(12), THETA),
    (PIWAE(4, num_bounds=3), MIWAE(4, num_bounds=3), PHI),
    (Renyi(5, alpha=0.0), IWAE(5), EVERYTHING),
    (Renyi(5, alpha=1.0), ELBO(5), EVERYTHING),
    (CIWAE(5, beta=0.0), IWAE(5), EVERYTHING),
    (CIWAE(5, beta=1.0), ELBO(5), EVERYTHING),
    (STL(1), IWAESTL(1), EVERYTHING),
    (STL(1), DReG(1), EVERYTHING),
    (STL(1), TailAdaptive(1), EVERYTHING),
    (STL(5), ELBO(5), THETA),
    (IWAESTL(5), IWAE(5), THETA),
    (DReG(5), IWAE(5), THETA),
    (GeneralizedDReG(5), DReG(5), LIKELIHOOD + PHI),
    (VIMCO(5), IWAE(5), THETA),
    (RWS(5), IWAE(5), THETA),
    (RWS(5, phi="sleep"), IWAE(5), THETA),
    (RWS(5, phi="both"), IWAE(5), THETA),
    (Reinforce(5), ELBO(5), THETA),
    (TVO(5, num_terms=1), ELBO(5), THETA),
    (TailAdaptive(5), ELBO(5), THETA),
    (CUBO(5, order=1), IWAE(5), THETA),
    (CUBO(5, order=2), IWAE(5), THETA),
    (CUBO(5, order=2, log_reference=-4.0), IWAE(5), THETA),
    (InfoVAE(5, alpha=0.0, weight=1.0), ELBO(5), EVERYTHING),
    (InfoVAE(5, alpha=1.0, weight=7.0), MMD(5, weight=7.0), EVERYTHING),
    (MMD(5, weight=0.0), ELBO(5), LIKELIHOOD),
    (BetaTC(5, beta=1.0, alpha=1.0, gamma=1.0), ELBO(5), EVERYTHING),
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
        ELBO(6), STL(6), Reinforce(6), TailAdaptive(6), TVO(6, num_terms=1), Renyi(6, alpha=1.0),
        MIWAE(1, num_bounds=6), CIWAE(6, beta=1.0), MMD(6, weight=3.0),
        InfoVAE(6, alpha=0.5, weight=3.0), BetaTC(6, beta=4.0, alpha=2.0, gamma=3.0),
    ],
    iwae: [
        IWAE(6), IWAESTL(6), DReG(6), GeneralizedDReG(6), VIMCO(6), RWS(6), PIWAE(3, num_bounds=2),
        PIWAE(2, num_bounds=3), MIWAE(6, num_bounds=1), Renyi(6, alpha=0.0), CIWAE(6, beta=0.0),
        CUBO(6, order=1),
    ],
    lambda w: (iwae(w[:3]) + iwae(w[3:])) / 2: [MIWAE(3, num_bounds=2)],
    lambda w: 0.25 * elbo(w) + 0.75 * iwae(w): [CIWAE(6, beta=0.25)],
    lambda w: iwae(3 * w) / 3: [CUBO(6, order=3), Renyi(6, alpha=-2.0)],
    lambda w: -iwae(-w): [Renyi(6, alpha=2.0)],
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
    cubo, iwae = draw_once(CUBO(5, order=1)).gradient, draw_once(IWAE(5)).gradient
    torch.testing.assert_close({n: -cubo[n] for n in PHI}, restrict(iwae, PHI))
