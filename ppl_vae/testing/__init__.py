"""Checks of a user's own objectives, estimators, priors, likelihoods and guides."""

from ppl_vae.testing._comparison import Discrepancy, Report, Rung
from ppl_vae.testing._evidence import check_evidence
from ppl_vae.testing._objective import check_objective
from ppl_vae.testing.distributions._checks import check_guide, check_likelihood, check_prior

__all__ = [
    "Discrepancy",
    "Report",
    "Rung",
    "check_evidence",
    "check_guide",
    "check_likelihood",
    "check_objective",
    "check_prior",
]
