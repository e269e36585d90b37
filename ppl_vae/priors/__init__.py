"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.priors.autoregressive import AutoregressiveBernoulliPrior, AutoregressivePrior
from ppl_vae.priors.bernoulli import BernoulliPrior
from ppl_vae.priors.categorical import CategoricalPrior
from ppl_vae.priors.energy import EnergyPrior
from ppl_vae.priors.exemplar import ExemplarPrior
from ppl_vae.priors.flow import FlowPrior
from ppl_vae.priors.gaussian_mixture import GaussianMixturePrior
from ppl_vae.priors.heavy_tailed import LaplacePrior, StudentTPrior
from ppl_vae.priors.lars import LearnedAcceptRejectPrior
from ppl_vae.priors.normal import FullCovarianceNormalPrior, LearnedNormalPrior, StandardNormalPrior
from ppl_vae.priors.rbm import RBMPrior
from ppl_vae.priors.snis import SelfNormalizedImportancePrior
from ppl_vae.priors.sphere import UniformSpherePrior
from ppl_vae.priors.vamp import VampPrior

PRIORS = Kind(
    "prior",
    {
        "normal": StandardNormalPrior,
        "learned-normal": LearnedNormalPrior,
        "full-normal": FullCovarianceNormalPrior,
        "student-t": StudentTPrior,
        "laplace": LaplacePrior,
        "mixture": GaussianMixturePrior,
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
        "sphere": UniformSpherePrior,
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
    "FullCovarianceNormalPrior",
    "GaussianMixturePrior",
    "LaplacePrior",
    "LearnedAcceptRejectPrior",
    "LearnedNormalPrior",
    "RBMPrior",
    "SelfNormalizedImportancePrior",
    "StandardNormalPrior",
    "StudentTPrior",
    "UniformSpherePrior",
    "VampPrior",
]
