"""A prior of one's own, in code: defined, checked, trained, and compared with the usual one.

Each latent is a normal variable bent by a sinh-arcsinh transformation, whose skewness and weight of
tails are learned. Run it as ``python examples/custom_prior.py``; it takes about half a minute on
two cores.
"""

import argparse

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

import ppl_vae as pv
from ppl_vae.testing import check_prior


class Bend(Transform):
    """``z = sinh((arcsinh(u) + skewness) tails)`` in each dimension: the identity at (0, 1)."""

    domain = codomain = constraints.real
    bijective = True

    def __init__(self, skewness: Tensor, tails: Tensor) -> None:
        super().__init__()
        self.skewness, self.tails = skewness, tails

    def _call(self, u: Tensor) -> Tensor:
        return ((u.asinh() + self.skewness) * self.tails).sinh()

    def _inverse(self, z: Tensor) -> Tensor:
        return (z.asinh() / self.tails - self.skewness).sinh()

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        """``log dz/du``."""
        return self.tails.log() + (z.square().log1p() - u.square().log1p()) / 2


class SinhArcsinh(nn.Module):
    """A sinh-arcsinh distribution in each dimension; starts at the standard normal.

    References:
        Jones and Pewsey, 2009, Sinh-arcsinh distributions.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.skewness = nn.Parameter(torch.zeros(latent))
        self.log_tails = nn.Parameter(torch.zeros(latent))

    def forward(self) -> dist.TorchDistribution:
        """The prior, event shape (latent,)."""
        normal = dist.Normal(torch.zeros_like(self.skewness), 1.0)
        bend = Bend(self.skewness, self.log_tails.exp())
        return dist.TransformedDistribution(normal, [bend]).to_event(1)


def train(prior: nn.Module, data: pv.Dataset, latent: int, epochs: int) -> pv.VAE:
    """A VAE with this prior; all else is the same for every one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = pv.BernoulliDecoder(pv.MLP(latent, [64], data.features), data.train.mean(0))
        encoder = pv.DiagonalNormalEncoder(pv.MLP(data.features, [64], 2 * latent))
    vae = pv.VAE(prior, decoder, encoder)
    pv.fit(vae.model, vae.guide, pv.IWAE(5), data.train, valid=data.valid, epochs=epochs)
    return vae


def main(
    epochs: int = 60, latent: int = 8, num_particles: int = 2000
) -> tuple[dict[str, pv.Evidence], pv.evidence.PairedDifference]:
    """Check the prior, train with it and with the standard normal; print log p(x) of test data."""
    print(check_prior(SinhArcsinh(2), fresh=lambda: SinhArcsinh(2)))
    data = pv.load_dataset("digits").binarized("static", seed=0)
    found = {}
    for prior in (pv.StandardNormalPrior(latent), SinhArcsinh(latent)):
        vae = train(prior, data, latent, epochs)
        estimate = pv.DefensiveSampling(num_particles)
        found[type(prior).__name__] = estimate(vae.model, vae.guide, data.test)
    for name, evidence in found.items():
        print(f"\n{name}\n{evidence}")
    difference = pv.paired_difference(found["SinhArcsinh"], found["StandardNormalPrior"])
    print(f"\nSinhArcsinh less StandardNormalPrior, each datum with itself:\n{difference}")
    return found, difference


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--latent", type=int, default=8)
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.latent)
