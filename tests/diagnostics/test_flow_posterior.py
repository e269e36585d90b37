"""The best flow for each datum, where the best guide is known, or log p(x) is by quadrature."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain
from significance import Estimate as Measured
from significance import mean_of

from ppl_vae.diagnostics import GapSettings, inference_gap
from ppl_vae.diagnostics._richer_posteriors import refine_flow
from ppl_vae.diagnostics._richer_posteriors import refine_full_covariance as refine_full
from ppl_vae.evidence import Evidence, Quadrature
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import Programs, draw_particles
from ppl_vae.refinement import Refinement, refine

MODEL = LinearGaussian.random(6, 3, 0.8, seed=2)
X = MODEL.simulate(4)
SHORT = Refinement(steps=60, learning_rate=0.05, num_particles=16)


def wide(latent):
    """Far from any posterior here, and the same for all data."""

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = torch.zeros(len(x), latent, dtype=torch.float64)
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    return guide


def seen_through(function, noise, latent=2):
    """z ~ N(0, I), x|z ~ Normal(function(z), noise)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(function(z), noise).to_event(1), obs=x)

    return model


def bend(z):
    """Posteriors along a parabola."""
    return z[..., 1:] - z[..., :1].square()


def length(z):
    """Posteriors that are rings."""
    return z.square().sum(-1, keepdim=True)


def weights_of(model, guide, x, count=100):
    torch.manual_seed(7)
    with torch.no_grad():
        return draw_particles(model, guide, x, count).log_weight


def test_without_a_step_it_is_the_guide_that_it_starts_from():
    model = seen_through(bend, 0.3)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    start = refine(model, wide(2), x, steps=10)
    flow = refine_flow(Programs(model, start), x, Refinement(steps=0))
    torch.testing.assert_close(weights_of(model, flow, x), weights_of(model, start, x))


def test_it_finds_a_normal_posterior(significance):
    """As a full covariance does; a diagonal normal cannot."""
    torch.manual_seed(1)
    model = MODEL.vae().model
    start = refine(model, wide(3), X, steps=100, learning_rate=0.05)
    guides = [
        start,
        *(find(Programs(model, start), X, SHORT) for find in (refine_flow, refine_full)),
    ]
    diagonal, flow, full = (weights_of(model, q, X, 1000).mean(1) for q in guides)
    significance = significance.split(3)
    significance.require_equal(mean_of(flow), MODEL.log_evidence(X).mean().item())
    significance.require_equal(mean_of(flow - full), 0.0)
    significance.require_less(Measured(0.0, 0.0), mean_of(flow - diagonal))


@pytest.mark.parametrize(
    ("function", "noise", "x"),
    [(bend, 0.3, [[0.0], [1.0], [-1.0]]), (length, 0.5, [[1.0], [2.0]])],
    ids=["bend", "ring"],
)
def test_on_posteriors_that_are_no_normals(function, noise, x, significance):
    model, x = seen_through(function, noise), torch.tensor(x, dtype=torch.float64)
    evidence = Quadrature()(model, wide(2), x)
    gap = inference_gap(
        model, wide(2), x, evidence, GapSettings(SHORT, True, True, num_particles=2000)
    )
    exact = gap.log_evidence.value
    found = {
        name: Measured(gap.refined_bound.value + more.value, more.monte_carlo_error)
        for name, more in (("full", gap.correlation), ("flow", gap.shape))
    }
    significance = significance.split(2)
    significance.require_less(found["full"], found["flow"])
    # Never above log p(x), and most of what a normal loses is found.
    limit = significance.limit * found["flow"].error
    assert -limit < exact - found["flow"].value < 0.5 * (exact - found["full"].value)


def test_of_one_latent(significance):
    model = seen_through(lambda z: z.exp(), 0.3, latent=1)
    x = torch.tensor([[0.1], [0.5]], dtype=torch.float64)
    evidence = Quadrature()(model, wide(1), x)
    gap = inference_gap(model, wide(1), x, evidence, GapSettings(SHORT, flow=True))
    shape = Measured(gap.shape.value, gap.shape.monte_carlo_error)
    significance.split(2).require_less(Measured(0.0, 0.0), shape)
    left = gap.approximation.value - gap.shape.value
    assert abs(left) < 0.1 * gap.approximation.value


@pytest.fixture(scope="module")
def gaps():
    x = X[:2]
    ones = torch.ones(len(x), dtype=torch.float64)
    log_prob = MODEL.log_evidence(x).detach()
    evidence = Evidence(log_prob, 0 * ones, ones, 1, "exact", "closed form", 0.0)
    model, few = MODEL.vae().model, Refinement(steps=2)
    return [
        inference_gap(model, wide(3), x, evidence, GapSettings(few, flow=flow), seed=3)
        for flow in (False, True, True)
    ]


class TestWhatItSays:
    def test_it_is_a_row_where_it_was_asked_for(self, gaps):
        without, with_flow, _ = gaps
        assert without.shape is None
        assert "normal shape" not in str(without)
        assert "of it, the normal shape" in str(with_flow)
        assert json.loads(json.dumps(with_flow.summary()))["shape"]["value"] == (
            with_flow.shape.value
        )

    def test_same_seed_same_numbers_and_the_others_do_not_move(self, gaps):
        without, first, second = gaps
        assert first.shape == second.shape
        assert first.approximation == without.approximation

    def test_two_sites_are_refused(self):
        chain = LinearChain()
        x = chain.simulate(3)
        with pytest.raises(ValueError, match=r"a flow needs .* got u, v: leave it out"):
            refine_flow(Programs(chain.model, chain.rough), x, SHORT)
