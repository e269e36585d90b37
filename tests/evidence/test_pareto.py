"""Pareto tails of weights that have none: discrete latents, whose states come back."""

import math

import pytest
import torch

from ppl_vae.evidence import ImportanceSampling, ParetoSmoothed, pareto_tail
from ppl_vae.reference_models import discrete_data
from ppl_vae.weights import RunningWeights


@pytest.mark.parametrize("num_particles", [100, 200, 1000])
def test_discrete_latents_have_an_estimate(num_particles):
    """Once, the fit divided by the lower quartile of a tail of ties, which is 0."""
    known = discrete_data(5)
    smoothed, plain = (
        estimator(known.model, known.guide, known.x)
        for estimator in (ParetoSmoothed(num_particles), ImportanceSampling(num_particles))
    )
    torch.testing.assert_close(smoothed.log_prob, plain.log_prob)
    assert (smoothed.pareto_k == -math.inf).all()


@pytest.mark.parametrize(("times", "k"), [(1, math.inf), (2, -math.inf)])
def test_a_best_state_that_was_drawn_once_may_have_better_ones(times, k):
    states = torch.arange(10.0).double().repeat(30)
    log_weight = torch.cat([states, torch.full((times,), 15.0).double()]).unsqueeze(1)
    weights = RunningWeights.of(log_weight)
    tail = pareto_tail(weights)
    assert tail.pareto_k.item() == k
    torch.testing.assert_close(tail.smoothed.log_mean, weights.log_mean)


def test_equal_weights_have_no_tail_whatever_their_densities_are_rounded_to():
    """Log-weights of a guide that is exact differ by what single precision leaves of each."""
    generator = torch.Generator().manual_seed(0)
    prior, guide = (torch.randn(400, 20, generator=generator) * 5 for _ in range(2))
    log_weight = (prior + guide - 9.0) - (prior + guide)
    assert 0 < (log_weight + 9.0).abs().max() < 1e-5
    assert (pareto_tail(RunningWeights.of(log_weight)).pareto_k == -math.inf).all()
    # In double precision, differences as large are weights' own.
    weights = -9 + 1e-6 * torch.randn(400, 20, generator=generator, dtype=torch.float64)
    assert pareto_tail(RunningWeights.of(weights)).pareto_k.isfinite().all()


def test_single_precision_ties_a_few_and_is_fitted():
    log_weight = (torch.randn(1000, 1) - 1000).double()
    assert len(log_weight.unique()) < 1000
    assert pareto_tail(RunningWeights.of(log_weight)).pareto_k.isfinite().all()
