"""Latents on a sphere, in a model of which posterior and log p(x) are known."""

import math

import pyro.distributions as dist
import pytest
import torch
from significance import Estimate, mean_of
from torch import nn

from ppl_vae.distributions import VonMisesFisher, sphere_cumulants
from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    ImportanceSampling,
    Quadrature,
)
from ppl_vae.guides import VonMisesFisherEncoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, STL, AnalyticELBO, DReG
from ppl_vae.particles import draw_particles
from ppl_vae.priors import UniformSpherePrior
from ppl_vae.vae import VAE

FEATURES, NOISE, RADIUS = 6, 0.5, 1.5


class Exact(nn.Module):
    """z uniform on the sphere of R^m, x|z ~ Normal(r W z, s^2 I) with W'W = I; float64.

    The posterior is von Mises-Fisher with kappa mu = r W'x / s^2, log p(x) is
    ``log Normal(x; 0, s^2 I) - r^2 / (2 s^2) + log E exp(kappa t)``.
    """

    def __init__(self, latent):
        super().__init__()
        generator = torch.Generator().manual_seed(latent)
        draw = torch.randn(FEATURES, latent, dtype=torch.float64, generator=generator)
        self.weight = nn.Parameter(torch.linalg.qr(draw)[0])
        self.prior = UniformSpherePrior(latent).double()

    def decoder(self, z):
        return dist.Normal(RADIUS * z @ self.weight.T, NOISE).to_event(1)

    def natural(self, x):
        return RADIUS * x @ self.weight / NOISE**2

    def posterior(self, x):
        natural = self.natural(x)
        size = natural.norm(dim=-1)
        return VonMisesFisher(natural / size.unsqueeze(-1), size)

    def log_evidence(self, x):
        noise = dist.Normal(torch.zeros(FEATURES).double(), NOISE).to_event(1)
        log_mean = sphere_cumulants(self.natural(x).norm(dim=-1), self.weight.shape[1])[0]
        return noise.log_prob(x) - RADIUS**2 / (2 * NOISE**2) + log_mean

    def simulate(self, number):
        with torch.no_grad():
            return self.decoder(self.prior().sample((number,))).sample()

    def vae(self, encoder=None):
        return VAE(self.prior, self.decoder, encoder or self.posterior)


class Rough(nn.Module):
    """The posterior stretched and turned, by parameters."""

    def __init__(self, exact):
        super().__init__()
        self.exact = (exact,)
        self.stretch = nn.Parameter(torch.tensor(0.6, dtype=torch.float64))
        self.turn = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, x):
        natural = self.exact[0].natural(x).detach()
        size = natural.norm(dim=-1)
        loc = nn.functional.normalize(natural + self.turn * natural.roll(1, -1), dim=-1)
        return VonMisesFisher(loc, self.stretch * size)


def standing(latent, number=8):
    exact = Exact(latent)
    torch.manual_seed(5)
    return exact, exact.simulate(number)


@pytest.mark.parametrize("latent", [2, 3, 5])
class TestAtThePosterior:
    def test_every_log_weight_is_log_evidence(self, latent):
        exact, x = standing(latent)
        vae = exact.vae()
        particles = draw_particles(vae.model, vae.guide, x, 7)
        expected = exact.log_evidence(x).expand(7, -1)
        torch.testing.assert_close(particles.log_weight, expected)

    @pytest.mark.parametrize("objective", [STL(2), DReG(4)], ids=repr)
    def test_gradients_that_vanish_there_do(self, latent, objective):
        exact, x = standing(latent)
        guide = Rough(exact)
        with torch.no_grad():
            guide.stretch.fill_(1)
            guide.turn.fill_(0)
        vae = exact.vae(guide)
        objective.differentiable_loss(vae.model, vae.guide, x).backward()
        for parameter in guide.parameters():
            assert parameter.grad.abs().item() < 1e-9


@pytest.mark.parametrize("latent", [2, 3, 5])
def test_importance_sampling_finds_the_evidence(latent, significance):
    exact, x = standing(latent, number=4)
    vae = exact.vae(Rough(exact))
    found = ImportanceSampling(20_000)(vae.model, vae.guide, x)
    for i, log_evidence in enumerate(exact.log_evidence(x).tolist()):
        estimate = Estimate(found.log_prob[i].item(), found.standard_error[i].item())
        significance.split(4).require_equal(estimate, log_evidence)


