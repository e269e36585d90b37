"""Flow priors: a density that sums to 1, draws that have it, and all that takes a prior."""

from typing import get_args

import pytest
import torch
from quadrature import grid, require_density_of_draws
from significance import Estimate
from torch import nn

from ppl_vae.evidence import DefensiveSampling
from ppl_vae.flows import FlowKind
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, GeneralizedDReG
from ppl_vae.objectives._iwae import reparameterized
from ppl_vae.particles import LatentDensity, Programs
from ppl_vae.priors import FlowPrior
from ppl_vae.vae import VAE

KINDS = get_args(FlowKind)
SMALL = {"layers": 2, "hidden_sizes": [16]}


def moved(module, by=0.3):
    """In double precision, away from where it starts."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def flow_vae(kind="spline", latent=2, features=6):
    torch.manual_seed(3)
    prior = moved(FlowPrior(latent, kind, **SMALL))
    decoder = BernoulliDecoder(MLP(latent, [8], features))
    return VAE(prior, decoder, DiagonalNormalEncoder(MLP(features, [8], 2 * latent))).double()


@pytest.mark.parametrize("kind", KINDS)
class TestDensity:
    @pytest.mark.parametrize("latent", [1, 2])
    def test_integrates_to_one_and_draws_follow_it(self, kind, latent, significance):
        p = moved(FlowPrior(latent, kind, **SMALL))()
        require_density_of_draws(p.log_prob, p.sample((4000,)), significance)

    def test_starts_at_the_standard_normal(self, kind):
        p, z = FlowPrior(3, kind)(), torch.randn(5, 3)
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        assert (p.batch_shape, p.event_shape, p.has_rsample) == ((), (3,), True)
        torch.testing.assert_close(p.log_prob(z), expected)

    def test_every_parameter_has_a_gradient_by_density_and_by_draws(self, kind):
        prior = moved(FlowPrior(3, kind))
        for loss in (prior().log_prob(torch.randn(8, 3).double()), prior().rsample((8,)).square()):
            prior.zero_grad()
            loss.sum().backward()
            assert [n for n, p in prior.named_parameters() if p.grad.abs().sum() == 0] == []

    def test_is_what_was_saved(self, kind):
        prior, other = moved(FlowPrior(2, kind)), FlowPrior(2, kind).double()
        other.load_state_dict(prior.state_dict())
        z = torch.randn(5, 2).double()
        assert torch.equal(other().log_prob(z), prior().log_prob(z))

    def test_draws_and_density_are_reparameterised_again(self, kind):
        """T(T^-1(z)) is z, with the gradient of the draw at its own noise."""
        prior = moved(FlowPrior(2, kind))
        z = prior().rsample((4,))
        again = reparameterized(prior(), z.detach())
        torch.testing.assert_close(again, z)
        weight = torch.randn_like(z)
        parameters = list(prior.parameters())
        gradients = [
            torch.autograd.grad((weight * value).sum(), parameters) for value in (z, again)
        ]
        torch.testing.assert_close(*gradients)


def test_of_the_density_test(significance):
    p = moved(FlowPrior(2, "realnvp", **SMALL))()
    draws = p.sample((4000,))
    with pytest.raises(AssertionError):
        require_density_of_draws(lambda z: p.log_prob(z) + 1e-3, draws, significance)
    with pytest.raises(AssertionError):
        require_density_of_draws(p.log_prob, draws * 1.2, significance)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains(kind):
    """The density is fitted to two clusters, which no normal is."""
    torch.manual_seed(0)
    z = 0.3 * torch.randn(400, 2) + torch.where(torch.rand(400, 1) < 0.5, 2.0, -2.0)
    prior = FlowPrior(2, kind, **SMALL)
    optimizer = torch.optim.Adam(prior.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -prior().log_prob(z).mean()
        loss.backward()
        optimizer.step()
    normal = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov())
    assert loss.item() < -normal.log_prob(z).mean().item() - 0.2


@pytest.mark.parametrize("kind", ["realnvp", "spline"])
def test_evidence_of_a_vae_with_a_flow_prior(kind, significance):
    """Against a sum over a grid; draws from the prior among the guide's bound the weights."""
    vae = flow_vae(kind)
    x = torch.bernoulli(torch.full((3, 6), 0.5, dtype=torch.float64))
    z, volume = grid(2, 301)
    with torch.no_grad():
        joint = vae.prior().log_prob(z) + vae.decoder(z).log_prob(x.unsqueeze(1))
    exact = torch.logsumexp(joint + volume.log(), 1)
    found = DefensiveSampling(4000)(vae.model, vae.guide, x)
    for value, error, expected in zip(found.log_prob, found.standard_error, exact, strict=True):
        estimate = Estimate(value.item(), error.item())
        significance.split(3).require_equal(estimate, expected.item())


def test_annealing_takes_its_gradient():
    vae = flow_vae("spline")
    x = torch.bernoulli(torch.full((3, 6), 0.5, dtype=torch.float64))
    density = LatentDensity(Programs(vae.model, vae.guide), x, num_chains=2)
    u = density.draw_prior().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: density.of_model(u)[0], u)
    torch.testing.assert_close(density.of_model(u)[0], vae.prior().log_prob(u))


@pytest.mark.parametrize("objective", [ELBO(3), GeneralizedDReG(3)])
def test_objectives_train_it(objective):
    vae = flow_vae("realnvp")
    x = torch.bernoulli(torch.full((8, 6), 0.5, dtype=torch.float64))
    objective.loss_and_grads(vae.model, vae.guide, x)
    untrained = [n for n, p in vae.prior.named_parameters() if p.grad.abs().sum() == 0]
    assert untrained == []


def test_refusals(unchecked_types):
    with pytest.raises(ValueError, match="unknown kind of flow 'nice'"):
        FlowPrior(2, "nice")
    with pytest.raises(ValueError, match="latent of 1 or more"):
        FlowPrior(0)
    assert isinstance(FlowPrior(2), nn.Module)
