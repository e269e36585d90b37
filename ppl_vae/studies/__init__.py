"""Planned comparisons: configurations, runs in folders, paired statistics."""

from ppl_vae.studies.comparison import Comparison, CrossedMean, compare, crossed_mean
from ppl_vae.studies.config import RunConfig, parse_objective
from ppl_vae.studies.run import EVIDENCE, Run, evaluate_run, open_run, train_run
from ppl_vae.studies.study import StudyResult, run_study
from ppl_vae.studies.table import format_comparison

__all__ = [
    "EVIDENCE",
    "Comparison",
    "CrossedMean",
    "Run",
    "RunConfig",
    "StudyResult",
    "compare",
    "crossed_mean",
    "evaluate_run",
    "format_comparison",
    "open_run",
    "parse_objective",
    "run_study",
    "train_run",
]
