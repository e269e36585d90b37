"""The inference gap's parts on models whose best guides are known."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate as Measured

from ppl_vae.diagnostics import GapSettings, generalization_gap, inference_gap
from ppl_vae.diagnostics._richer_posteriors import refine_full_covariance
from ppl_vae.evidence import Evidence, ImportanceSampling, Quadrature
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import Programs, draw_particles
from ppl_vae.refinement import Refinement, refine

MODEL = LinearGaussian.random(6, 3, 0.8, seed=2)
X = MODEL.simulate(40)
SHORT = Refinement(steps=30, learning_rate=0.05, num_particles=16)


def known(x, log_prob, error=0.0):
    ones = torch.ones(len(x), dtype=torch.float64)
    return Evidence(log_prob.detach(), error * ones, ones, 1, "exact", "closed form", 0.0)


def evidence_of(x, model=MODEL):
    return known(x, model.log_evidence(x))


def shifted(shift, factor=1.0, model=MODEL):
    """The best diagonal guide, moved and stretched: by how much is what amortisation loses."""

    def guide(x):
        best = model.mean_field_posterior(x).base_dist
        with pyro.plate("data", len(x)):
            q = dist.Normal(best.loc + shift * best.scale, factor * best.scale)
            pyro.sample("z", q.to_event(1))

    return guide


def amortisation_of(shift, factor):
    """KL of the moved guide to the best one, of 3 dimensions: the posterior's mean is the same."""
    return 3 * 0.5 * (shift**2 + factor**2 - 1 - 2 * math.log(factor))


def at_fixed_data(estimate):
    return Measured(estimate.value, estimate.monte_carlo_error)


