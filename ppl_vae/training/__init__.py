"""Training: steps, the fitting loop, checkpoints."""

from ppl_vae.training.aggressive import AggressiveStep
from ppl_vae.training.alternating import AlternatingStep
from ppl_vae.training.budget import Budget
from ppl_vae.training.checkpoint import Checkpoint, load_parameters
from ppl_vae.training.fit import FitResult, fit
from ppl_vae.training.history import EpochRecord, History, csv_line, curve_of, plot_histories
from ppl_vae.training.non_finite import NonFiniteError
from ppl_vae.training.semi_amortised import SemiAmortisedStep
from ppl_vae.training.settings import STEPS
from ppl_vae.training.step import Step, SVIStep, TorchStep

__all__ = [
    "STEPS",
    "AggressiveStep",
    "AlternatingStep",
    "Budget",
    "Checkpoint",
    "EpochRecord",
    "FitResult",
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
