"""Training runs: configurations by names, folders and their records, evaluation, diagnosis."""

from ppl_vae.runs._autoencoders import AutoencoderKind, DenoisingKind, SparseKind, StackedKind
from ppl_vae.runs._baselines import (
    FactorAnalysisKind,
    GANKind,
    GMMNKind,
    LinearKind,
    RBMKind,
    RuleKind,
    WassersteinGANKind,
)
from ppl_vae.runs._build import Model
from ppl_vae.runs._config import DataSettings, RunConfig, require_ours, require_same_settings
from ppl_vae.runs._diagnose import DIAGNOSES, diagnose_run
from ppl_vae.runs._diagnosis import Diagnosis, DiagnosisSettings
from ppl_vae.runs._encode import describe_codes, encode_run, reconstruct_run, sparsity
from ppl_vae.runs._evaluate import certify_run, evaluate_run
from ppl_vae.runs._evaluations import (
    Normalizer,
    StoredEvaluation,
    file_of,
    find_normalizers,
    format_evaluations,
    key_of,
    list_evaluations,
)
from ppl_vae.runs._job import TrainingJob
from ppl_vae.runs._kinds import Finished, GeneratorKind, GradientKind, ModelKind, VAEKind
from ppl_vae.runs._model import MODEL_KINDS, MODELS, ModelSettings
from ppl_vae.runs._origin import (
    CHECKPOINT,
    CONFIG,
    FINISHED,
    HISTORY,
    LACKING,
    LOCK,
    LOG,
    MEASURES,
    PICTURES,
    read_config,
)
from ppl_vae.runs._record import RunRecord, RunState, hashes_of
from ppl_vae.runs._run import Run, Split, is_point_guide, open_run
from ppl_vae.runs._train import train_run

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "DIAGNOSES",
    "FINISHED",
    "HISTORY",
    "LACKING",
    "LOCK",
    "LOG",
    "MEASURES",
    "MODELS",
    "MODEL_KINDS",
    "PICTURES",
    "AutoencoderKind",
    "DataSettings",
    "DenoisingKind",
    "Diagnosis",
    "DiagnosisSettings",
    "FactorAnalysisKind",
    "Finished",
    "GANKind",
    "GMMNKind",
    "GeneratorKind",
    "GradientKind",
    "LinearKind",
    "Model",
    "ModelKind",
    "ModelSettings",
    "Normalizer",
    "RBMKind",
    "RuleKind",
    "Run",
    "RunConfig",
    "RunRecord",
    "RunState",
    "SparseKind",
    "Split",
    "StackedKind",
    "StoredEvaluation",
    "TrainingJob",
    "VAEKind",
    "WassersteinGANKind",
    "certify_run",
    "describe_codes",
    "diagnose_run",
    "encode_run",
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
    "reconstruct_run",
    "require_ours",
    "require_same_settings",
    "sparsity",
    "train_run",
]