class TestLinearGaussian:
    def test_every_part_is_its_closed_form(self, significance):
        """KL(q, p) of a diagonal q with precision D = diag(M): the shift's part is exact too."""
        shift, factor = 0.5, 1.4
        gap = inference_gap(MODEL.vae().model, shifted(shift, factor), X, evidence_of(X))
        # z' M z = z' D z in the mean for the variance; for the shift, not: M is not diagonal.
        scale = MODEL.posterior_precision.detach().diagonal().rsqrt()
        moved = shift * scale
        quadratic = moved @ MODEL.posterior_precision.detach() @ moved
        amortisation = amortisation_of(0, factor) + 0.5 * quadratic.item()
        exact = MODEL.mean_field_gap().item()
        significance = significance.split(2)
        significance.require_equal(at_fixed_data(gap.inference), exact + amortisation)
        # Refinement comes to rest near q*, not at it: by less than a hundredth of what it gains.
        assert gap.approximation.value > exact - 5 * gap.approximation.monte_carlo_error
        assert gap.approximation.value - exact < 0.01 * amortisation
        assert gap.inference.value == pytest.approx(
            gap.approximation.value + gap.amortization.value, abs=1e-12
        )

    def test_at_the_best_diagonal_guide_all_of_it_is_approximation(self, significance):
        guide = shifted(0.0)
        gap = inference_gap(MODEL.vae().model, guide, X, evidence_of(X))
        exact = MODEL.mean_field_gap().item()
        significance.require_equal(at_fixed_data(gap.inference), exact)
        # Nothing to gain; Adam's noise loses a hundredth of the gap at most.
        assert -0.01 * exact < gap.amortization.value < 5 * gap.amortization.monte_carlo_error

    def test_the_refined_bound_is_that_of_the_refined_guide(self, significance):
        """What the estimate says of q* is what the closed form says of the q* that was found."""
        rough = Refinement(steps=3, learning_rate=0.2, num_particles=1)
        model, guide = MODEL.vae().model, shifted(1.0, 2.0)
        half = rough(Programs(model, guide), X)
        q = pyro.poutine.trace(half).get_trace(X).nodes["z"]["fn"]
        normal = dist.MultivariateNormal(q.mean, q.variance.diag_embed())
        kl = torch.distributions.kl_divergence(normal, MODEL.posterior(X)).detach()
        zero = Refinement(steps=0)
        gap = inference_gap(model, half, X, evidence_of(X), GapSettings(zero, num_particles=4000))
        significance.require_equal(at_fixed_data(gap.approximation), kl.mean().item())
        assert gap.amortization.value == 0
        assert gap.still_gained.value == 0

    def test_a_full_covariance_closes_the_gap(self):
        gap = inference_gap(
            MODEL.vae().model, shifted(0.3), X, evidence_of(X), GapSettings(full_covariance=True)
        )
        left = gap.approximation.value - gap.correlation.value
        exact = MODEL.mean_field_gap().item()
        # The family holds the posterior, where the gradient has no noise: it is found.
        assert 0 <= left < 1e-3 * exact
        assert gap.correlation.value == pytest.approx(exact, rel=0.05)

    def test_a_larger_family_is_not_worse_where_it_has_nothing_to_gain(self):
        weight = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))[0]
        apart = LinearGaussian(weight, torch.zeros(6, dtype=torch.float64), 0.8)
        gap = inference_gap(
            apart.vae().model,
            shifted(0.3, model=apart),
            X,
            evidence_of(X, apart),
            GapSettings(SHORT, full_covariance=True, num_particles=200),
        )
        assert gap.correlation.value > -3 * gap.correlation.monte_carlo_error
        assert "never less than q*" in gap.notes[-1]

    def test_unfinished_refinement_is_noticed(self):
        short = Refinement(steps=4, learning_rate=0.02)
        gap = inference_gap(
            MODEL.vae().model,
            shifted(2.0),
            X,
            evidence_of(X),
            GapSettings(short, num_particles=100),
        )
        (note,) = gap.notes
        assert "still gained" in note
        assert note in str(gap)

    # Annotations are checked in the other tests; in a hundred calls they take a third of the time.
    @pytest.mark.usefixtures("unchecked_types")
    def test_the_parts_are_unbiased_over_seeds(self, significance):
        """The Monte Carlo error is the spread over seeds; the refinement is held fixed."""
        zero, x = Refinement(steps=0), X[:5]
        values, claimed = [], []
        for seed in range(100):
            gap = inference_gap(
                MODEL.vae().model, shifted(0.5), x, evidence_of(x),
                GapSettings(zero, num_particles=20), seed=seed,
            )  # fmt: skip
            values.append(gap.inference.value)
            claimed.append(gap.inference.monte_carlo_error**2)
        values, claimed = torch.tensor(values), torch.tensor(claimed)
        squares = (values - values.mean()).square() * 100 / 99 - claimed
        significance.require_equal(Measured(squares.mean().item(), squares.std().item() / 10), 0.0)


class TestOtherModels:
    def test_bernoulli_decoder_with_quadrature(self, significance):
        vae, x = binary_vae().double(), binary_data(20).double()
        with torch.no_grad():  # a decoder that says something, so that posteriors are no normals
            for parameter in vae.decoder.parameters():
                parameter *= 5
        evidence = Quadrature()(vae.model, vae.guide, x)
        gap = inference_gap(vae.model, vae.guide, x, evidence, GapSettings(full_covariance=True))
        parts = (gap.approximation, gap.amortization, gap.inference)
        for part in parts:
            significance.split(3).require_less(Measured(0.0, 0.0), at_fixed_data(part))
        # No normal is this posterior, but a correlated one comes closer.
        assert 0 < gap.correlation.value < gap.approximation.value

    def test_two_sites(self, significance):
        chain = LinearChain()
        x = chain.simulate(10)
        gap = inference_gap(
            chain.model, chain.rough, x, known(x, chain.log_evidence(x)), GapSettings(SHORT)
        )
        for part in (gap.amortization, gap.approximation):
            significance.split(2).require_less(Measured(0.0, 0.0), at_fixed_data(part))

    def test_the_evidences_error_is_in_the_gaps(self):
        noisy = known(X, MODEL.log_evidence(X), error=0.5)
        zero = Refinement(steps=0)
        gap = inference_gap(MODEL.vae().model, shifted(0.0), X, noisy, GapSettings(zero))
        assert gap.inference.monte_carlo_error > 0.5 / len(X) ** 0.5
        # Of the same normal, whose density is computed in two ways.
        assert gap.amortization.monte_carlo_error < 1e-15


