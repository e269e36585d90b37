"""Single runs: configurations by names, folders, evaluation, diagnosis."""

from ppl_vae.data import Rows
from ppl_vae.runs.config import BINARIZATIONS, SCHEDULES, RunConfig
from ppl_vae.runs.diagnose import diagnose_run
from ppl_vae.runs.diagnosis import Diagnosis
from ppl_vae.runs.estimator_names import (
    LAPLACE,
    METHODS,
    build_estimator,
    method_default,
    methods_taking,
    needs_guide_density,
    sandwiches,
    with_gap,
)
from ppl_vae.runs.evaluations import (
    Evaluation,
    file_of,
    format_evaluations,
    list_evaluations,
)
from ppl_vae.runs.families import over_particles, with_particles
from ppl_vae.runs.imputation import ImputedTable, impute_run
from ppl_vae.runs.normalizers import Normalizer, find_normalizers
from ppl_vae.runs.objective_names import (
    OBJECTIVES,
    SHAPINGS,
    outside_objective,
    parse_objective,
    takes_kl_shaping,
)
from ppl_vae.runs.part_names import PARTS
from ppl_vae.runs.parts import form, outside_class
from ppl_vae.runs.replay import replay_run
from ppl_vae.runs.run import Run, Split, evaluate_run, is_point_guide, open_run, train_run
from ppl_vae.runs.sharded import evaluate_sharded

__all__ = [
    "BINARIZATIONS",
    "LAPLACE",
    "METHODS",
    "OBJECTIVES",
    "PARTS",
    "SCHEDULES",
    "SHAPINGS",
    "Diagnosis",
    "Evaluation",
    "ImputedTable",
    "Normalizer",
    "Rows",
    "Run",
    "RunConfig",
    "Split",
    "build_estimator",
    "diagnose_run",
    "evaluate_run",
    "evaluate_sharded",
    "file_of",
    "find_normalizers",
    "form",
    "format_evaluations",
    "impute_run",
    "is_point_guide",
    "list_evaluations",
    "method_default",
    "methods_taking",
    "needs_guide_density",
    "open_run",
    "outside_class",
    "outside_objective",
    "over_particles",
    "parse_objective",
    "replay_run",
    "sandwiches",
    "takes_kl_shaping",
    "train_run",
    "with_gap",
    "with_particles",
]
