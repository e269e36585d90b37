"""Training: steps, the fitting loop, checkpoints."""

from ppl_vae.training._aggressive import AggressiveStep
from ppl_vae.training._alternating import AlternatingStep
from ppl_vae.training._budget import Budget
from ppl_vae.training._checkpoint import Checkpoint, load_parameters
from ppl_vae.training._fit import FitResult, fit
from ppl_vae.training._history import EpochRecord, History, csv_line, curve_of, plot_histories
from ppl_vae.training._non_finite import NonFiniteError
from ppl_vae.training._semi_amortised import SemiAmortisedStep
from ppl_vae.training._settings import STEPS, FitSettings
from ppl_vae.training._step import Step, SVIStep, TorchStep

__all__ = [
    "STEPS",
    "AggressiveStep",
    "AlternatingStep",
    "Budget",
    "Checkpoint",
    "EpochRecord",
    "FitResult",
    "FitSettings",
    "History",
    "NonFiniteError",
    "SVIStep",
    "SemiAmortisedStep",
    "Step",
    "TorchStep",
    "csv_line",
    "curve_of",
    "fit",
    "load_parameters",
    "plot_histories",
]
