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
    FlowEncoder,
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
        "flow": FlowEncoder,
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
    "FlowEncoder",
    "FullCovarianceEncoder",
    "LowRankEncoder",
    "TableInput",
    "VonMisesFisherEncoder",
]
