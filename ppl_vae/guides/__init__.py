"""Guides: modules whose ``forward(x)`` returns q(z|x), event shape (latent,)."""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.guides._nonnormal import (
    BernoulliEncoder,
    CategoricalEncoder,
    DeltaEncoder,
    VonMisesFisherEncoder,
)
from ppl_vae.guides._normal import (
    DiagonalNormalEncoder,
    FlowGuide,
    FullCovarianceEncoder,
    LowRankEncoder,
)
from ppl_vae.guides._table_input import TableInput

GUIDES = Kind(
    "guide",
    {
        "normal": DiagonalNormalEncoder,
        "full-normal": FullCovarianceEncoder,
        "low-rank": LowRankEncoder,
        "flow": FlowGuide,
        "delta": DeltaEncoder,
        "bernoulli": BernoulliEncoder,
        "categorical": CategoricalEncoder,
        "sphere": VonMisesFisherEncoder,
    },
    base=nn.Module,
    context=MODEL_CONTEXT,
)
"""Guides q(z|x) of one layer of latents by name."""

__all__ = [
    "GUIDES",
    "BernoulliEncoder",
    "CategoricalEncoder",
    "DeltaEncoder",
    "DiagonalNormalEncoder",
    "FlowGuide",
    "FullCovarianceEncoder",
    "LowRankEncoder",
    "TableInput",
    "VonMisesFisherEncoder",
]
