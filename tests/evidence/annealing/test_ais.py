"""Annealed importance sampling against exact evidence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from scipy.integrate import quad
from significance import Estimate, mean_of

from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
X = MODEL.simulate(12)


def run(estimator, x, programs=VAE, **kwargs):
    return estimator(programs.model, programs.guide, x, **kwargs)


def ratio(evidence, exact):
    """The estimate of p(x) over p(x), its mean over data: independent chains give its error."""
    ratios = (evidence.log_prob - exact.detach()).exp()
    error = (ratios * evidence.standard_error).square().sum().sqrt().item() / len(ratios)
    return Estimate(ratios.mean().item(), error)


class TestExact:
    @pytest.mark.parametrize("schedule", ["linear", "sigmoidal", "adaptive"])
    def test_every_weight_is_p_of_x_from_the_posterior(self, schedule):
        estimator = AnnealedImportanceSampling(7, 5, 2, "guide", schedule)
        evidence = run(estimator, X, MODEL.vae())
        torch.testing.assert_close(
            evidence.log_prob, MODEL.log_evidence(X).detach(), rtol=0, atol=1e-10
        )
        assert evidence.standard_error.max() < 1e-6

    def test_two_layers_from_the_posterior_in_either_order(self):
        chain = LinearChain()
        x = chain.simulate(5)
        for guide in (chain.top_down, chain.bottom_up):
            evidence = AnnealedImportanceSampling(5, 4, 2, "guide")(chain.model, guide, x)
            torch.testing.assert_close(evidence.log_prob, chain.log_evidence(x).detach())

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_one_temperature_is_importance_sampling(self, start, significance):
        estimator = AnnealedImportanceSampling(1, 4000, 1, start, rows=10**6)
        evidence = run(estimator, X)
        significance.require_equal(ratio(evidence, MODEL.log_evidence(X)), 1.0)


class TestUnbiased:
    """E[W] = p(x), however short the schedule and bad the transitions."""

    @pytest.mark.parametrize("start", ["prior", "guide"])
    @pytest.mark.parametrize("schedule", ["linear", "sigmoidal", "adaptive"])
    def test_over_many_chains(self, start, schedule, significance):
        estimator = AnnealedImportanceSampling(5, 4000, 2, start, schedule, rows=10**6)
        evidence = run(estimator, X)
        significance.require_equal(ratio(evidence, MODEL.log_evidence(X)), 1.0)
