"""Training objectives: bounds on log p(x), each usable in ``pyro.infer.SVI`` and as a module."""

from ppl_vae.objectives.base import Context, Objective, ObjectiveModule
from ppl_vae.objectives.beta_tc import BetaTC
from ppl_vae.objectives.claims import Claims
from ppl_vae.objectives.cubo import CUBO
from ppl_vae.objectives.dreg import DReG, GeneralizedDReG
from ppl_vae.objectives.elbo import ELBO, AnalyticELBO, KLObjective
from ppl_vae.objectives.iwae import CIWAE, IWAE, MIWAE
from ppl_vae.objectives.mmd import MMD, InfoVAE
from ppl_vae.objectives.piwae import PIWAE
from ppl_vae.objectives.renyi import Renyi, VRMax
from ppl_vae.objectives.rws import RWS
from ppl_vae.objectives.score import VIMCO, Reinforce
from ppl_vae.objectives.shaping import (
    Beta,
    Capacity,
    CyclicalAnnealing,
    FreeBits,
    KLShaping,
    LinearAnnealing,
)
from ppl_vae.objectives.stl import IWAESTL, STL
from ppl_vae.objectives.tail_adaptive import TailAdaptive
from ppl_vae.objectives.tvo import TVO

CATALOGUE: tuple[type[Objective], ...] = (
    ELBO,
    AnalyticELBO,
    STL,
    IWAE,
    IWAESTL,
    DReG,
    GeneralizedDReG,
    VIMCO,
    Reinforce,
    RWS,
    MIWAE,
    PIWAE,
    CIWAE,
    Renyi,
    VRMax,
    CUBO,
    TVO,
    TailAdaptive,
    MMD,
    InfoVAE,
    BetaTC,
)
"""Every objective of the package, in the order of the documentation."""

__all__ = [
    "CATALOGUE",
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "IWAESTL",
    "MIWAE",
    "MMD",
    "PIWAE",
    "RWS",
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
]
