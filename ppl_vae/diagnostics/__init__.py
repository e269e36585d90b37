"""What a trained model and guide are like."""

from ppl_vae.diagnostics._bound_curve import BoundCurve, Extrapolation, bound_against_particles
from ppl_vae.diagnostics._calibration import Calibration, RankTest, simulation_based_calibration
from ppl_vae.diagnostics._decomposition import (
    ActiveUnits,
    Decomposition,
    Estimate,
    PerDimension,
    decompose,
)
from ppl_vae.diagnostics._estimates import MonteCarlo
from ppl_vae.diagnostics._full_covariance import only_normal
from ppl_vae.diagnostics._gaps import (
    GeneralizationGap,
    InferenceGap,
    generalization_gap,
    inference_gap,
)
from ppl_vae.diagnostics._gradient_bench import GradientBench, GroupGradient
from ppl_vae.diagnostics._gradient_statistics import Interval, Slope
from ppl_vae.diagnostics._gradients import gradient_statistics
from ppl_vae.diagnostics._linear_gaussian_gradients import (
    LinearGaussianProblem,
    linear_gaussian_bench,
)
from ppl_vae.diagnostics._rate_curve import RateDistortion, RatePoint
from ppl_vae.diagnostics._rate_distortion import rate_distortion
from ppl_vae.diagnostics._surgery import ElboSurgery, elbo_surgery

__all__ = [
    "ActiveUnits",
    "BoundCurve",
    "Calibration",
    "Decomposition",
    "ElboSurgery",
    "Estimate",
    "Extrapolation",
    "GeneralizationGap",
    "GradientBench",
    "GroupGradient",
    "InferenceGap",
    "Interval",
    "LinearGaussianProblem",
    "MonteCarlo",
    "PerDimension",
    "RankTest",
    "RateDistortion",
    "RatePoint",
    "Slope",
    "bound_against_particles",
    "decompose",
    "elbo_surgery",
    "generalization_gap",
    "gradient_statistics",
    "inference_gap",
    "linear_gaussian_bench",
    "only_normal",
    "rate_distortion",
    "simulation_based_calibration",
]
