"""Guides: modules whose ``forward(x)`` returns q(z|x), event shape (latent,)."""

from ppl_vae.guides.bernoulli import BernoulliEncoder
from ppl_vae.guides.categorical import CategoricalEncoder
from ppl_vae.guides.correlated_normal import FullCovarianceEncoder, LowRankEncoder
from ppl_vae.guides.delta import DeltaEncoder
from ppl_vae.guides.flow import FlowGuide
from ppl_vae.guides.normal import DiagonalNormalEncoder
from ppl_vae.guides.von_mises_fisher import VonMisesFisherEncoder

__all__ = [
    "BernoulliEncoder",
    "CategoricalEncoder",
    "DeltaEncoder",
    "DiagonalNormalEncoder",
    "FlowGuide",
    "FullCovarianceEncoder",
    "LowRankEncoder",
    "VonMisesFisherEncoder",
]
