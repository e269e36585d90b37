"""A generator network trained without an encoder, by refinement of q for each datum."""

import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae.vae import without_encoder


@pytest.fixture(scope="module")
def x():
    return pv.LinearGaussian.random(6, 2, 0.5, seed=1).simulate(100, seed=2).float()


def exact(network, scale, x):
    weight, bias = network.weight.data.double(), network.bias.data.double()
    return pv.LinearGaussian(weight, bias, float(scale)).log_evidence(x.double()).mean().item()


def highest(x):
    """Log p(x) of the maximum-likelihood linear generator, in closed form."""
    x = x.double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = values[:-2].mean()
    weight = vectors[:, -2:] * (values[-2:] - noise).sqrt()
    return pv.LinearGaussian(weight, x.mean(0), noise.sqrt().item()).log_evidence(x).mean().item()


def trained(x, **settings):
    torch.manual_seed(0)
    network = nn.Linear(2, 6)
    vae = without_encoder(pv.StandardNormalPrior(2), pv.NormalDecoder(network, data=x))
    pv.fit(
        vae.model, vae.guide, pv.ELBO(4), x, epochs=50, batch_size=100, learning_rate=0.05,
        keep="last", progress=False, device="cpu", **settings,
    )  # fmt: skip
    return exact(network, vae.decoder.scale().detach(), x)


def test_a_linear_generator_comes_to_its_maximum_likelihood(x):
    """At the maximum of the ELBO mean field has no gap: columns of W are orthogonal there.

    The guide itself, the prior, gets worse on the way, which is no divergence: a warning would be
    an error here.
    """
    best = highest(x)
    refined = trained(x, step="semi-amortised:60")
    assert best - 0.1 < refined < best
    # With the prior for q nothing is learned of W.
    assert trained(x, step="torch") < best - 0.5


def test_its_guide_is_its_prior(x):
    vae = without_encoder(pv.StandardNormalPrior(2), pv.NormalDecoder(nn.Linear(2, 6)))
    particles = pv.draw_particles(vae.model, vae.guide, x[:3], 5)
    torch.testing.assert_close(particles.log_proposal, particles.log_latent_prior)
    assert vae.reconstruct(x[:3]).batch_shape == (3,)
