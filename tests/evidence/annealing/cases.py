"""Models with known evidence, and comparisons that the tests of annealing share."""

import pyro
import pyro.distributions as dist
import torch
from significance import Estimate

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import ChunkSize, LatentDensity, Programs, evaluation

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
X = MODEL.simulate(12)
EXACT = MODEL.log_evidence(X).detach()
TEN = LinearGaussian.random(20, 10, 1.0, seed=4)


def run(estimator, x=X, programs=VAE, **kwargs):
    return estimator(programs.model, programs.guide, x, **kwargs)


def ratio(evidence, exact=EXACT):
    """The estimate of p(x) over p(x), its mean over data: independent chains give its error."""
    ratios = (evidence.log_prob - exact.detach()).exp()
    error = (ratios * evidence.standard_error).square().sum().sqrt().item() / len(ratios)
    return Estimate(ratios.mean().item(), error)


class Positive:
    """Rate z ~ Gamma(2, 1), x|z ~ Exponential(z): p(x) = 2 / (1 + x)^3.

    Three sites with three kinds of support and no effect on x stand beside it, to be transformed.
    """

    x = torch.tensor([[0.3], [1.0], [4.0]], dtype=torch.float64)
    log_evidence = (2 / (1 + x[:, 0]) ** 3).log()
    one = torch.ones(2, dtype=torch.float64)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2 * self.one[:1], 1.0).to_event(1))
            pyro.sample("p", dist.Dirichlet(torch.ones(3, dtype=torch.float64)))
            pyro.sample("t", dist.Uniform(-self.one, 2 * self.one).to_event(1))
            pyro.sample("x", dist.Exponential(z).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("p", dist.Dirichlet(torch.full((3,), 1.5, dtype=torch.float64)))
            pyro.sample("z", dist.LogNormal(0.5 * self.one[:1], 0.6).to_event(1))
            pyro.sample("t", dist.Uniform(-self.one, 2 * self.one).to_event(1))


def density_of(programs=VAE, x=X, num_chains=3):
    return LatentDensity(Programs(programs.model, programs.guide).on(x), x, num_chains)


def prepared(annealing, x, streams, programs=VAE):
    """The annealer of one chunk, which all of x is."""
    size = ChunkSize.of_data(len(x))
    with evaluation(Programs(programs.model, programs.guide), x, size) as look:
        return annealing.prepare(look, x, streams)
