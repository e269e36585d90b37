"""Checks of priors, likelihoods and guides."""