class TestGeneralisation:
    def test_errors_add_in_squares_and_equal_data_have_none(self):
        train = inference_gap(
            MODEL.vae().model, shifted(0.5), X, evidence_of(X), GapSettings(SHORT)
        )
        other = MODEL.simulate(30, seed=9)
        test = inference_gap(
            MODEL.vae().model, shifted(1.5), other, evidence_of(other), GapSettings(SHORT)
        )
        gap = generalization_gap(train, test)
        expected = test.amortization.value - train.amortization.value
        assert gap.difference.value == pytest.approx(expected)
        assert gap.difference.total_error == pytest.approx(
            math.hypot(train.amortization.total_error, test.amortization.total_error)
        )
        assert gap.difference.value > 10 * gap.difference.total_error
        assert generalization_gap(train, train).difference.value == 0
        assert "test - train" in str(gap)
        assert json.loads(json.dumps(gap.summary()))["difference"]["value"] == pytest.approx(
            expected
        )


class TestWhatItSays:
    @pytest.fixture
    def gap(self):
        vae = MODEL.mean_field_vae()
        estimated = ImportanceSampling(50)(vae.model, vae.guide, X)
        return inference_gap(vae.model, vae.guide, X, estimated, GapSettings(SHORT))

    def test_prints(self, gap):
        text = str(gap)
        for row in ("log p(x)", "approximation", "amortisation", "N = 40, K = 1000"):
            assert row in text
        assert "independence" not in text
        assert "log p(x) is estimated (lower)" in text

    def test_summary_is_json(self, gap):
        summary = json.loads(json.dumps(gap.summary()))
        assert summary["approximation"]["value"] == gap.approximation.value
        assert summary["correlation"] is None
        assert len(summary["per_datum"]["inference"]) == len(X)
        mean = gap.per_datum["amortization"].mean().item()
        assert mean == pytest.approx(gap.amortization.value)

    def test_same_seed_same_numbers_and_the_random_state_stays(self):
        vae, state = MODEL.mean_field_vae(), torch.get_rng_state()
        gaps = [
            inference_gap(
                vae.model, vae.guide, X[:3], evidence_of(X[:3]), GapSettings(SHORT), seed=seed
            ).approximation.value
            for seed in (1, 1, 2)
        ]
        assert gaps[0] == gaps[1] != gaps[2]
        assert torch.equal(state, torch.get_rng_state())

    def test_refusals(self):
        vae = MODEL.mean_field_vae()
        with pytest.raises(ValueError, match="log_evidence is of 40 data, but x holds 39"):
            inference_gap(vae.model, vae.guide, X[1:], evidence_of(X))
        with pytest.raises(ValueError, match="num_particles >= 2"):
            inference_gap(vae.model, vae.guide, X, evidence_of(X), GapSettings(num_particles=1))
        exact = MODEL.vae()
        with pytest.raises(ValueError, match="a full covariance needs a guide of one site"):
            inference_gap(
                exact.model, exact.guide, X, evidence_of(X), GapSettings(full_covariance=True)
            )


def test_full_covariance_is_the_posterior():
    torch.manual_seed(1)
    long = Refinement(steps=300, learning_rate=0.05, num_particles=8)
    refined = refine_full_covariance(Programs(MODEL.vae().model, shifted(0.5)), X[:4], long)
    weights = draw_particles(MODEL.vae().model, refined, X[:4], 100).log_weight
    expected = MODEL.log_evidence(X[:4]).detach().expand_as(weights)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-3)
    # The diagonal family cannot.
    diagonal = refine(MODEL.vae().model, shifted(0.5), X[:4], steps=300, learning_rate=0.05)
    assert draw_particles(MODEL.vae().model, diagonal, X[:4], 100).log_weight.std() > 0.1
