"""Estimators of log p(x) that anneal from a start to the posterior."""

from ppl_vae.evidence.annealing._ais import AnnealedImportanceSampling
from ppl_vae.evidence.annealing._bidirectional import (
    BidirectionalMonteCarlo,
    Sandwich,
    calibrate,
    plot_sandwiches,
    sandwiches,
    with_gap,
)
from ppl_vae.evidence.annealing._reverse import reverse_ais
from ppl_vae.evidence.annealing._smc import SequentialMonteCarlo
from ppl_vae.evidence.annealing._thermodynamic import ThermodynamicIntegration

__all__ = [
    "AnnealedImportanceSampling",
    "BidirectionalMonteCarlo",
    "Sandwich",
    "SequentialMonteCarlo",
    "ThermodynamicIntegration",
    "calibrate",
    "plot_sandwiches",
    "reverse_ais",
    "sandwiches",
    "with_gap",
]
