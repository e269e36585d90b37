"""Particles: K draws of the latents for each of B data, with every log-density kept apart.

This folder is the only place in the package that reads a Pyro program's sample sites. Every
objective, estimator and diagnostic is a function of the :class:`Particles` it returns.
"""

from ppl_vae.particles._checks import FirstRun, first_run, is_out_of_memory, require_rows
from ppl_vae.particles._density import LatentDensity, LogDensities, bijection_onto
from ppl_vae.particles._draws import Share, row_draws, share_here, shared_draws
from ppl_vae.particles._evaluation import ChunkSize, Evaluation, evaluation
from ppl_vae.particles._guides import (
    Offset,
    OffsetGuide,
    Refiner,
    aggregate_log_density,
    cross_log_guide,
    zero_offsets,
)
from ppl_vae.particles._missing import refused_missing
from ppl_vae.particles._modules import (
    ParameterRecorder,
    ProgramModules,
    evaluating,
    owners_of,
)
from ppl_vae.particles._particles import (
    EvaluationCount,
    NonFiniteDensityError,
    OutsideSupportError,
    Particles,
    Simulation,
    add_evaluations,
    count_evaluations,
    is_point,
    point_site,
    require_density,
    side_by_side,
)
from ppl_vae.particles._programs import Graph, Programs, draw_particles
from ppl_vae.particles._replays import Replays
from ppl_vae.particles._run import (
    BatchGuide,
    PlateNestingError,
    Program,
    SiteRun,
    guide_of,
    require_all_rows,
)
from ppl_vae.particles._sites import log_densities
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
    "OutsideSupportError",
    "ParameterRecorder",
    "Particles",
    "PlateNestingError",
    "Program",
    "ProgramModules",
    "Programs",
    "Refiner",
    "Replays",
    "Share",
    "Simulation",
    "SiteRun",
    "add_evaluations",
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
    "refused_missing",
    "require_all_rows",
    "require_density",
    "require_rows",
    "row_draws",
    "share_here",
    "shared_draws",
    "side_by_side",
    "zero_offsets",
]
