"""Training: steps, the fitting loop, checkpoints."""

from ppl_vae.training._aggressive import AggressiveStep
from ppl_vae.training._fit import FitResult, fit
from ppl_vae.training._history import EpochRecord, History, csv_line, curve_of, plot_histories
from ppl_vae.training._non_finite import NonFiniteError
from ppl_vae.training._settings import LIMITS, STEPS, Budget, FitSettings
from ppl_vae.training._snapshot import Snapshot, load_parameters
from ppl_vae.training._steps import (
    AdamStep,
    AlternatingStep,
    SemiAmortisedStep,
    Step,
    SVIStep,
    TorchStep,
    batch_sums,
    find_parameters,
)

__all__ = [
    "LIMITS",
    "STEPS",
    "AdamStep",
    "AggressiveStep",
    "AlternatingStep",
    "Budget",
    "EpochRecord",
    "FitResult",
    "FitSettings",
    "History",
    "NonFiniteError",
    "SVIStep",
    "SemiAmortisedStep",
    "Snapshot",
    "Step",
    "TorchStep",
    "batch_sums",
    "csv_line",
    "curve_of",
    "find_parameters",
    "fit",
    "load_parameters",
    "plot_histories",
]
