"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.priors._autoregressive import (
    AutoregressiveBernoulliPrior,
    AutoregressivePrior,
    FlowPrior,
)
from ppl_vae.priors._discrete import BernoulliPrior, CategoricalPrior, RBMPrior
from ppl_vae.priors._encoded import ExemplarPrior, VampPrior
from ppl_vae.priors._mixture import GaussianMixturePrior
from ppl_vae.priors._normal import (
    FullCovarianceNormalPrior,
    LaplacePrior,
    LearnedNormalPrior,
    StandardNormalPrior,
    StudentTPrior,
    UniformSpherePrior,
)
from ppl_vae.priors._resampled import (
    EnergyPrior,
    LearnedAcceptRejectPrior,
    SelfNormalizedImportancePrior,
)

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
