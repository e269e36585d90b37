"""Objectives of autoencoders: squared error, penalties, the joint density."""

import math

import pytest
import torch
from torch import nn

from ppl_vae.guides import DeltaEncoder, DiagonalNormalEncoder, SparseEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, JointDensity, Reconstruction
from ppl_vae.priors import LaplacePrior, StandardNormalPrior
from ppl_vae.vae import VAE


def autoencoder(scale=1.0, activation=None, latent=3):
    torch.manual_seed(0)
    up, down = MLP(5, [4], latent).double(), MLP(latent, [4], 5).double()
    guide = DeltaEncoder(up) if activation is None else SparseEncoder(up, activation)
    return VAE(StandardNormalPrior(latent), NormalDecoder(down, scale), guide).double()


def gradient_of(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_gradient_is_that_of_torch_s_mean_squared_error(scale):
    vae = autoencoder(scale)
    found = gradient_of(Reconstruction().differentiable_loss(vae.model, vae.guide, X), vae)
    rebuilt = vae.decoder.network(vae.encoder.network(X))
    loss = nn.functional.mse_loss(rebuilt, X) * X.numel() / (2 * scale**2)
    expected = gradient_of(loss, vae)
    assert len(found) == len(expected) == 8
    for mine, torch_s in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, torch_s)


def test_the_gradient_of_a_bernoulli_is_that_of_the_binary_cross_entropy():
    torch.manual_seed(0)
    up, down = MLP(5, [4], 3).double(), MLP(3, [4], 5).double()
    vae, x = VAE(StandardNormalPrior(3), BernoulliDecoder(down), DeltaEncoder(up)), (X > 0).double()
    found = gradient_of(Reconstruction().differentiable_loss(vae.model, vae.guide, x), vae)
    loss = nn.functional.binary_cross_entropy_with_logits(down(up(x)), x, reduction="sum")
    for mine, torch_s in zip(found, gradient_of(loss, vae), strict=True):
        torch.testing.assert_close(mine, torch_s)


def test_the_value_is_the_log_likelihood_whatever_the_penalty():
    vae = autoencoder(0.5)
    expected = vae.decoder(vae.encoder.network(X)).log_prob(X)
    for objective in (Reconstruction(), Reconstruction(3, l1=2.0)):
        particles = objective.draw(vae.model, vae.guide, X)
        torch.testing.assert_close(objective.bound(particles), expected)


def test_l1_is_a_laplace_prior_under_a_point_guide():
    """Up to a constant: log of rate / 2 for each code."""
    vae = autoencoder()
    rate, codes = 1.0, vae.encoder.network(X)
    laplace = LaplacePrior(3).double()().log_prob(codes)
    objective = Reconstruction(l1=rate)
    particles = objective.draw(vae.model, vae.guide, X)
    penalty = objective.bound(particles) - objective.ascended(particles, objective.bound(particles))
    torch.testing.assert_close(penalty, rate * codes.abs().sum(-1))
    torch.testing.assert_close(-penalty + 3 * math.log(rate / 2), laplace)


def test_the_divergence_of_mean_activations_by_hand():
    vae = autoencoder(activation="sigmoid")
    objective = Reconstruction(activation_kl=2.0, rate=0.1)
    particles = objective.draw(vae.model, vae.guide, X)
    bound = objective.bound(particles)
    mean = torch.sigmoid(vae.encoder.network(X)).mean(0)
    bernoulli = torch.distributions.Bernoulli
    kl = torch.distributions.kl_divergence(bernoulli(torch.full_like(mean, 0.1)), bernoulli(mean))
    expected = bound - 2.0 * kl.sum()
    torch.testing.assert_close(objective.ascended(particles, bound), expected)
    assert objective.couples
    assert Reconstruction(l1=1.0).couples is None


def test_the_joint_density_is_the_elbo_of_a_point_and_not_of_a_density():
    vae = autoencoder()
    for objective in (JointDensity(), ELBO()):
        particles = objective.draw(vae.model, vae.guide, X)
        z = vae.encoder.network(X)
        joint = vae.prior().log_prob(z) + vae.decoder(z).log_prob(X)
        torch.testing.assert_close(objective.bound(particles), joint)
    normal = VAE(vae.prior, vae.decoder, DiagonalNormalEncoder(MLP(5, [4], 6).double()))
    particles = JointDensity(2).draw(normal.model, normal.guide, X)
    difference = JointDensity(2).bound(particles) - ELBO(2).bound(particles)
    torch.testing.assert_close(difference, particles.log_proposal.mean(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l1": -1.0}, "needs l1 of 0 or more"),
        ({"activation_kl": math.nan}, "needs activation_kl of 0 or more"),
        ({"rate": 0.0}, "rate between 0 and 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reconstruction(**arguments)
