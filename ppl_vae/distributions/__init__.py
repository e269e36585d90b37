"""Distributions that Pyro lacks, for priors and guides."""

from ppl_vae.distributions._boltzmann import (
    Couplings,
    LogPartition,
    RestrictedBoltzmann,
    draw_exactly,
    log_total,
    smaller_layer,
    state_log_weights,
)
from ppl_vae.distributions._boltzmann_path import (
    BinaryUnits,
    BoltzmannPath,
    NormalUnits,
    VisibleUnits,
    annealed,
    annealed_from_both_sides,
)
from ppl_vae.distributions._coordinates import Autoregressive, OneHotBlocks, OneHotVector
from ppl_vae.distributions._mixture import Mixture
from ppl_vae.distributions._normal import FullNormal, LowRankNormal, multiply
from ppl_vae.distributions._precision import InDouble, in_double, sum_features
from ppl_vae.distributions._sphere_cumulants import sphere_cumulants
from ppl_vae.distributions._univariate import Normal
from ppl_vae.distributions._von_mises_fisher import VonMisesFisher

__all__ = [
    "Autoregressive",
    "BinaryUnits",
    "BoltzmannPath",
    "Couplings",
    "FullNormal",
    "InDouble",
    "LogPartition",
    "LowRankNormal",
    "Mixture",
    "Normal",
    "NormalUnits",
    "OneHotBlocks",
    "OneHotVector",
    "RestrictedBoltzmann",
    "VisibleUnits",
    "VonMisesFisher",
    "annealed",
    "annealed_from_both_sides",
    "draw_exactly",
    "in_double",
    "log_total",
    "multiply",
    "smaller_layer",
    "sphere_cumulants",
    "state_log_weights",
    "sum_features",
]
