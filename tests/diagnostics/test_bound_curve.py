"""The bound against K where log p(x) and the slope of 1/K are known."""

import json

import pyro.distributions as dist
import pytest
import torch
from programs import binary_data, binary_vae, weight_moment
from significance import Estimate as Measured
from significance import mean_of

from ppl_vae.diagnostics import bound_against_particles
from ppl_vae.evidence import Quadrature
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.vae import VAE

LIGHT = LinearGaussian.random(4, 2, 1.5, seed=1)
MEDIUM = LinearGaussian.random(4, 2, 1.0, seed=3)
COUNTS = (1, 2, 5, 10, 20, 50, 100)


def curve_of(model, x, *args, **kwargs):
    vae = model.mean_field_vae()
    return bound_against_particles(vae.model, vae.guide, x, *args, **kwargs)


def wide_curve(x, *args, factor=2, **kwargs):
    """Of a guide wider than the posterior, whose weights vary a lot and have every moment."""

    def encoder(x):
        p = MEDIUM.posterior(x)
        return dist.MultivariateNormal(p.mean, scale_tril=factor * p.scale_tril)

    vae = VAE(MEDIUM.prior, MEDIUM.decoder, encoder)
    return bound_against_particles(vae.model, vae.guide, x, *args, **kwargs)


def at_fixed_data(estimate):
    return Measured(estimate.value, estimate.monte_carlo_error)


class TestLinearGaussian:
    @pytest.mark.parametrize("model", [LIGHT, MEDIUM])
    def test_limit_and_slope(self, model, significance):
        x = model.simulate(200)
        curve = curve_of(model, x)
        fit = curve.extrapolation
        significance = significance.split(2)
        significance.require_equal(at_fixed_data(fit.limit), model.log_evidence(x).mean().item())
        slope = Measured(fit.slope.value, fit.slope.standard_error)
        significance.require_equal(slope, (weight_moment(model, 2) - 1) / 2)
        assert curve.notes == []

    def test_without_extrapolation_the_largest_bound_is_low(self, significance):
        """What the curve is for: by the last K alone log p(x) would be missed beyond doubt."""
        x = MEDIUM.simulate(200)
        curve = wide_curve(x, (1, 2, 5, 10, 20, 30, 40), replicates=100)
        exact = MEDIUM.log_evidence(x).mean().item()
        significance = significance.split(3)
        significance.require_less(at_fixed_data(curve.bounds[40]), exact)
        significance.require_equal(at_fixed_data(curve.extrapolation.limit), exact)
        # E w^2 / p^2 is 4 / sqrt(7) for each of the two dimensions of a guide twice as wide.
        slope = curve.extrapolation.slope
        significance.require_equal(Measured(slope.value, slope.standard_error), (16 / 7 - 1) / 2)

    def test_small_k_are_left_out_as_they_show(self):
        x = MEDIUM.simulate(100)
        few = wide_curve(x, COUNTS, replicates=2).extrapolation.particles
        many = wide_curve(x, COUNTS, replicates=100).extrapolation.particles
        assert set(many) < set(few)
        assert many[-1] == 100

    # Annotations are checked in the other tests; in a hundred calls they take a third of the time.
    @pytest.mark.usefixtures("unchecked_types")
    def test_its_error_covers_the_truth(self, significance):
        """z-scores over seeds have spread 1, also though K are left out by looking at the data."""
        x = LIGHT.simulate(20)
        exact = LIGHT.log_evidence(x).mean().item()
        z = []
        for seed in range(100):
            limit = curve_of(LIGHT, x, COUNTS, replicates=10, seed=seed).extrapolation.limit
            z.append((limit.value - exact) / limit.monte_carlo_error)
        squares = mean_of(torch.tensor(z).square())
        significance.require_equal(squares, 1.0)

    def test_bounds_are_those_of_the_draws(self, significance):
        """E L_1 is the ELBO, known exactly; they rise with K, on shared draws without exception."""
        x = MEDIUM.simulate(100)
        curve = curve_of(MEDIUM, x, COUNTS)
        elbo = (MEDIUM.log_evidence(x).mean() - MEDIUM.mean_field_gap()).item()
        significance.require_equal(at_fixed_data(curve.bounds[1]), elbo)
        values = [bound.value for bound in curve.bounds.values()]
        assert values == sorted(values)

    def test_total_error_is_of_the_population(self, significance):
        x = LIGHT.simulate(3000)
        curve = curve_of(LIGHT, x, (5, 10, 20, 50), replicates=4)
        covariance = LIGHT.weight @ LIGHT.weight.T + LIGHT.noise_scale**2 * torch.eye(4).double()
        entropy = dist.MultivariateNormal(LIGHT.bias, covariance).entropy().item()
        limit = curve.extrapolation.limit
        significance.require_equal(Measured(limit.value, limit.total_error), -entropy)

    def test_at_the_posterior_every_bound_is_the_limit(self):
        vae, x = LIGHT.vae(), LIGHT.simulate(30)
        curve = bound_against_particles(vae.model, vae.guide, x)
        exact = LIGHT.log_evidence(x).mean().item()
        for bound in [*curve.bounds.values(), curve.extrapolation.limit]:
            assert bound.value == pytest.approx(exact, abs=1e-9)
        assert curve.extrapolation.slope.value == pytest.approx(0, abs=1e-9)


