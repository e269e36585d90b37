"""The discrepancy of aggregate posterior and prior: unbiased, and known where both are normal."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from significance import mean_of
from torch import nn

from ppl_vae.objectives import MMD, InfoVAE
from ppl_vae.objectives._aggregate import discrepancy
from ppl_vae.particles import Simulation

from .linear import draw_once

# Thousands of draws: annotations are checked with each objective in other tests.
pytestmark = pytest.mark.usefixtures("unchecked_types")

K, BATCH, COUNT = 3, 6, 1_000
SPREAD, SHIFT, WITHIN = 0.8, 0.5, 0.6
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_around(shift, within):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + shift, within).to_event(1))

    return guide


def with_draws(particles, z, prior):
    """Particles of other draws."""
    unused = torch.zeros(z.shape[:2])
    return replace(
        particles,
        latents={"z": z},
        log_prior={"z": unused},
        log_guide={"z": unused},
        log_likelihood=unused,
        simulation=Simulation({"z": prior}),
    )


def particles_as_data(z):
    """The mistake: a datum's draws taken for independent draws of the aggregate posterior."""
    return z.transpose(0, 1).flatten(1, 2).unsqueeze(0)


def estimates(shift, spread, within, change=lambda z: z, model=model):
    """One from each of many batches, x ~ Normal(0, spread^2), z|x ~ Normal(x + shift, within^2)."""
    x = spread * torch.randn(COUNT * BATCH, 1, dtype=torch.float64)
    everything = MMD(K, weight=1.0).draw(model, guide_around(shift, within), x)
    draws = (everything.latents["z"], everything.simulation.latents["z"])
    batches = zip(*(change(z.unflatten(1, (-1, BATCH))).unbind(1) for z in draws), strict=True)
    return torch.stack([discrepancy(with_draws(everything, *batch)) for batch in batches])


