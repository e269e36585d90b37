"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from ppl_vae.priors.heavy_tailed import Laplace, StudentT
from ppl_vae.priors.normal import FullCovarianceNormal, LearnedNormal, StandardNormal

__all__ = [
    "FullCovarianceNormal",
    "Laplace",
    "LearnedNormal",
    "StandardNormal",
    "StudentT",
]
