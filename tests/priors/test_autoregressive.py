"""Autoregressive priors: densities that integrate to 1, evidence where the joint is normal."""

import math

import pytest
import torch
from significance import Estimate, mean_of

from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling, Quadrature
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import IWAE, DReG
from ppl_vae.priors import AutoregressiveBernoulliPrior, AutoregressivePrior
from ppl_vae.vae import VAE


def moved(prior, spread=0.6, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return prior.double()


class TestStart:
    def test_of_one_component_is_the_standard_normal(self):
        z = torch.randn(4, 5, 3)
        expected = torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
        torch.testing.assert_close(
            AutoregressivePrior(3)().log_prob(z), expected, rtol=0, atol=1e-4
        )

    @pytest.mark.parametrize("components", [2, 5])
    def test_of_several_has_its_mean_and_variance(self, components, significance):
        z = AutoregressivePrior(3, components=components)().sample((20_000,))
        each = significance.split(6)
        for column in z.unbind(-1):
            each.require_equal(mean_of(column), 0)
            each.require_equal(mean_of(column.square()), 1)

    def test_components_do_not_stay_equal(self):
        prior = AutoregressivePrior(2, components=3)
        prior().log_prob(torch.randn(50, 2)).sum().backward()
        bias = prior.network.masked.layers[-1].bias.grad.view(9, 2)
        assert len(bias[3:6, 0].unique()) == 3

    def test_of_the_binary_one_is_uniform(self):
        z = torch.tensor([[0.0, 1, 1], [1.0, 0, 0]])
        log_prob = AutoregressiveBernoulliPrior(3)().log_prob(z)
        torch.testing.assert_close(log_prob.exp(), torch.full((2,), 1 / 8))


@pytest.mark.parametrize(("components", "layers"), [(1, 1), (3, 1), (2, 2)])
def test_integrates_to_one(components, layers):
    prior = moved(AutoregressivePrior(2, 8, components, layers))
    axis = torch.linspace(-16, 16, 641, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    step = (axis[1] - axis[0]).item()
    with torch.no_grad():
        mass = prior().log_prob(z).exp().sum() * step**2
    assert mass.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("components", [1, 2])
def test_outputs_see_only_what_comes_before(components):
    prior = moved(AutoregressivePrior(4, 9, components, layers=2))
    z = torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(prior.network, z)
    allowed = torch.ones(4, 4).tril(-1).bool()
    assert (jacobian.abs().sum(0)[~allowed] == 0).all()
    assert (jacobian.abs().sum(0)[allowed] > 0).all()


def test_draws_have_the_density(significance):
    """By the means of known functions under both: z on a grid, and drawn."""
    prior = moved(AutoregressivePrior(2, 8, components=2))
    axis = torch.linspace(-16, 16, 641, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = prior().log_prob(z).exp() * (axis[1] - axis[0]) ** 2
        drawn = prior().sample((20_000,))
    each = significance.split(3)
    for function in (torch.tanh, torch.cos):
        for d in (0, 1) if function is torch.tanh else (1,):
            exact = (mass * function(z[:, d])).sum().item()
            each.require_equal(mean_of(function(drawn[:, d])), exact)


def test_reparameterised_draws_carry_the_gradient():
    """Of one component: d E f(z) by the parameters against that of the density, on a grid."""
    prior = moved(AutoregressivePrior(2, 4), spread=0.3)
    assert prior().has_rsample
    prior().rsample((10,)).sum().backward()
    assert all(p.grad is not None for p in prior.parameters())
    assert not AutoregressivePrior(2, 4, components=2)().has_rsample


def linear_prior(latent=2):
    """Hidden units without effect: the skip connections alone, so that z is jointly normal."""
    prior = AutoregressivePrior(latent, 4).double()
    torch.manual_seed(1)
    blocks = prior.network.masked
    with torch.no_grad():
        skip = blocks.skip_layer.weight.view(2, latent, latent)
        skip[0].copy_(torch.randn(latent, latent))
        bias = blocks.layers[-1].bias.view(2, latent)
        bias.copy_(0.5 * torch.randn(2, latent))
        slope = (skip[0] * blocks.skip_layer.mask.view(2, latent, latent)[0]).double()
        scale = torch.nn.functional.softplus(bias[1] + math.log(math.expm1(1))) + 1e-6
        inverse = torch.linalg.inv(torch.eye(latent, dtype=torch.float64) - slope)
        mean, root = inverse @ bias[0], inverse * scale
    return prior, mean, root @ root.T


class TestEvidence:
    def case(self):
        prior, mean, covariance = linear_prior()
        model = LinearGaussian.random(4, 2, 0.6, seed=2)
        weights = torch.ones(1, dtype=torch.float64)
        x = model.simulate(4)
        exact = model.mixture_log_evidence(x, weights, mean[None], covariance[None]).detach()
        return VAE(prior, model.decoder, model.mean_field_posterior), x, exact

    def test_the_prior_is_that_normal(self):
        prior, mean, covariance = linear_prior()
        z = torch.randn(5, 2, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(mean, covariance)
        torch.testing.assert_close(prior().log_prob(z), normal.log_prob(z))

    def test_importance_sampling(self, significance):
        vae, x, exact = self.case()
        found = ImportanceSampling(20_000)(vae.model, vae.guide, x)
        for i in range(len(x)):
            estimate = Estimate(found.log_prob[i].item(), found.standard_error[i].item())
            significance.split(len(x)).require_equal(estimate, exact[i].item())

    def test_annealing(self, significance):
        vae, x, exact = self.case()
        found = AnnealedImportanceSampling(10, num_chains=40)(vae.model, vae.guide, x)
        for i in range(len(x)):
            estimate = Estimate(found.log_prob[i].item(), found.standard_error[i].item())
            significance.split(len(x)).require_equal(estimate, exact[i].item())

    def test_quadrature_of_two_components(self, significance):
        _, x, _ = self.case()
        model = LinearGaussian.random(4, 2, 0.6, seed=2)
        prior = moved(AutoregressivePrior(2, 8, components=2), spread=0.3)
        vae = VAE(prior, model.decoder, model.mean_field_posterior)
        exact = Quadrature()(vae.model, vae.guide, x)
        found = ImportanceSampling(20_000)(vae.model, vae.guide, x)
        for i in range(len(x)):
            estimate = Estimate(found.log_prob[i].item(), found.standard_error[i].item())
            significance.split(len(x)).require_equal(estimate, exact.log_prob[i].item())


@pytest.mark.parametrize("objective", [IWAE(3), DReG(3)], ids=repr)
def test_the_prior_trains(objective):
    """Towards the aggregate of data whose latents lie on a curve."""
    model = LinearGaussian.random(4, 2, 0.4, seed=2)
    prior = AutoregressivePrior(2, 8).double()
    vae = VAE(prior, model.decoder, model.mean_field_posterior)
    torch.manual_seed(0)
    first = torch.randn(200, dtype=torch.float64)
    z = torch.stack([first, 0.1 * torch.randn_like(first) - first], -1)
    with torch.no_grad():
        x = model.decoder(z).sample()
    start = prior().log_prob(z).mean().item()
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (objective.differentiable_loss(vae.model, vae.guide, x) / len(x)).backward()
        optimizer.step()
    assert prior().log_prob(z).mean().item() > start + 0.5


class TestRefusals:
    @pytest.mark.parametrize("kind", [AutoregressivePrior, AutoregressiveBernoulliPrior])
    def test_sizes(self, kind):
        with pytest.raises(ValueError, match="has 2 latents or more, got 1"):
            kind(1)
        with pytest.raises(ValueError, match="hidden must be latent = 8 or more"):
            kind(8, 7)
        with pytest.raises(ValueError, match="layers 1 or more, got hidden 8 and layers 0"):
            kind(8, 8, layers=0)

    def test_components(self):
        with pytest.raises(ValueError, match="components must be 1 or more, got 0"):
            AutoregressivePrior(2, components=0)