def mean_kernel(shift, variance):
    """Expectation of the kernel between draws whose difference is Normal(shift, variance)."""

    def integrand(d):
        density = math.exp(-((d - shift) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        return density * sum(2 * c / (2 * c + d**2) for c in SCALES)

    return quad(integrand, -20, 20, epsabs=1e-10, limit=200)[0]


def exact(shift, variance):
    """Between Normal(shift, variance) and Normal(0, 1)."""
    own, prior = mean_kernel(0, 2 * variance), mean_kernel(0, 2)
    return own + prior - 2 * mean_kernel(shift, 1 + variance)


def test_it_is_zero_on_average_where_the_aggregate_is_the_prior(significance):
    significance.require_equal(mean_of(estimates(0.0, SPREAD, math.sqrt(1 - SPREAD**2))), 0)


def test_it_is_the_integral_between_two_normals(significance):
    expected = exact(SHIFT, SPREAD**2 + WITHIN**2)
    assert expected > 0
    significance.require_equal(mean_of(estimates(SHIFT, SPREAD, WITHIN)), expected)


@pytest.mark.parametrize(("shift", "within"), [(0.0, math.sqrt(1 - SPREAD**2)), (SHIFT, WITHIN)])
def test_of_the_test(shift, within, significance):
    wrong = mean_of(estimates(shift, SPREAD, within, particles_as_data))
    with pytest.raises(AssertionError):
        significance.require_equal(wrong, exact(shift, SPREAD**2 + within**2))


def test_the_gradient_of_a_learned_prior_is_unbiased(significance):
    """Every row has its own copy of the prior's mean."""
    loc = torch.zeros(COUNT * BATCH, 1, dtype=torch.float64, requires_grad=True)

    def learned(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    estimates(SHIFT, SPREAD, WITHIN, model=learned).sum().backward()
    gradient = loc.grad.reshape(COUNT, BATCH).sum(1)
    variance, step = SPREAD**2 + WITHIN**2, 1e-4
    slope = (exact(SHIFT - step, variance) - exact(SHIFT + step, variance)) / (2 * step)
    significance.require_equal(mean_of(gradient), slope)


def test_by_pairs_with_loops():
    particles = MMD(2, weight=1.0).draw(model, guide_around(0.3, 0.5), torch.randn(4, 1).double())
    q = particles.latents["z"].squeeze(-1).tolist()
    p = particles.simulation.latents["z"].flatten().tolist()

    def kernel(a, b):
        return sum(2 * c / (2 * c + (a - b) ** 2) for c in SCALES)

    def mean(values):
        return sum(values) / len(values)

    draws = [(datum, z) for row in q for datum, z in enumerate(row)]
    within_q = mean([kernel(a, b) for i, a in draws for j, b in draws if i != j])
    within_p = mean([kernel(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j])
    between = mean([kernel(a, b) for _, a in draws for b in p])
    assert discrepancy(particles).item() == pytest.approx(within_q + within_p - 2 * between)


def test_what_is_differentiated():
    """The log-likelihood and the discrepancy, of which every datum has the whole."""
    for objective, kl_share, factor in [
        (MMD(3, weight=7.0), 0.0, 7.0),
        (InfoVAE(3, alpha=0.3, weight=7.0), 0.7, 6.3),
        (InfoVAE(3, alpha=-1.0, weight=3.0), 2.0, 1.0),
    ]:
        drawn = draw_once(objective)
        p = drawn.particles
        kl = (p.log_proposal - p.log_latent_prior).mean(0)
        expected = p.log_likelihood.mean(0) - kl_share * kl - factor * discrepancy(p)
        torch.testing.assert_close(objective.surrogate(p, drawn.bound), expected)


def test_without_gradients_no_prior_is_drawn():
    objective = MMD(2, weight=1.0)
    x = torch.randn(1, 1)
    with torch.no_grad():
        particles = objective.draw(model, guide_around(0.0, 1.0), x)
    assert particles.simulation is None
    # So that the bound of one datum can be had.
    assert objective.loss(model, guide_around(0.0, 1.0), x) > 0
    with pytest.raises(ValueError, match="take particles from the objective's draw"):
        discrepancy(particles)


@pytest.mark.parametrize("objective", [MMD(weight=1.0), InfoVAE()], ids=repr)
def test_a_batch_of_one_is_refused(objective):
    with pytest.raises(ValueError, match="batches of 2 data or more"):
        objective.differentiable_loss(model, guide_around(0.0, 1.0), torch.randn(1, 1))


class WithPrior(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.locs = nn.Parameter(torch.zeros(1, 2))

    def forward(self):
        parts = dist.Normal(self.locs, 1.0)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(1, 2)), parts).to_event(1)


@pytest.mark.parametrize("objective", [MMD(weight=1.0), InfoVAE()], ids=repr)
def test_a_learned_prior_without_pathwise_draws_is_refused(objective):
    """It would stay as it is, and nothing would say so."""
    own = WithPrior(Mixture())
    with pytest.raises(ValueError, match=r"prior of latent site 'z' .* would not train"):
        objective.differentiable_loss(own, guide_around(0.0, 1.0), torch.randn(4, 1))
    own.requires_grad_(False)
    objective.differentiable_loss(own, guide_around(0.0, 1.0), torch.randn(4, 1))


def test_all_sites_count_and_inner_plates_stay_with_their_datum():
    def inner_model(x):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("features", 3, dim=-2):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(w + u.sum(-1), 0.5), obs=x.T)

    def inner_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("u", dist.Normal(x[:, :2], 1e-3).to_event(1))
            with pyro.plate("features", 3, dim=-2):
                pyro.sample("w", dist.Normal(x.T, 1e-3))

    x = torch.randn(5, 3)
    inner = MMD(2, weight=1.0).draw(inner_model, inner_guide, x)

    def flat_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :3], 1.0).to_event(1), obs=x)

    def flat_guide(x):
        with pyro.plate("data", len(x)):
            both = torch.cat([x[:, :2], x], -1)
            pyro.sample("z", dist.Normal(both, 1e-3).to_event(1))

    flat = MMD(2, weight=1.0).draw(flat_model, flat_guide, x)
    prior = inner.simulation.latents
    side = torch.cat([prior["u"].squeeze(1), prior["w"].movedim(1, -1)], -1)
    flat = replace(flat, simulation=Simulation({"z": side}))
    # The guide hardly moves, so that both have the same draws up to 1e-3.
    assert discrepancy(inner).item() == pytest.approx(discrepancy(flat).item(), abs=0.01)


def test_arguments():
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="MMD needs a weight"):
            MMD(weight=weight)
    with pytest.raises(ValueError, match="alpha <= 1"):
        InfoVAE(alpha=1.5)
    with pytest.raises(ValueError, match="weight of 1 - alpha or more"):
        InfoVAE(alpha=0.5, weight=0.4)
