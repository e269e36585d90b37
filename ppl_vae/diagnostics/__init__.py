"""What a trained model and guide are like."""

from ppl_vae.diagnostics.decomposition import (
    ActiveUnits,
    Decomposition,
    Estimate,
    PerDimension,
    decompose,
)
from ppl_vae.diagnostics.gradient_bench import GradientBench, GroupGradient
from ppl_vae.diagnostics.gradient_statistics import Interval, Slope
from ppl_vae.diagnostics.gradients import gradient_statistics
from ppl_vae.diagnostics.linear_gaussian_gradients import (
    LinearGaussianProblem,
    linear_gaussian_bench,
)

__all__ = [
    "ActiveUnits",
    "Decomposition",
    "Estimate",
    "GradientBench",
    "GroupGradient",
    "Interval",
    "LinearGaussianProblem",
    "PerDimension",
    "Slope",
    "decompose",
    "gradient_statistics",
    "linear_gaussian_bench",
]
