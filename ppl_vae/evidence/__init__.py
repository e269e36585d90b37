"""Estimators of log p(x), each with its standard error."""

from ppl_vae.evidence.adaptive import AdaptiveSampling
from ppl_vae.evidence.annealing import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    Sandwich,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
    calibrate,
    plot_sandwiches,
    reverse_ais,
)
from ppl_vae.evidence.defensive import DefensiveSampling
from ppl_vae.evidence.estimator import Estimator
from ppl_vae.evidence.exact import Enumeration, Quadrature
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.jackknife import Jackknife
from ppl_vae.evidence.laplace import LaplaceApproximation, LaplaceGuide, laplace_guide
from ppl_vae.evidence.psis import ParetoSmoothed
from ppl_vae.evidence.result import (
    Evidence,
    PairedDifference,
    bits_per_dimension,
    paired_difference,
)
from ppl_vae.evidence.sharded import Shard, Sharded
from ppl_vae.evidence.sumo import SUMO

__all__ = [
    "SUMO",
    "AdaptiveSampling",
    "AnnealedImportanceSampling",
    "BidirectionalMonteCarlo",
    "DefensiveSampling",
    "Enumeration",
    "Estimator",
    "Evidence",
    "ImportanceSampling",
    "Jackknife",
    "LaplaceApproximation",
    "LaplaceGuide",
    "PairedDifference",
    "ParetoSmoothed",
    "Quadrature",
    "Sandwich",
    "SequentialMonteCarlo",
    "Shard",
    "Sharded",
    "ThermodynamicIntegration",
    "bits_per_dimension",
    "calibrate",
    "laplace_guide",
    "paired_difference",
    "plot_sandwiches",
    "reverse_ais",
]
