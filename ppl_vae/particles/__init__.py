"""Particles: K draws of the latents for each of B data, with every log-density kept apart.

This folder is the only place in the package that reads a Pyro program's sample sites. Every
objective, estimator and diagnostic is a function of the :class:`Particles` it returns.
"""

from ppl_vae.particles._aggregate import aggregate_log_density
from ppl_vae.particles._counting import EvaluationCount, count_evaluations
from ppl_vae.particles._cross import cross_log_guide
from ppl_vae.particles._density import LatentDensity, LogDensities, bijection_onto
from ppl_vae.particles._evaluation import (
    ChunkSize,
    Evaluation,
    FirstRun,
    evaluation,
    first_run,
    is_out_of_memory,
    require_rows,
)
from ppl_vae.particles._modules import (
    ParameterRecorder,
    ProgramModules,
    evaluating,
    owners_of,
)
from ppl_vae.particles._offsets import Offset, OffsetGuide, zero_offsets
from ppl_vae.particles._particles import (
    NonFiniteDensityError,
    Particles,
    Simulation,
    is_point,
    point_site,
    require_density,
    side_by_side,
)
from ppl_vae.particles._programs import Graph, Programs, draw_particles
from ppl_vae.particles._sites import (
    BatchGuide,
    PlateNestingError,
    Program,
    SiteRun,
    guide_of,
    log_densities,
    require_all_rows,
)
from ppl_vae.particles._supports import in_words

__all__ = [
    "BatchGuide",
    "ChunkSize",
    "Evaluation",
    "EvaluationCount",
    "FirstRun",
    "Graph",
    "LatentDensity",
    "LogDensities",
    "NonFiniteDensityError",
    "Offset",
    "OffsetGuide",
    "ParameterRecorder",
    "Particles",
    "PlateNestingError",
    "Program",
    "ProgramModules",
    "Programs",
    "Simulation",
    "SiteRun",
    "aggregate_log_density",
    "bijection_onto",
    "count_evaluations",
    "cross_log_guide",
    "draw_particles",
    "evaluating",
    "evaluation",
    "first_run",
    "guide_of",
    "in_words",
    "is_out_of_memory",
    "is_point",
    "log_densities",
    "owners_of",
    "point_site",
    "require_all_rows",
    "require_density",
    "require_rows",
    "side_by_side",
    "zero_offsets",
]
