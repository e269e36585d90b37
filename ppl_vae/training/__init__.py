"""Training: steps, the fitting loop, checkpoints."""

from ppl_vae.training._aggressive import AggressiveStep
from ppl_vae.training._budget import LIMITS, Budget, Spent
from ppl_vae.training._data import Batches, TrainingData, Transform
from ppl_vae.training._fit import FitResult, fit
from ppl_vae.training._history import EpochRecord, History, csv_line, curve_of, plot_histories
from ppl_vae.training._non_finite import NonFiniteError
from ppl_vae.training._optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    Adamax,
    AdamW,
    NormalizedAdam,
    OptimizerSettings,
    RAdam,
)
from ppl_vae.training._settings import ADDED, STEPS, FitSettings
from ppl_vae.training._snapshot import Snapshot, copied, load_parameters
from ppl_vae.training._steps import (
    AdamStep,
    AutoStep,
    CompiledStep,
    Step,
    TorchStep,
    find_parameters,
)
from ppl_vae.training._svi import SVIStep
from ppl_vae.training._turns import AlternatingStep, SemiAmortisedStep
from ppl_vae.training._workers import Workers, require_sum_over_data

__all__ = [
    "ADDED",
    "LIMITS",
    "OPTIMIZERS",
    "SGD",
    "STEPS",
    "Adam",
    "AdamStep",
    "AdamW",
    "Adamax",
    "AggressiveStep",
    "AlternatingStep",
    "AutoStep",
    "Batches",
    "Budget",
    "CompiledStep",
    "EpochRecord",
    "FitResult",
    "FitSettings",
    "History",
    "NonFiniteError",
    "NormalizedAdam",
    "OptimizerSettings",
    "RAdam",
    "SVIStep",
    "SemiAmortisedStep",
    "Snapshot",
    "Spent",
    "Step",
    "TorchStep",
    "TrainingData",
    "Transform",
    "Workers",
    "copied",
    "csv_line",
    "curve_of",
    "find_parameters",
    "fit",
    "load_parameters",
    "plot_histories",
    "require_sum_over_data",
]
