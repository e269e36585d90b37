"""Every kind of component by name, as the tables of their folders have them.

A new component is a class and an entry in its own folder's table; this page collects the tables.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ppl_vae.components import Kind
from ppl_vae.engines import ENGINES
from ppl_vae.evidence import (
    METHODS,
    build_estimator,
    method_for,
    method_settings,
    needs_guide_density,
)
from ppl_vae.objectives import (
    OBJECTIVES,
    SHAPINGS,
    outside_objective,
    over_particles,
    parse_objective,
    takes_kl_shaping,
    with_particles,
)
from ppl_vae.runs import MODEL_KINDS
from ppl_vae.schedules import SCHEDULES
from ppl_vae.training import OPTIMIZERS, STEPS

__all__ = [
    "ENGINES",
    "GUIDES",
    "KINDS",
    "LIKELIHOODS",
    "METHODS",
    "MODEL_KINDS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PRIORS",
    "SCHEDULES",
    "SHAPINGS",
    "STEPS",
    "build_estimator",
    "method_for",
    "method_settings",
    "needs_guide_density",
    "outside_objective",
    "over_particles",
    "parse_objective",
    "takes_kl_shaping",
    "with_particles",
]

PRIORS, LIKELIHOODS, GUIDES = (MODEL_KINDS[name] for name in ("prior", "likelihood", "guide"))

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        **MODEL_KINDS,
        "objective": OBJECTIVES,
        "shaping": SHAPINGS,
        "step": STEPS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "method": METHODS,
        "engine": ENGINES,
    }
)
"""Every kind, by the setting or option that names a component of it."""
