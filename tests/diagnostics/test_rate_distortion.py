"""The rate-distortion curve against that of a linear-Gaussian model, which is exact."""

import importlib
import json
import math
from itertools import combinations, pairwise

import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate, mean_of
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae.diagnostics import rate_distortion
from ppl_vae.evidence import AnnealedImportanceSampling, Call
from ppl_vae.linear_gaussian import LinearGaussian

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
X = MODEL.simulate(12)
BETAS = (0.1, 1.0, 10.0, 100.0)


def exact(x, beta, model=MODEL):
    """D, R and log Z of ``q_b ~ Normal(z; 0, I) Normal(x; Wz + b, s^2 I)^b``, each (batch,)."""
    W, s = model.weight.detach(), model.noise_scale
    features, latent = W.shape
    residual = x - model.bias.detach()
    precision = torch.eye(latent, dtype=W.dtype) + beta * W.T @ W / s**2
    covariance = torch.linalg.inv(precision)
    mean = beta * residual @ W @ covariance / s**2
    error = (residual - mean @ W.T).square().sum(-1) + (W @ covariance @ W.T).trace()
    distortion = 0.5 * error / s**2 + 0.5 * features * math.log(2 * math.pi * s**2)
    prior = MultivariateNormal(torch.zeros_like(mean), torch.eye(latent, dtype=W.dtype))
    rate = kl_divergence(MultivariateNormal(mean, covariance), prior)
    # p(x|z)^b is a normal density of variance s^2 / b, but for its constant.
    spread = W @ W.T + torch.eye(features, dtype=W.dtype) * s**2 / beta
    flat = MultivariateNormal(torch.zeros_like(x), spread).log_prob(residual)
    constant = math.log(2 * math.pi * s**2 / beta) - beta * math.log(2 * math.pi * s**2)
    return distortion, rate, flat + 0.5 * features * constant


def curve(x=X, programs=VAE, betas=BETAS, T=8, K=16, L=1, mass="guide", spacing="sigmoidal",
          **options):  # fmt: skip
    call = Call(**{n: options.pop(n) for n in ("seed", "checkpoint") if n in options})
    annealing = AnnealedImportanceSampling(T, K, L, mass=mass, rows=10**6, spacing=spacing)
    return rate_distortion(
        programs.model, programs.guide, x, betas, annealing=annealing, call=call, **options
    )


def at_these_data(mean):
    return Estimate(mean.value, mean.monte_carlo_error)


