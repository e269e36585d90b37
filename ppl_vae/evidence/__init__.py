"""Estimators of log p(x), each with its standard error."""

from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.result import Evidence, PairedDifference, paired_difference

__all__ = ["Evidence", "ImportanceSampling", "PairedDifference", "paired_difference"]
