"""Closed-form KLs, used where they are exact and nowhere else."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from significance import mean_of

from ppl_vae.objectives import ELBO, AnalyticELBO, site_kl

from .wrong_variants import AlwaysAnalytic

CHAIN = LinearChain()
X = CHAIN.simulate(1)
COUNT = 20_000


def replicates(objective, guide):
    with torch.no_grad():
        return objective.bound(objective.draw(CHAIN.model, guide, X.expand(COUNT, -1)))


def ordered(first, second, given):
    """A diagonal guide that draws one layer, then the other around a map of it."""
    sizes = {"u": 2, "v": 3}
    gain = 0.3 * torch.ones(sizes[first], sizes[second], dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x[:, : sizes[first]] / 2
            a = pyro.sample(first, dist.Normal(loc, 0.6).to_event(1))
            loc = a @ gain if given else torch.zeros(sizes[second], dtype=torch.float64)
            pyro.sample(second, dist.Normal(loc, 0.7).to_event(1))

    return guide


TOP_DOWN = ordered("u", "v", given=True)
BOTTOM_UP = ordered("v", "u", given=True)


@pytest.mark.parametrize("guide", [TOP_DOWN, BOTTOM_UP], ids=["top-down", "bottom-up"])
def test_same_expectation_as_the_elbo(guide, significance):
    analytic, elbo = (mean_of(replicates(o(2), guide)) for o in (AnalyticELBO, ELBO))
    significance.require_equal(analytic, elbo)


def test_in_the_models_order_it_is_pyros_mean_field_elbo():
    x = CHAIN.simulate(5)
    values = []
    for objective in (AnalyticELBO(1), TraceMeanField_ELBO(), AlwaysAnalytic(1)):
        torch.manual_seed(1)
        values.append(objective.loss(CHAIN.model, TOP_DOWN, x))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert values[0] == pytest.approx(values[2], rel=1e-12)


def test_in_the_other_order_pyros_mean_field_elbo_is_wrong(significance):
    """The test of the test above: it tells a wrong closed form from the right value."""
    x = CHAIN.simulate(5)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="mean field restriction"):
        pyros = TraceMeanField_ELBO().loss(CHAIN.model, BOTTOM_UP, x)
    torch.manual_seed(1)
    assert pyros == pytest.approx(AlwaysAnalytic(1).loss(CHAIN.model, BOTTOM_UP, x), rel=1e-12)
    wrong, right = (mean_of(replicates(o(2), BOTTOM_UP)) for o in (AlwaysAnalytic, ELBO))
    with pytest.raises(AssertionError):
        significance.require_equal(wrong, right)


@pytest.mark.parametrize(
    ("guide", "exact"),
    [
        (TOP_DOWN, {"u", "v"}),
        # p(v|u) depends on v through the u that the guide draws from it: no closed form.
        (BOTTOM_UP, {"u"}),
    ],
    ids=["top-down", "bottom-up"],
)
def test_which_sites_are_in_closed_form(guide, exact):
    particles = ELBO(3).draw(CHAIN.model, guide, CHAIN.simulate(5))
    for name in "uv":
        monte_carlo = particles.log_guide[name] - particles.log_prior[name]
        assert torch.equal(site_kl(particles, name), monte_carlo) == (name not in exact)


def test_the_closed_form_has_less_variance_than_the_draws():
    with torch.no_grad():
        particles = ELBO(500).draw(CHAIN.model, TOP_DOWN, X)
    monte_carlo = particles.log_guide["u"] - particles.log_prior["u"]
    closed_form = site_kl(particles, "u")
    assert torch.equal(closed_form, closed_form[:1].expand_as(closed_form))
    assert monte_carlo.std() > 0.1


@pytest.mark.parametrize("guide", [CHAIN.top_down, CHAIN.bottom_up], ids=["down", "up"])
def test_no_registered_kl_falls_back_to_draws(guide):
    """A multivariate normal against independent ones: at the posterior each draw is exact."""
    x = CHAIN.simulate(5)
    particles = ELBO(3).draw(CHAIN.model, guide, x)
    torch.testing.assert_close(ELBO(3).bound(particles), CHAIN.log_evidence(x))
    torch.testing.assert_close(AnalyticELBO(3).bound(particles), CHAIN.log_evidence(x))


def test_masked_sites_take_their_draws():
    """The mask of a handler is not in the distributions, so a closed form would ignore it."""
    x = CHAIN.simulate(5)
    mask = torch.tensor([True, False, True, True, False])
    programs = (poutine.mask(p, mask=mask) for p in (CHAIN.model, TOP_DOWN))
    particles = ELBO(3).draw(*programs, x)
    bound = AnalyticELBO(3).bound(particles)
    assert bound[[1, 4]].tolist() == [0, 0]
    torch.testing.assert_close(bound, ELBO(3).bound(particles))


def test_sites_in_inner_plates_are_summed():
    x = torch.randn(5, 3)

    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("features", 3, dim=-2):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w, 0.5), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("features", 3, dim=-2):
            pyro.sample("w", dist.Normal(x.T, 0.7))

    torch.manual_seed(1)
    ours = AnalyticELBO(4).with_plate_nesting(2)
    bound = ours.bound(ours.draw(model, guide, x))
    assert bound.shape == (5,)
    theirs = TraceMeanField_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=2)
    torch.manual_seed(1)
    assert bound.sum().item() == pytest.approx(-theirs.loss(model, guide, x), rel=1e-5)


def test_a_site_that_stands_outside_the_inner_plate():
    x = torch.randn(5, 3)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            with pyro.plate("features", 3, dim=-2):
                pyro.sample("x", dist.Normal(u, 0.5), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("u", dist.Normal(x.mean(1), 0.7))

    ours = AnalyticELBO(4).with_plate_nesting(2)
    torch.manual_seed(1)
    bound = ours.bound(ours.draw(model, guide, x))
    theirs = TraceMeanField_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=2)
    torch.manual_seed(1)
    assert bound.sum().item() == pytest.approx(-theirs.loss(model, guide, x), rel=1e-5)