class TestExact:
    def test_the_closed_form_is_a_curve(self):
        """Of the test itself: R = -b D - log Z, log Z_1 = log p(x), D falls and R rises."""
        curves = [exact(X, beta) for beta in BETAS]
        for beta, (D, R, log_Z) in zip(BETAS, curves, strict=True):
            torch.testing.assert_close(R, -beta * D - log_Z)
        torch.testing.assert_close(exact(X, 1.0)[2], MODEL.log_evidence(X).detach())
        for (D, R, _), (next_D, next_R, _) in pairwise(curves):
            assert (next_D < D).all()
            assert (next_R > R).all()

    @pytest.mark.parametrize("mass", ["guide", "unit"])
    def test_every_point(self, mass, significance):
        found = curve(X[:3], T=80, K=2000, L=2, mass=mass)
        significance = significance.split(3 * len(BETAS))
        for point in found.points:
            quantities = (point.distortion, point.rate, point.log_normalizer)
            for estimate, truth in zip(quantities, exact(X[:3], point.beta), strict=True):
                significance.require_equal(at_these_data(estimate), truth.mean().item())

    def test_it_falls_and_rises(self):
        points = curve(X, T=60, K=200).points
        for low, high in pairwise(points):
            assert high.distortion.value < low.distortion.value
            assert high.rate.value > low.rate.value

    def test_a_mean_of_weights_is_unbiased_at_every_beta(self, significance):
        """E[W] = Z_b, however few the temperatures, beyond b = 1 as well."""
        found = curve(X, betas=(0.3, 1.0, 3.0), T=6, K=4000, L=1)
        significance = significance.split(3)
        for i, beta in enumerate(found.betas):
            estimated, error = (
                getattr(found.log_normalizer, name)[i] for name in ("value", "standard_error")
            )
            ratio = (estimated - exact(X, beta)[2]).exp()
            noise = (ratio * error).square().sum().sqrt().item() / len(ratio)
            significance.require_equal(Estimate(ratio.mean().item(), noise), 1.0)

    def test_the_guides_point_lies_above_by_the_inference_gap(self, significance):
        found = curve(X, T=4, num_particles=4000)
        bound = -(found.guide_distortion.value + found.guide_rate.value)
        noise = found.guide_distortion.monte_carlo_error + found.guide_rate.monte_carlo_error
        truth = MODEL.log_evidence(X).mean() - MODEL.mean_field_gap()
        significance.require_equal(Estimate(bound, noise), truth.item())

    def test_ten_latents_in_single_precision(self, significance):
        double = LinearGaussian.random(20, 10, 1.0, seed=4)
        model = LinearGaussian(double.weight.float(), double.bias.float(), 1.0)
        x = double.simulate(3)
        found = curve(x.float(), model.mean_field_vae(), (1.0, 8.0), T=80, K=500, L=2)
        significance = significance.split(4)
        for point in found.points:
            D, _, log_Z = exact(x, point.beta, double)
            significance.require_equal(at_these_data(point.distortion), D.mean().item())
            significance.require_equal(at_these_data(point.log_normalizer), log_Z.mean().item())

    def test_two_layers(self, significance):
        """Several sites: at b = 1 log Z is log p(x)."""
        chain = LinearChain()
        x = chain.simulate(2)
        found = rate_distortion(
            chain.model, chain.rough, x, (0.5, 1.0),
            annealing=AnnealedImportanceSampling(20, 400, 2, mass="guide"),
        )  # fmt: skip
        truth = chain.log_evidence(x).mean().item()
        significance.require_equal(at_these_data(found.points[1].log_normalizer), truth)


class TestBounds:
    """Chains that have hardly moved: nothing has converged, and the bounds hold."""

    def rough(self, beta, num_chains):
        x = X[:1].expand(600, -1)
        found = curve(x, betas=(beta,), T=2, K=num_chains, L=1)
        return x[:1], *(q.value[0] for q in (found.distortion, found.rate, found.log_normalizer))

    @pytest.mark.parametrize(("beta", "num_chains"), [(1.0, 2), (20.0, 2), (20.0, 8)])
    def test_pairs_lie_above_the_curve(self, beta, num_chains, significance):
        significance = significance.split(2)
        x, D, R, log_Z = self.rough(beta, num_chains)
        significance.require_less(mean_of(log_Z), exact(x, beta)[2].item())
        # The line that touches the curve near the distortion found: all that can be is above it.
        slopes = torch.logspace(-3, 3, 61).tolist()
        truth = {slope: exact(x, slope)[0].item() for slope in slopes}
        touching = min(slopes, key=lambda slope: abs(truth[slope] - D.mean().item()))
        assert min(truth.values()) < D.mean() < max(truth.values())
        significance.require_less(mean_of(-(R + touching * D)), exact(x, touching)[2].item())

    def test_the_distortion_alone_has_not_converged(self, significance):
        """Of the test above: its chains are far from q_b."""
        x, D, _, _ = self.rough(20.0, 2)
        significance.require_less(mean_of(-D), -exact(x, 20.0)[0].item())


