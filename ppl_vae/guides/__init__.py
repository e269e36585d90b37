"""Guides: modules whose ``forward(x)`` returns q(z|x), event shape (latent,)."""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.guides._corrupted import CORRUPTIONS, CorruptedInput, GaussianNoise, MaskNoise
from ppl_vae.guides._nonnormal import (
    BernoulliEncoder,
    CategoricalEncoder,
    DeltaEncoder,
    SparseEncoder,
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
        "sparse": SparseEncoder,
        "bernoulli": BernoulliEncoder,
        "categorical": CategoricalEncoder,
        "sphere": VonMisesFisherEncoder,
    },
    base=nn.Module,
    context=MODEL_CONTEXT,
)
"""Guides q(z|x) of one layer of latents by name."""

__all__ = [
    "CORRUPTIONS",
    "GUIDES",
    "BernoulliEncoder",
    "CategoricalEncoder",
    "CorruptedInput",
    "DeltaEncoder",
    "DiagonalNormalEncoder",
    "FlowEncoder",
    "FullCovarianceEncoder",
    "GaussianNoise",
    "LowRankEncoder",
    "MaskNoise",
    "SparseEncoder",
    "TableInput",
    "VonMisesFisherEncoder",
]
