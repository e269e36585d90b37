"""Planned comparisons: configurations, runs in folders, paired statistics."""

from ppl_vae.studies.arms import FACTORS, build_arms
from ppl_vae.studies.comparison import Comparison, CrossedMean, compare, crossed_mean
from ppl_vae.studies.config import RunConfig
from ppl_vae.studies.diagnose import diagnose_run
from ppl_vae.studies.diagnosis import Diagnosis
from ppl_vae.studies.estimator_names import METHODS, build_estimator, sandwiches, with_gap
from ppl_vae.studies.imputation import ImputedTable, impute_run
from ppl_vae.studies.objective_names import OBJECTIVES, SHAPINGS, parse_objective, takes_kl_shaping
from ppl_vae.studies.part_names import PARTS
from ppl_vae.studies.parts import form
from ppl_vae.studies.run import EVIDENCE, Run, evaluate_run, open_run, train_run
from ppl_vae.studies.study import StudyResult, run_study
from ppl_vae.studies.table import format_comparison

__all__ = [
    "EVIDENCE",
    "FACTORS",
    "METHODS",
    "OBJECTIVES",
    "PARTS",
    "SHAPINGS",
    "Comparison",
    "CrossedMean",
    "Diagnosis",
    "ImputedTable",
    "Run",
    "RunConfig",
    "StudyResult",
    "build_arms",
    "build_estimator",
    "compare",
    "crossed_mean",
    "diagnose_run",
    "evaluate_run",
    "form",
    "format_comparison",
    "impute_run",
    "open_run",
    "parse_objective",
    "run_study",
    "sandwiches",
    "takes_kl_shaping",
    "train_run",
    "with_gap",
]
