import math

import pytest
import torch
from significance import Estimate, mean_of, variance_of

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import DReG, GeneralizedDReG
from ppl_vae.priors import FullCovarianceNormalPrior, LearnedNormalPrior, StandardNormalPrior
from ppl_vae.vae import VAE

PRIORS = [StandardNormalPrior, LearnedNormalPrior, FullCovarianceNormalPrior]


@pytest.mark.parametrize(
    "prior", [StandardNormalPrior(3), LearnedNormalPrior(3), FullCovarianceNormalPrior(3)]
)
def test_starts_at_the_standard_normal(prior):
    z = torch.randn(5, 3)
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    assert (prior().batch_shape, prior().event_shape) == ((), (3,))
    assert prior().has_rsample
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_standard_normal_has_nothing_to_train_or_save_and_follows_its_module():
    prior = StandardNormalPrior(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}
    assert prior.double()().sample().dtype == torch.float64


def test_learned_normal():
    prior = LearnedNormalPrior(2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([1.0, -2.0]))
        prior.log_scale.copy_(torch.tensor([0.5, -0.5]))
    z = torch.randn(4, 2)
    expected = torch.distributions.Normal(prior.loc, prior.log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(prior().log_prob(z), expected)
    prior().log_prob(z).sum().backward()
    assert all(p.grad.abs().min() > 0 for p in prior.parameters())


def test_draws_follow_the_density(significance):
    prior = LearnedNormalPrior(2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([1.0, -2.0]))
        prior.log_scale.copy_(torch.tensor([0.5, -0.5]))
        draws = prior().sample((20_000,))
    for i in range(2):
        significance.split(4).require_equal(mean_of(draws[:, i]), prior.loc[i].item())
        variance = (2 * prior.log_scale[i]).exp().item()
        significance.split(4).require_equal(variance_of(draws[:, i]), variance)


@pytest.mark.parametrize(
    "prior", [StandardNormalPrior, LearnedNormalPrior, FullCovarianceNormalPrior]
)
def test_no_latents(prior):
    with pytest.raises(ValueError, match="latent must be 1 or more, got 0"):
        prior(0)


def correlated(latent=2):
    """Away from where it starts, in double precision."""
    prior = FullCovarianceNormalPrior(latent).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return prior


def test_full_covariance():
    prior, z = correlated(3), torch.randn(4, 3, dtype=torch.float64)
    root = prior.root.detach()
    scale_tril = root.tril(-1) + root.diagonal().exp().diag()
    torch.testing.assert_close(prior.scale_tril, scale_tril)
    expected = torch.distributions.MultivariateNormal(prior.loc, scale_tril @ scale_tril.T)
    torch.testing.assert_close(prior().log_prob(z), expected.log_prob(z))
    prior().log_prob(z).sum().backward()
    assert prior.loc.grad.abs().min() > 0
    assert prior.root.grad.tril().ne(0).sum() == 6


def test_full_covariance_draws(significance):
    prior = correlated()
    with torch.no_grad():
        draws = prior().sample((20_000,)) - prior.loc
        covariance = prior.scale_tril @ prior.scale_tril.T
    for i, j in [(0, 0), (0, 1), (1, 1)]:
        products = mean_of(draws[:, i] * draws[:, j])
        significance.split(3).require_equal(products, covariance[i, j].item())


@pytest.mark.parametrize("objective", [DReG(5), GeneralizedDReG(5)], ids=["dreg", "gdreg"])
def test_full_covariance_evidence_and_gradients(objective, significance):
    """Under a linear-Gaussian decoder: one component of the mixture whose p(x) is known."""
    prior, model = correlated(), LinearGaussian.random(4, 2, 0.7, seed=2)
    x = model.simulate(20)
    vae = VAE(prior, model.decoder, model.mean_field_posterior)
    exact = model.mixture_log_evidence(
        x,
        torch.ones(1).double(),
        prior.loc.unsqueeze(0),
        (prior.scale_tril @ prior.scale_tril.T).unsqueeze(0),
    ).detach()
    found = ImportanceSampling(20_000)(vae.model, vae.guide, x)
    ratio = (found.log_prob - exact).exp()
    error = (ratio * found.standard_error).square().sum().sqrt().item() / len(x)
    significance.require_equal(Estimate(ratio.mean().item(), error), 1.0)
    objective.differentiable_loss(vae.model, vae.guide, x).backward()
    assert all(p.grad.isfinite().all() for p in prior.parameters())
    assert prior.root.grad.tril().ne(0).sum() == 3
