"""Diagnostics of a trained model and guide."""

from ppl_vae.diagnostics._bound_curve import BoundCurve, Extrapolation, bound_against_particles
from ppl_vae.diagnostics._calibration import Calibration, simulation_based_calibration
from ppl_vae.diagnostics._decomposition import (
    ActiveUnits,
    Decomposition,
    PerDimension,
    decompose,
)
from ppl_vae.diagnostics._estimates import Estimate, MonteCarlo
from ppl_vae.diagnostics._gaps import (
    GapSettings,
    GeneralizationGap,
    InferenceGap,
    generalization_gap,
    inference_gap,
)
from ppl_vae.diagnostics._gradient_bench import GradientBench, GroupGradient
from ppl_vae.diagnostics._gradient_statistics import Interval, Slope
from ppl_vae.diagnostics._gradients import gradient_statistics, linear_gaussian_bench
from ppl_vae.diagnostics._predictive import (
    STATISTICS,
    PredictiveCheck,
    Statistic,
    predictive_check,
)
from ppl_vae.diagnostics._rank_tests import RankTest
from ppl_vae.diagnostics._rate_curve import RateDistortion, RatePoint
from ppl_vae.diagnostics._rate_distortion import rate_distortion
from ppl_vae.diagnostics._richer_posteriors import only_normal
from ppl_vae.diagnostics._surgery import ElboSurgery, elbo_surgery

__all__ = [
    "STATISTICS",
    "ActiveUnits",
    "BoundCurve",
    "Calibration",
    "Decomposition",
    "ElboSurgery",
    "Estimate",
    "Extrapolation",
    "GapSettings",
    "GeneralizationGap",
    "GradientBench",
    "GroupGradient",
    "InferenceGap",
    "Interval",
    "MonteCarlo",
    "PerDimension",
    "PredictiveCheck",
    "RankTest",
    "RateDistortion",
    "RatePoint",
    "Slope",
    "Statistic",
    "bound_against_particles",
    "decompose",
    "elbo_surgery",
    "generalization_gap",
    "gradient_statistics",
    "inference_gap",
    "linear_gaussian_bench",
    "only_normal",
    "predictive_check",
    "rate_distortion",
    "simulation_based_calibration",
]
