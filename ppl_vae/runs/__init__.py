"""Single runs: configurations by names, folders, evaluation, diagnosis."""

from ppl_vae.runs._build import ModelSettings
from ppl_vae.runs._config import DataSettings, RunConfig
from ppl_vae.runs._diagnose import diagnose_run
from ppl_vae.runs._diagnosis import Diagnosis
from ppl_vae.runs._evaluations import (
    StoredEvaluation,
    file_of,
    format_evaluations,
    list_evaluations,
)
from ppl_vae.runs._imputation import ImputedTable, impute_run
from ppl_vae.runs._normalizers import Normalizer, find_normalizers
from ppl_vae.runs._run import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    Run,
    Split,
    evaluate_run,
    is_point_guide,
    open_run,
    read_config,
    require_same_settings,
    train_run,
)
from ppl_vae.runs._sharded import evaluate_sharded

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "HISTORY",
    "DataSettings",
    "Diagnosis",
    "ImputedTable",
    "ModelSettings",
    "Normalizer",
    "Run",
    "RunConfig",
    "Split",
    "StoredEvaluation",
    "diagnose_run",
    "evaluate_run",
    "evaluate_sharded",
    "file_of",
    "find_normalizers",
    "format_evaluations",
    "impute_run",
    "is_point_guide",
    "list_evaluations",
    "open_run",
    "read_config",
    "require_same_settings",
    "train_run",
]
