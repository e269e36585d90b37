"""A hand-written Pyro model and guide with two latent layers, under every objective.

Neither is built from this package's classes: any Pyro program whose sites stand in one data plate
gets the objectives, the fitting loop, the estimator and the decomposition.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

import ppl_vae as pv


class TwoLayers(nn.Module):
    """p(top) p(z|top) p(x|z) with a bottom-up guide q(z|x) q(top|z)."""

    def __init__(self, features: int, latent: int = 8, top: int = 4) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(top))
        self.top_down = nn.Linear(top, 2 * latent)
        self.decoder = pv.MLP(latent, [64], features)
        self.bottom_up = pv.MLP(features, [64], 2 * latent)
        self.to_top = nn.Linear(latent, 2 * top)

    def model(self, x: Tensor) -> None:
        """Draw top, then z, then x."""
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(self.zero, 1.0).to_event(1))
            z = pyro.sample("z", normal(self.top_down(top)))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw z, then top."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(self.bottom_up(x)))
            pyro.sample("top", normal(self.to_top(z)))


def normal(parameters: Tensor) -> dist.TorchDistribution:
    """A diagonal normal from its location and unconstrained scale."""
    loc, unconstrained = parameters.chunk(2, -1)
    return dist.Normal(loc, functional.softplus(unconstrained) + 1e-3).to_event(1)


def main(epochs: int = 30, num_particles: int = 500) -> dict[str, pv.Evidence]:
    """Train with each objective on the embedded digits; print log p(x) and the ELBO's parts."""
    data = pv.load_dataset("digits").binarized("static")
    results = {}
    for objective in (pv.ELBO(), pv.AnalyticELBO(), pv.IWAE(10)):
        torch.manual_seed(0)
        net = TwoLayers(data.features)
        pv.fit(net.model, net.guide, objective, data.train, valid=data.valid, epochs=epochs)
        evidence = pv.ImportanceSampling(num_particles)(net.model, net.guide, data.test)
        print(f"{objective}\n{evidence}\n{pv.decompose(net.model, net.guide, data.test)}\n")
        results[repr(objective)] = evidence
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