def test_bernoulli_decoder_against_quadrature(significance):
    vae, x = binary_vae().double(), binary_data(30).double()
    wide = VAE(vae.prior, vae.decoder, lambda x: dist.Normal(x[:, :2] * 0, 1.1).to_event(1))
    exact = Quadrature()(vae.model, wide.guide, x).mean
    curve = bound_against_particles(wide.model, wide.guide, x)
    significance.require_equal(at_fixed_data(curve.extrapolation.limit), exact)


class TestDoubts:
    def test_weights_without_a_variance(self):
        """A guide half as wide as the posterior in each of two dimensions: no second moment."""
        scale = 0.5 * torch.linalg.inv(MEDIUM.posterior_precision.detach()).diagonal().sqrt()

        def encoder(x):
            return dist.Normal(MEDIUM.posterior(x).mean, scale).to_event(1)

        vae = VAE(MEDIUM.prior, MEDIUM.decoder, encoder)
        curve = bound_against_particles(vae.model, vae.guide, MEDIUM.simulate(50))
        assert curve.heavy_tails > 0.5
        assert "weights without a variance" in curve.notes[0]
        assert curve.notes[0] in str(curve)

    def test_k_too_small_for_the_expansion(self):
        curve = wide_curve(MEDIUM.simulate(200), (1, 2, 3, 4), factor=4, replicates=100)
        assert "lie on no parabola in 1/K" in curve.notes[-1]


class TestWhatItSays:
    def test_prints_and_summarises(self):
        curve = curve_of(LIGHT, LIGHT.simulate(30), COUNTS)
        for row in ("L_1 ", "L_100", "limit", "over K =", "N = 30, 20 replicates"):
            assert row in str(curve)
        summary = json.loads(json.dumps(curve.summary()))
        assert summary["bounds"]["5"]["value"] == curve.bounds[5].value
        assert summary["extrapolation"]["limit"]["value"] == curve.extrapolation.limit.value

    def test_same_seed_same_numbers(self):
        x = LIGHT.simulate(30)
        first, again, other = (
            curve_of(LIGHT, x, (5, 10, 20, 50), seed=s).bounds for s in (1, 1, 2)
        )
        assert first == again != other

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_particles": (1, 2, 3)}, "4 or more different K"),
            ({"num_particles": (0, 1, 2)}, "4 or more different K"),
            ({"replicates": 1}, "2 data and 2 replicates or more, got 5 and 1"),
            ({"replicates": 3}, "too few for the covariance of 9 bounds"),
            ({"num_particles": (1, 2, 3, 4)}, "too few for the weights' tail"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            curve_of(LIGHT, LIGHT.simulate(5), **arguments)
