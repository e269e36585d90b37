"""Training objectives: bounds on log p(x), each usable in ``pyro.infer.SVI`` and as a module."""

from ppl_vae.components import Kind
from ppl_vae.objectives._aggregate import MMD, BetaTC, InfoVAE
from ppl_vae.objectives._base import Claims, Context, Objective, ObjectiveModule
from ppl_vae.objectives._divergences import CUBO, TVO, Renyi, TailAdaptive, VRMax
from ppl_vae.objectives._elbo import ELBO, STL, AnalyticELBO, KLObjective
from ppl_vae.objectives._iwae import (
    CIWAE,
    IWAE,
    IWAESTL,
    MIWAE,
    PIWAE,
    DReG,
    GeneralizedDReG,
)
from ppl_vae.objectives._kl import (
    Beta,
    Capacity,
    CyclicalAnnealing,
    FreeBits,
    KLShaping,
    LinearAnnealing,
    dimension_kl,
    dimension_log_densities,
    site_kl,
)
from ppl_vae.objectives._paths import split_parameters
from ppl_vae.objectives._score import RWS, VIMCO, Reinforce

OBJECTIVES = Kind(
    "objective",
    {
        "elbo": ELBO,
        "elbo-analytic": AnalyticELBO,
        "stl": STL,
        "iwae": IWAE,
        "iwae-stl": IWAESTL,
        "dreg": DReG,
        "gdreg": GeneralizedDReG,
        "vimco": VIMCO,
        "reinforce": Reinforce,
        "rws": RWS,
        "miwae": MIWAE,
        "piwae": PIWAE,
        "ciwae": CIWAE,
        "renyi": Renyi,
        "vr-max": VRMax,
        "cubo": CUBO,
        "tvo": TVO,
        "tail-adaptive": TailAdaptive,
        "mmd": MMD,
        "info-vae": InfoVAE,
        "beta-tc": BetaTC,
    },
    base=Objective,
    context=frozenset({"kl"}),
)
"""Objectives by name."""
SHAPINGS = Kind(
    "KL shaping",
    {
        "beta": Beta,
        "linear": LinearAnnealing,
        "cyclical": CyclicalAnnealing,
        "free-bits": FreeBits,
        "capacity": Capacity,
    },
)
"""Shapings of the KL terms by name."""

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "IWAESTL",
    "MIWAE",
    "MMD",
    "OBJECTIVES",
    "PIWAE",
    "RWS",
    "SHAPINGS",
    "STL",
    "TVO",
    "VIMCO",
    "AnalyticELBO",
    "Beta",
    "BetaTC",
    "Capacity",
    "Claims",
    "Context",
    "CyclicalAnnealing",
    "DReG",
    "FreeBits",
    "GeneralizedDReG",
    "InfoVAE",
    "KLObjective",
    "KLShaping",
    "LinearAnnealing",
    "Objective",
    "ObjectiveModule",
    "Reinforce",
    "Renyi",
    "TailAdaptive",
    "VRMax",
    "dimension_kl",
    "dimension_log_densities",
    "site_kl",
    "split_parameters",
]
