"""Training objectives: bounds on log p(x), each usable in ``pyro.infer.SVI`` and as a module."""

from ppl_vae.objectives.base import Objective, ObjectiveModule
from ppl_vae.objectives.elbo import ELBO, AnalyticELBO
from ppl_vae.objectives.iwae import IWAE

__all__ = ["ELBO", "IWAE", "AnalyticELBO", "Objective", "ObjectiveModule"]