class TestErrors:
    def test_they_are_those_of_repetitions(self, significance):
        """Squared deviations from the truth have the mean that the errors say."""
        x = X[:1].expand(300, -1)
        found = curve(x, betas=(0.5, 2.0), T=20, K=100, L=2)
        significance = significance.split(6)
        for i, beta in enumerate(found.betas):
            named = (found.distortion, found.rate, found.log_normalizer)
            for quantity, truth in zip(named, exact(x[:1], beta), strict=True):
                deviation = (quantity.value[i] - truth).square()
                stated = quantity.standard_error[i].square()
                significance.require_equal(mean_of(deviation - stated), 0.0)

    def test_chains_without_weights_are_seen(self, significance, monkeypatch):
        """The wrong variant: a plain mean over chains that have not arrived."""
        monkeypatch.setattr(
            importlib.import_module("ppl_vae.diagnostics._rate_distortion"),
            "normalized_weights",
            lambda log_weight: torch.full_like(log_weight, 1 / len(log_weight)),
        )
        found = curve(X[:3], betas=(1.0, 10.0), T=6, K=2000)
        truth = exact(X[:3], 10.0)[0].mean().item()
        with pytest.raises(AssertionError):
            significance.require_equal(at_these_data(found.points[1].distortion), truth)
        monkeypatch.undo()
        right = curve(X[:3], betas=(1.0, 10.0), T=6, K=2000)
        significance.require_equal(at_these_data(right.points[1].distortion), truth)


class TestResult:
    def test_bernoulli_data_have_no_negative_distortion(self):
        vae, x = binary_vae(), binary_data(5)
        found = rate_distortion(
            vae.model, vae.guide, x, (1.0, 4.0),
            annealing=AnnealedImportanceSampling(4, 16, 1, mass="guide"),
        )  # fmt: skip
        assert (found.distortion.value > 0).all()
        assert found.num_data == 5
        assert found.effective_sample_size.shape == (2, 5)

    def test_it_says_where_chains_are_too_few(self):
        found = curve(X, betas=(0.01, 1000.0), T=4, K=6, L=1)
        (note,) = found.notes
        assert note.startswith("at beta = 1000 more than 5% of the data")
        assert note in str(found)
        assert found.summary()["notes"] == [note]

    def test_table_and_summary(self):
        found = curve()
        lines = str(found).splitlines()
        assert [line.split()[0] for line in lines[1:6]] == ["0.1", "1", "10", "100", "guide"]
        assert "N = 12, 16 chains, 8 temperatures" in lines[-1]
        summary = json.loads(json.dumps(found.summary(), allow_nan=False))
        assert [point["beta"] for point in summary["points"]] == list(BETAS)
        assert summary["points"][1]["rate"]["value"] == found.points[1].rate.value

    def test_the_order_of_betas_does_not_matter(self):
        a, b = curve(betas=(2.0, 0.5, 0.5)), curve(betas=(0.5, 2.0))
        assert a.betas == (0.5, 2.0)
        assert torch.equal(a.rate.value, b.rate.value)

    def test_a_seed_gives_the_same_numbers_and_leaves_the_callers_alone(self):
        state = torch.get_rng_state()
        first, second, other = (curve(seed=seed).rate.value for seed in (4, 4, 5))
        assert torch.equal(first, second)
        assert not torch.isclose(first, other).any()
        assert torch.equal(torch.get_rng_state(), state)

    def test_goes_on_from_a_checkpoint(self, tmp_path):
        path = tmp_path / "curve.safetensors"
        first = curve(checkpoint=path)
        before = path.read_bytes()
        again = curve(checkpoint=path)
        assert path.read_bytes() == before
        assert torch.equal(first.distortion.value, again.distortion.value)
        assert first.guide_rate == again.guide_rate
        with pytest.raises(ValueError, match="is of something else"):
            curve(checkpoint=path, betas=(1.0, 2.0))

    def test_figure(self):
        """Labels of beta stand apart, also where the points lie close."""
        figure = curve(betas=(0.1, 1.0, 1.05, 1.1, 10.0)).plot()
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) >= 3
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"betas": ()}, "betas must be finite and above 0"),
            ({"betas": (0.0, 1.0)}, "betas must be finite and above 0"),
            ({"betas": (1.0, math.inf)}, "betas must be finite and above 0"),
            ({"T": 3}, "a temperature for each of 4 betas"),
            ({"K": 1}, "num_chains >= 2"),
            ({"spacing": "adaptive"}, "a spacing of its own"),
            ({"num_particles": 1}, "num_particles >= 2"),
            ({"L": 0}, "leapfrog_steps >= 1"),
            ({"x": X[:0]}, "no data"),
        ],
    )
    def test_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            curve(**options)
