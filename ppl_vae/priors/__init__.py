"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from ppl_vae.priors.autoregressive import AutoregressiveBernoulliPrior, AutoregressivePrior
from ppl_vae.priors.bernoulli import BernoulliPrior
from ppl_vae.priors.categorical import CategoricalPrior
from ppl_vae.priors.heavy_tailed import Laplace, StudentT
from ppl_vae.priors.normal import FullCovarianceNormal, LearnedNormal, StandardNormal
from ppl_vae.priors.rbm import RBMPrior
from ppl_vae.priors.sphere import UniformSphere

__all__ = [
    "AutoregressiveBernoulliPrior",
    "AutoregressivePrior",
    "BernoulliPrior",
    "CategoricalPrior",
    "FullCovarianceNormal",
    "Laplace",
    "LearnedNormal",
    "RBMPrior",
    "StandardNormal",
    "StudentT",
    "UniformSphere",
]
