"""The linear-Gaussian model under a mixture prior: closed form against other ways to the number."""

import math

import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evidence import Quadrature
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(4, 2, 0.6, seed=3)
X = MODEL.simulate(7)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[0.0, 1.0], [-2.0, 0.5], [3.0, -1.0]], dtype=torch.float64)
VARIANCES = torch.tensor([[0.3, 1.0], [0.05, 0.2], [2.0, 0.5]], dtype=torch.float64)
MATRICES = VARIANCES.diag_embed() + 0.1 * torch.ones(3, 2, 2, dtype=torch.float64)


def direct(matrices):
    """``W C W' + s^2 I`` built and inverted as it stands."""
    weight = MODEL.weight.detach()
    noise = MODEL.noise_scale**2 * torch.eye(4, dtype=torch.float64)
    loc = MEANS @ weight.T + MODEL.bias.detach()
    normal = dist.MultivariateNormal(loc, weight @ matrices @ weight.T + noise)
    return torch.logsumexp(WEIGHTS.log() + normal.log_prob(X.unsqueeze(1)), -1)


def test_one_standard_normal_is_the_plain_evidence():
    one = torch.ones(1, dtype=torch.float64)
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    evidence = MODEL.mixture_log_evidence(X, one, zeros, 1 + zeros)
    torch.testing.assert_close(evidence, MODEL.log_evidence(X))


@pytest.mark.parametrize("matrices", [MATRICES, VARIANCES.diag_embed()])
def test_full_covariances(matrices):
    evidence = MODEL.mixture_log_evidence(X, WEIGHTS, MEANS, matrices)
    torch.testing.assert_close(evidence, direct(matrices))


def test_diagonal_covariances():
    evidence = MODEL.mixture_log_evidence(X, WEIGHTS, MEANS, VARIANCES)
    torch.testing.assert_close(evidence, direct(VARIANCES.diag_embed()))


def test_a_component_of_weight_0_says_nothing():
    weights = torch.tensor([0.7, 0.0, 0.3], dtype=torch.float64)
    evidence = MODEL.mixture_log_evidence(X, weights, MEANS, VARIANCES)
    keep = torch.tensor([0, 2])
    expected = MODEL.mixture_log_evidence(X, weights[keep], MEANS[keep], VARIANCES[keep])
    torch.testing.assert_close(evidence, expected)


def test_a_vamp_prior_of_a_linear_encoder_by_quadrature():
    """The aggregate of q(z|u) over pseudo-inputs u is the mixture; quadrature knows no formula."""
    pseudo_inputs = X[:3].detach()

    def prior():
        q = MODEL.mean_field_posterior(pseudo_inputs)
        return dist.MixtureSameFamily(dist.Categorical(WEIGHTS), q)

    vae = VAE(prior, MODEL.decoder, MODEL.mean_field_posterior)
    q = MODEL.mean_field_posterior(pseudo_inputs)
    exact = MODEL.mixture_log_evidence(X, WEIGHTS, q.mean, q.variance).detach()
    evidence = Quadrature(tolerance=1e-8)(vae.model, vae.guide, X)
    assert evidence.direction == "exact"
    torch.testing.assert_close(evidence.log_prob, exact, rtol=0, atol=1e-8)


def test_gradient_reaches_the_weights_of_the_decoder():
    evidence = MODEL.mixture_log_evidence(X, WEIGHTS, MEANS, MATRICES).sum()
    ours = torch.autograd.grad(evidence, [MODEL.weight, MODEL.bias])
    assert all(math.isfinite(g.abs().sum().item()) and g.abs().sum() > 0 for g in ours)


@pytest.mark.parametrize("weights", [[0.5, 0.2, 0.2], [1.2, -0.2, 0.0]])
def test_weights_that_are_no_probabilities(weights):
    with pytest.raises(ValueError, match="mixture weights must be 0 or more with sum 1"):
        MODEL.mixture_log_evidence(X, torch.tensor(weights).double(), MEANS, VARIANCES)
