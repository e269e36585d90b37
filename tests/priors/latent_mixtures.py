"""What the tests of mixtures in latent space share."""

import pyro.distributions as dist
import torch
from significance import Estimate
from torch import nn
from torch.nn import functional

from ppl_vae.data import load_dataset
from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO
from ppl_vae.training import fit
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(4, 2, 0.6, seed=3)
X = MODEL.simulate(3)
ROWS = MODEL.simulate(12, seed=1)

ESTIMATORS = {
    "importance sampling": ImportanceSampling(10_000),
    "annealing": AnnealedImportanceSampling(15, 300, 2, rows=10**6),
}


class LinearEncoder(nn.Module):
    """A diagonal normal, mean and log scale linear in x; in double precision."""

    def __init__(self, features=4, latent=2, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = (2 * latent, features)
        self.weight = nn.Parameter(0.3 * torch.randn(size, generator=generator).double())
        self.bias = nn.Parameter(torch.full((2 * latent,), -0.3).double())

    def forward(self, x):
        loc, log_scale = functional.linear(x, self.weight, self.bias).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp(), validate_args=False).to_event(1)


def evidence_ratio(estimator, prior, encoder, weights, means, variances):
    """Mean of estimated over exact p(x), which is 1 in expectation."""
    exact = MODEL.mixture_log_evidence(X, weights, means, variances).detach()
    vae = VAE(prior, MODEL.decoder, encoder)
    found = estimator(vae.model, vae.guide, X)
    ratio = (found.log_prob - exact).exp()
    error = (ratio * found.standard_error).square().sum().sqrt().item() / len(X)
    return Estimate(ratio.mean().item(), error)


def wide(x):
    """A guide that covers the posteriors of all these models."""
    loc = torch.zeros(len(x), 2, dtype=x.dtype)
    return dist.Normal(loc, 2.0, validate_args=False).to_event(1)


def binary_digits():
    """400 training rows of 64 pixels in {0, 1}."""
    return (load_dataset("digits").train[:400] > 0.5).float()


def digits_vae(make_prior, latent=4):
    """A small VAE of the digits, given ``(encoder, data) -> prior``."""
    torch.manual_seed(1)
    data = binary_digits()
    encoder = DiagonalNormalEncoder(MLP(64, [30], 2 * latent))
    decoder = BernoulliDecoder(MLP(latent, [30], 64), data.mean(0))
    return VAE(make_prior(encoder, data), decoder, encoder), data


def train(vae, data, objective=None, **kwargs):
    settings = {"epochs": 4, "learning_rate": 0.01, "batch_size": 50, "device": "cpu"}
    settings |= {"progress": False} | kwargs
    return fit(vae.model, vae.guide, objective or ELBO(), data, **settings)
