"""Training: steps, the fitting loop, checkpoints."""

from ppl_vae.training.checkpoint import Checkpoint, load_parameters
from ppl_vae.training.fit import FitResult, fit
from ppl_vae.training.history import EpochRecord, History
from ppl_vae.training.step import STEPS, Step, SVIStep, TorchStep

__all__ = [
    "STEPS",
    "Checkpoint",
    "EpochRecord",
    "FitResult",
    "History",
    "SVIStep",
    "Step",
    "TorchStep",
    "fit",
    "load_parameters",
]
