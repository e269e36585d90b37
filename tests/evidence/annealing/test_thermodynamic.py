"""Thermodynamic integration against exact evidence."""

import pytest
import torch
from programs import LinearChain
from significance import Estimate, mean_of

from ppl_vae.evidence import AnnealedImportanceSampling, Streams, ThermodynamicIntegration

from .cases import EXACT, MODEL, TEN, VAE, X, prepared, run

ALL = 10**6
pytestmark = pytest.mark.usefixtures("short_pilot")


def ti(num_temperatures=30, num_chains=160, burn_in=8, num_samples=2, **settings):
    annealing = AnnealedImportanceSampling(num_temperatures, num_chains, 3, rows=ALL, **settings)
    return ThermodynamicIntegration(annealing, burn_in, num_samples)


def error_of(evidence, exact):
    """Mean over data of the estimate less the truth, with the error it states."""
    difference = evidence.log_prob - exact.detach()
    return Estimate(difference.mean().item(), evidence.monte_carlo_error)


# All pairs are those of test_ais.py, whose annealer this is.
@pytest.mark.parametrize(
    ("start", "schedule"),
    [("prior", "linear"), ("guide", "sigmoidal"), ("prior", "adaptive"), ("guide", "adaptive")],
)
def test_agrees_within_its_error(start, schedule, significance):
    x = X[:4]
    evidence = run(ti(start=start, spacing=schedule), x)
    assert evidence.standard_error.max() < 0.5
    significance.require_equal(error_of(evidence, EXACT[:4]), 0.0)


def test_ten_latents(significance):
    x = TEN.simulate(3)
    evidence = run(ti(60), x, TEN.mean_field_vae())
    significance.require_equal(error_of(evidence, TEN.log_evidence(x)), 0.0)


def test_two_layers(significance):
    chain = LinearChain()
    x = chain.simulate(4)
    evidence = ti()(chain.model, chain.rough, x)
    significance.require_equal(error_of(evidence, chain.log_evidence(x)), 0.0)


def test_from_the_posterior_it_is_exact():
    evidence = run(ti(3, 2, 1, 1, start="guide"), X, MODEL.vae())
    torch.testing.assert_close(evidence.log_prob, EXACT, rtol=0, atol=1e-10)


def test_the_correction_takes_off_most_of_a_coarse_trapezoids_error(significance):
    estimator = ti(5, 4000, 6, 2)
    x = X[:2]
    annealer = prepared(estimator.annealing, x, Streams(0, 0, 0))
    with torch.no_grad():
        integral = estimator.integrate(annealer)
    plain = integral.trapezoid - EXACT[:2]
    # The plain rule is too low beyond doubt: the integrand is concave.
    significance.require_less(mean_of(plain.mean(1)), 0.0)
    left = plain.mean(0) + integral.correction
    assert (left.abs() < plain.mean(0).abs() / 2).all()


def test_counts_decoder_gradient_evaluations():
    rows = 0

    class Counting:
        guide = staticmethod(VAE.guide)

        def model(self, x):
            nonlocal rows
            rows += torch.is_grad_enabled()
            VAE.model(x)

    estimator = ti(3, 8, 2, 3)  # as many chains as the pilot has
    evidence = run(estimator, X, Counting())
    assert evidence.evaluations_per_datum == 8 * rows


def test_says_what_it_did():
    evidence = run(ti(3, 2, 2, 3))
    assert evidence.direction == "consistent"
    assert evidence.method.startswith("thermodynamic integration from the prior: 3 sigmoidal")
    assert "3 samples after 2 at each, trapezoid corrected by " in evidence.method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"burn_in": 0}, "burn_in >= 1"),
        ({"num_samples": 0}, "num_samples >= 1"),
        ({"num_chains": 1}, "num_chains >= 2, got 1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ti(**settings)
