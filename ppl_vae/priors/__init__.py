"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.priors.autoregressive import AutoregressiveBernoulliPrior, AutoregressivePrior
from ppl_vae.priors.bernoulli import BernoulliPrior
from ppl_vae.priors.categorical import CategoricalPrior
from ppl_vae.priors.energy import EnergyPrior
from ppl_vae.priors.exemplar import ExemplarPrior
from ppl_vae.priors.flow import FlowPrior
from ppl_vae.priors.gaussian_mixture import MixtureOfGaussians
from ppl_vae.priors.heavy_tailed import Laplace, StudentT
from ppl_vae.priors.lars import LearnedAcceptRejectPrior
from ppl_vae.priors.normal import FullCovarianceNormal, LearnedNormal, StandardNormal
from ppl_vae.priors.rbm import RBMPrior
from ppl_vae.priors.snis import SelfNormalizedImportancePrior
from ppl_vae.priors.sphere import UniformSphere
from ppl_vae.priors.vamp import VampPrior

PRIORS = Kind(
    "prior",
    {
        "normal": StandardNormal,
        "learned-normal": LearnedNormal,
        "full-normal": FullCovarianceNormal,
        "student-t": StudentT,
        "laplace": Laplace,
        "mixture": MixtureOfGaussians,
        "vamp": VampPrior,
        "exemplar": ExemplarPrior,
        "flow": FlowPrior,
        "autoregressive": AutoregressivePrior,
        "lars": LearnedAcceptRejectPrior,
        "snis": SelfNormalizedImportancePrior,
        "energy": EnergyPrior,
        "bernoulli": BernoulliPrior,
        "autoregressive-bernoulli": AutoregressiveBernoulliPrior,
        "rbm": RBMPrior,
        "categorical": CategoricalPrior,
        "sphere": UniformSphere,
    },
    base=nn.Module,
    context=MODEL_CONTEXT,
)
"""Priors by name."""

__all__ = [
    "PRIORS",
    "AutoregressiveBernoulliPrior",
    "AutoregressivePrior",
    "BernoulliPrior",
    "CategoricalPrior",
    "EnergyPrior",
    "ExemplarPrior",
    "FlowPrior",
    "FullCovarianceNormal",
    "Laplace",
    "LearnedAcceptRejectPrior",
    "LearnedNormal",
    "MixtureOfGaussians",
    "RBMPrior",
    "SelfNormalizedImportancePrior",
    "StandardNormal",
    "StudentT",
    "UniformSphere",
    "VampPrior",
]
