"""Checks of priors, likelihoods and guides."""

from ppl_vae.testing.distributions._checks import check_guide, check_likelihood, check_prior

__all__ = ["check_guide", "check_likelihood", "check_prior"]