def exact_elbo(guide, exact, x):
    """By hand: the likelihood is linear in z on the sphere."""
    q = guide(x)
    fit = (exact.natural(x) * q.mean).sum(-1)
    noise = dist.Normal(torch.zeros(FEATURES).double(), NOISE).to_event(1)
    divergence = torch.distributions.kl_divergence(q, exact.prior())
    return noise.log_prob(x) - RADIUS**2 / (2 * NOISE**2) + fit - divergence


@pytest.mark.parametrize("latent", [2, 3, 5])
@pytest.mark.parametrize("objective", [ELBO(), AnalyticELBO(), STL()], ids=repr)
def test_bounds_and_gradients_are_unbiased(latent, objective, significance):
    """Against the ELBO in closed form and its derivatives."""
    exact, rows = standing(latent, number=1)
    guide, count = Rough(exact), 5000
    elbo = exact_elbo(guide, exact, rows)[0]
    expected = torch.autograd.grad(elbo, list(guide.parameters()))
    copies = {n: p.detach().expand(count).clone() for n, p in guide.named_parameters()}
    leaves = {name: value.requires_grad_() for name, value in copies.items()}

    def replicated(x):
        natural = exact.natural(x).detach()
        turn = leaves["turn"].unsqueeze(-1)
        loc = nn.functional.normalize(natural + turn * natural.roll(1, -1), dim=-1)
        return VonMisesFisher(loc, leaves["stretch"] * natural.norm(dim=-1))

    vae = exact.vae(replicated)
    loss, bound = objective.loss_of(
        objective.draw(vae.model, vae.guide, rows.expand(count, -1).contiguous())
    )
    found = torch.autograd.grad(-loss, [leaves["stretch"], leaves["turn"]])
    each = significance.split(3)
    each.require_equal(mean_of(bound), elbo.item())
    for gradient, mean in zip(found, expected, strict=True):
        each.require_equal(mean_of(gradient), mean.item())


def test_the_analytic_bound_uses_the_closed_form():
    exact, x = standing(4)
    guide = Rough(exact)
    vae = exact.vae(guide)
    particles = draw_particles(vae.model, vae.guide, x, 3)
    divergence = torch.distributions.kl_divergence(guide(x), exact.prior())
    expected = (particles.log_likelihood - divergence).mean(0)
    torch.testing.assert_close(AnalyticELBO(3).bound(particles), expected)


def test_an_encoder_learns_the_posterior():
    """By DReG; the bound then is log p(x) but for little of where it started."""
    exact, x = standing(3, number=100)
    encoder = VonMisesFisherEncoder(MLP(FEATURES, [], 4)).double()
    vae = exact.vae(encoder)
    best = exact.log_evidence(x).mean().item()

    def gap():
        with torch.no_grad():
            return best - exact_elbo(encoder, exact, x).mean().item()

    before, optimizer = gap(), torch.optim.Adam(encoder.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        (DReG(3).differentiable_loss(vae.model, vae.guide, x) / len(x)).backward()
        optimizer.step()
    assert before > 1
    assert 0 < gap() < 0.1


@pytest.mark.parametrize("latent", [2, 5])
def test_the_prior_is_uniform(latent):
    z = UniformSpherePrior(latent)().sample((4,))
    area = 2 * math.pi ** (latent / 2) / math.gamma(latent / 2)
    expected = torch.full((4,), -math.log(area))
    torch.testing.assert_close(UniformSpherePrior(latent)().log_prob(z), expected)
    assert list(UniformSpherePrior(latent).parameters()) == []
    assert UniformSpherePrior(latent).state_dict() == {}


def test_a_line_has_no_sphere():
    with pytest.raises(ValueError, match="latent must be 2 or more, got 1"):
        UniformSpherePrior(1)


@pytest.mark.parametrize("estimator", [AnnealedImportanceSampling(), Quadrature()])
def test_what_needs_unconstrained_coordinates_says_so(estimator):
    exact, x = standing(3)
    vae = exact.vae()
    message = (
        r"latent site 'z' has support Sphere, .* estimate log p\(x\) by ImportanceSampling\(\)"
    )
    with pytest.raises(ValueError, match=message):
        estimator(vae.model, vae.guide, x)


def test_a_guide_off_the_sphere_is_refused():
    exact, x = standing(3)

    def normal(x):
        return dist.Normal(torch.zeros(len(x), 3).double(), 1.0).to_event(1)

    vae = exact.vae(normal)
    with pytest.raises(ValueError, match=r"norm 1, got .*VonMisesFisherEncoder"):
        IWAE(2).differentiable_loss(vae.model, vae.guide, x)
