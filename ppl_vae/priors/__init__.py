"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.priors._autoregressive import AutoregressiveBernoulliPrior, AutoregressivePrior
from ppl_vae.priors._bernoulli import BernoulliPrior
from ppl_vae.priors._categorical import CategoricalPrior
from ppl_vae.priors._energy import EnergyPrior
from ppl_vae.priors._exemplar import ExemplarPrior
from ppl_vae.priors._flow import FlowPrior
from ppl_vae.priors._gaussian_mixture import GaussianMixturePrior
from ppl_vae.priors._heavy_tailed import LaplacePrior, StudentTPrior
from ppl_vae.priors._lars import LearnedAcceptRejectPrior
from ppl_vae.priors._normal import (
    FullCovarianceNormalPrior,
    LearnedNormalPrior,
    StandardNormalPrior,
)
from ppl_vae.priors._rbm import RBMPrior
from ppl_vae.priors._snis import SelfNormalizedImportancePrior
from ppl_vae.priors._sphere import UniformSpherePrior
from ppl_vae.priors._vamp import VampPrior

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
