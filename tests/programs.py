"""Pyro programs that the tests share."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.priors import LearnedNormalPrior, StandardNormalPrior
from ppl_vae.vae import VAE


def binary_vae(features=6, latent=2, hidden=(8,), seed=0, learned_prior=False):
    """A small Bernoulli VAE, the same for the same seed."""
    torch.manual_seed(seed)
    prior = LearnedNormalPrior(latent) if learned_prior else StandardNormalPrior(latent)
    decoder = BernoulliDecoder(MLP(latent, hidden, features))
    encoder = DiagonalNormalEncoder(MLP(features, hidden, 2 * latent))
    return VAE(prior, decoder, encoder)


def binary_data(num_data=40, features=6, seed=1):
    """Binary rows with something to learn: two groups of pixels that go together."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.rand(num_data, 1, generator=generator) < 0.5
    pixels = torch.arange(features) < features // 2
    probability = torch.where(group == pixels, 0.9, 0.1)
    return torch.bernoulli(probability, generator=generator)


class LinearChain(nn.Module):
    """u ~ N(0, I), v|u ~ N(A u, s^2 I), x|v ~ N(B v, t^2 I), hand-written in Pyro; float64.

    Everything is jointly normal, so that evidence and posterior are exact.
    """

    def __init__(self, top=2, middle=3, features=4, s=0.8, t=0.7):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        draw = torch.randn(middle, top, dtype=torch.float64, generator=generator)
        self.A = nn.Parameter(draw)
        draw = torch.randn(features, middle, dtype=torch.float64, generator=generator)
        self.B = nn.Parameter(draw / math.sqrt(middle))
        self.s, self.t = s, t

    def model(self, x):
        with pyro.plate("data", len(x)):
            loc = torch.zeros(self.A.shape[1], dtype=x.dtype)
            u = pyro.sample("u", dist.Normal(loc, 1.0).to_event(1))
            v = pyro.sample("v", dist.Normal(u @ self.A.T, self.s).to_event(1))
            pyro.sample("x", dist.Normal(v @ self.B.T, self.t).to_event(1), obs=x)

    def _joint_covariance(self):
        """Of (u, v, x)."""
        top, (features, middle) = self.A.shape[1], self.B.shape
        cov_v = self.A @ self.A.T + self.s**2 * torch.eye(middle, dtype=torch.float64)
        cov_x = self.B @ cov_v @ self.B.T + self.t**2 * torch.eye(features, dtype=torch.float64)
        return torch.cat(
            [
                torch.cat([torch.eye(top, dtype=torch.float64), self.A.T, self.A.T @ self.B.T], 1),
                torch.cat([self.A, cov_v, cov_v @ self.B.T], 1),
                torch.cat([self.B @ self.A, self.B @ cov_v, cov_x], 1),
            ]
        )

    def _blocks(self):
        top, (features, middle) = self.A.shape[1], self.B.shape
        ends = torch.tensor([0, top, top + middle, top + middle + features])
        return {name: torch.arange(ends[i], ends[i + 1]) for i, name in enumerate("uvx")}

    def log_evidence(self, x):
        block = self._blocks()["x"]
        covariance = self._joint_covariance()[block][:, block]
        zeros = torch.zeros(len(block), dtype=x.dtype)
        return dist.MultivariateNormal(zeros, covariance).log_prob(x)

    def _conditional(self, name, given, values):
        """p(name | given = values), a normal."""
        joint, blocks = self._joint_covariance(), self._blocks()
        a, b = blocks[name], torch.cat([blocks[other] for other in given])
        gain = torch.linalg.solve(joint[b][:, b], joint[b][:, a]).T
        covariance = joint[a][:, a] - gain @ joint[b][:, a]
        mean = torch.cat(values, -1) @ gain.T
        return dist.MultivariateNormal(mean, covariance.expand(*mean.shape[:-1], -1, -1))

    def top_down(self, x):
        """The exact posterior, in the model's order."""
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", self._conditional("u", "x", [x]))
            both = [u, x.expand(*u.shape[:-1], -1)]
            pyro.sample("v", self._conditional("v", "ux", both))

    def bottom_up(self, x):
        """The exact posterior, in the other order: u is drawn given v."""
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", self._conditional("v", "x", [x]))
            pyro.sample("u", self._conditional("u", "v", [v]))

    def rough(self, x):
        """A guide in the model's order that is not the posterior: independent, diagonal."""
        with pyro.plate("data", len(x)):
            for name in "uv":
                exact = self._conditional(name, "x", [x])
                scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).rsqrt().reciprocal()
                pyro.sample(name, dist.Normal(exact.mean, 0.8 * scale).to_event(1))

    def simulate(self, num_data, seed=5):
        block = self._blocks()["x"]
        covariance = self._joint_covariance()[block][:, block].detach()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(num_data, len(block), dtype=torch.float64, generator=generator)
        return noise @ torch.linalg.cholesky(covariance).T


def weight_moment(model: LinearGaussian, n: int) -> float:
    """E_q (w / p(x))^n under the mean-field guide, the same for every x.

    It is the integral of p(z|x)^n q(z|x)^(1-n), both normal with one mean.
    """
    precision = model.posterior_precision.detach()
    diagonal = torch.diag(precision.diagonal())
    both = n * precision + (1 - n) * diagonal
    if torch.linalg.eigvalsh(both).min() <= 0:
        raise ValueError(f"the weights have no moment of order {n}")
    log = n * torch.logdet(precision) + (1 - n) * torch.logdet(diagonal) - torch.logdet(both)
    return (0.5 * log).exp().item()


def param_model(x: Tensor):
    """Two latent layers written with pyro.param alone; the scale is positive."""
    weight = pyro.param("weight", lambda: torch.ones(2, x.shape[1]) / 2)
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(0.5 * a, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(b @ weight, scale).to_event(1), obs=x)


def param_guide(x: Tensor):
    """A guide for :func:`param_model`."""
    shift = pyro.param("shift", lambda: torch.zeros(x.shape[1], 2))
    spread = pyro.param("spread", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x @ shift, spread).to_event(1))
        pyro.sample("b", dist.Normal(0.3 * a, spread).to_event(1))
