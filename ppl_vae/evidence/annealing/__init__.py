"""Estimators of log p(x) that anneal from a start to the posterior."""

from ppl_vae.evidence.annealing.ais import AnnealedImportanceSampling

__all__ = ["AnnealedImportanceSampling"]
