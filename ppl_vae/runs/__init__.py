"""Training runs: configurations by names, folders and their records, evaluation, diagnosis."""

from ppl_vae.runs._build import ModelSettings
from ppl_vae.runs._config import DataSettings, RunConfig
from ppl_vae.runs._diagnose import DIAGNOSES, Diagnosis, DiagnosisSettings, diagnose_run
from ppl_vae.runs._evaluate import evaluate_run
from ppl_vae.runs._evaluations import (
    StoredEvaluation,
    file_of,
    format_evaluations,
    key_of,
    list_evaluations,
)
from ppl_vae.runs._origin import read_config, require_same_settings
from ppl_vae.runs._record import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    LOCK,
    LOG,
    MEASURES,
    PICTURES,
    RunRecord,
    RunState,
    hashes_of,
)
from ppl_vae.runs._run import Normalizer, Run, Split, find_normalizers, is_point_guide, open_run
from ppl_vae.runs._train import train_run

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "DIAGNOSES",
    "HISTORY",
    "LOCK",
    "LOG",
    "MEASURES",
    "PICTURES",
    "DataSettings",
    "Diagnosis",
    "DiagnosisSettings",
    "ModelSettings",
    "Normalizer",
    "Run",
    "RunConfig",
    "RunRecord",
    "RunState",
    "Split",
    "StoredEvaluation",
    "diagnose_run",
    "evaluate_run",
    "file_of",
    "find_normalizers",
    "format_evaluations",
    "hashes_of",
    "is_point_guide",
    "key_of",
    "list_evaluations",
    "open_run",
    "read_config",
    "require_same_settings",
    "train_run",
]
