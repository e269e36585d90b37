"""Every prior in a small form, for what all must do: add a new one here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ppl_vae import priors
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.networks import MLP


@dataclass(frozen=True)
class Case:
    """A prior's name with its settings, and what makes it.

    ``log_error`` is the largest standard error of log p(z), where it is an estimate.
    """

    name: str
    make: Callable[[], nn.Module]
    log_error: float = 0.0


def with_data(kind, **settings):
    """A prior that is made from training rows and the guide."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        data = torch.randn(8, 3)
        encoder = DiagonalNormalEncoder(MLP(3, [4], 4))
    return lambda: kind(encoder, data, **settings)


def tilted(kind, log_error, **settings):
    """A prior with a network in its density, which is no constant."""

    def make():
        prior = kind(2, hidden=(5,), **settings)
        for parameter in prior.tilt.parameters():
            nn.init.normal_(parameter, std=0.5)
        return prior

    return Case(kind.__name__, make, log_error)


def flow(kind):
    layers = 1 if kind == "spline" else 2
    make = partial(priors.FlowPrior, 2, kind, layers=layers, hidden_sizes=(8,), bins=4)
    return Case(f"FlowPrior {kind}", make)


CASES = [
    Case("StandardNormalPrior", lambda: priors.StandardNormalPrior(2)),
    Case("LearnedNormalPrior", lambda: priors.LearnedNormalPrior(2)),
    Case("FullCovarianceNormalPrior", lambda: priors.FullCovarianceNormalPrior(2)),
    Case("FullCovarianceNormalPrior 4", lambda: priors.FullCovarianceNormalPrior(4)),
    Case("LaplacePrior", lambda: priors.LaplacePrior(1, learned=True)),
    Case("StudentTPrior", lambda: priors.StudentTPrior(1, 2.5, learned=True)),
    Case("StudentTPrior 3", lambda: priors.StudentTPrior(3, 4.0)),
    Case("GaussianMixturePrior", lambda: priors.GaussianMixturePrior(2, 3)),
    Case("GaussianMixturePrior full", lambda: priors.GaussianMixturePrior(3, 4, "full")),
    Case("VampPrior", with_data(priors.VampPrior, components=4)),
    Case("VampPrior weighted", with_data(priors.VampPrior, components=3, weighted=True)),
    Case("ExemplarPrior", with_data(priors.ExemplarPrior, exemplars=4)),
    *(flow(kind) for kind in ("iaf", "maf", "realnvp", "spline")),
    Case("AutoregressivePrior", lambda: priors.AutoregressivePrior(2, 8)),
    Case("AutoregressivePrior mixture", lambda: priors.AutoregressivePrior(3, 8, 2)),
    Case("AutoregressiveBernoulliPrior", lambda: priors.AutoregressiveBernoulliPrior(5, 8)),
    Case("BernoulliPrior", lambda: priors.BernoulliPrior(5)),
    Case("CategoricalPrior", lambda: priors.CategoricalPrior(6, 3)),
    tilted(priors.EnergyPrior, 1e-2, proposals=100),
    tilted(priors.LearnedAcceptRejectPrior, 3e-3),
    tilted(priors.SelfNormalizedImportancePrior, 5e-2, proposals=100),
    Case("RBMPrior", lambda: priors.RBMPrior(5, 3)),
    Case("UniformSpherePrior", lambda: priors.UniformSpherePrior(3)),
]
