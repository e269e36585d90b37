"""Checks for people who write parts of their own: does it do what it says?"""

from ppl_vae.testing.comparison import Discrepancy, Report, Rung
from ppl_vae.testing.distributions import check_guide, check_likelihood, check_prior
from ppl_vae.testing.evidence import check_evidence
from ppl_vae.testing.objective import check_objective

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
