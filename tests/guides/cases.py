"""Every guide in a small form, for what all must do: add a new one here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ppl_vae import guides
from ppl_vae.networks import MLP

FEATURES = 3


@dataclass(frozen=True)
class Case:
    """A guide's name with its settings, and what makes it."""

    name: str
    make: Callable[[], nn.Module]

    def x(self):
        return torch.randn(4, FEATURES)


def amortised(guide, latent, *arguments, **settings):
    """A guide on a network of the size that it asks for."""

    def make():
        sizes = {k: v for k, v in settings.items() if k in ("context", "rank")}
        network = MLP(FEATURES, [4], guide.num_outputs(latent, **sizes))
        return guide(network, *arguments, **settings)

    return make


def flow(kind):
    layers = 1 if kind == "spline" else 2
    settings = {"kind": kind, "context": 2, "layers": layers, "hidden_sizes": (8,), "bins": 4}
    return Case(f"FlowEncoder {kind}", amortised(guides.FlowEncoder, 2, 2, **settings))


CASES = [
    Case("DiagonalNormalEncoder", amortised(guides.DiagonalNormalEncoder, 2)),
    Case("FullCovarianceEncoder", amortised(guides.FullCovarianceEncoder, 3)),
    Case("LowRankEncoder", amortised(guides.LowRankEncoder, 3, rank=1)),
    *(flow(kind) for kind in ("iaf", "maf", "realnvp", "spline")),
    Case("BernoulliEncoder", amortised(guides.BernoulliEncoder, 4)),
    Case("CategoricalEncoder", amortised(guides.CategoricalEncoder, 6, 3)),
    Case("VonMisesFisherEncoder", amortised(guides.VonMisesFisherEncoder, 3)),
]
