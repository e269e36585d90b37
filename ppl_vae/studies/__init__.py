"""Planned comparisons: arms by seeds."""

from ppl_vae.studies.arms import FACTORS, build_arms
from ppl_vae.studies.study import StudyResult, run_study

__all__ = ["FACTORS", "StudyResult", "build_arms", "run_study"]
