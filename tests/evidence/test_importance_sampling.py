import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae, weight_moment
from significance import Estimate, mean_of, variance_of

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import count_evaluations, draw_particles
from ppl_vae.weights import effective_sample_size, log_mean_exp

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
VAE_SMALL = binary_vae()


def run(estimator, x, programs=VAE, **kwargs):
    return estimator(programs.model, programs.guide, x, **kwargs)


class TestExact:
    @pytest.mark.parametrize("K", [1, 2, 50])
    def test_at_the_posterior(self, K):
        x = MODEL.simulate(9)
        evidence = run(ImportanceSampling(K), x, MODEL.vae())
        torch.testing.assert_close(evidence.log_prob, MODEL.log_evidence(x), rtol=0, atol=1e-10)
        ess = evidence.effective_sample_size
        torch.testing.assert_close(ess, torch.full_like(ess, K))
        if K > 1:
            # Equal weights up to rounding: an error of the order of its square root.
            assert evidence.standard_error.max() < 1e-6
            assert evidence.warning is None or K < 5

    def test_two_layers_at_the_posterior_in_either_order(self):
        chain = LinearChain()
        x = chain.simulate(5)
        for guide in (chain.top_down, chain.bottom_up):
            evidence = ImportanceSampling(20)(chain.model, guide, x)
            torch.testing.assert_close(evidence.log_prob, chain.log_evidence(x).detach())
            assert evidence.standard_error.max() < 1e-6

    def test_is_the_formula_on_the_draws(self):
        x = MODEL.simulate(9)
        evidence = run(ImportanceSampling(40), x, seed=None)
        torch.manual_seed(20)  # as the suite's fixture did
        log_weight = draw_particles(VAE.model, VAE.guide, x, 40).log_weight.detach()
        torch.testing.assert_close(evidence.log_prob, log_mean_exp(log_weight))
        torch.testing.assert_close(
            evidence.effective_sample_size, effective_sample_size(log_weight)
        )
        relative = torch.softmax(log_weight, 0) * 40
        expected = relative.std(0) / math.sqrt(40)
        torch.testing.assert_close(evidence.standard_error, expected)

    def test_discrete_latents_by_enumeration(self, significance):
        """p(x) = sum_z p(z) p(x|z): a guide without pathwise gradients will do."""
        logits = torch.tensor([[2.0, -1.0, 0.5], [-1.5, 1.0, 0.0]], dtype=torch.float64)
        weight = torch.tensor([0.3, 0.7], dtype=torch.float64)
        x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Categorical(weight))
                pyro.sample("x", dist.Bernoulli(logits=logits[z]).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Categorical(torch.full((2,), 0.5).double()))

        exact = torch.logsumexp(
            weight.log() + dist.Bernoulli(logits=logits).to_event(1).log_prob(x.unsqueeze(1)),
            1,
        )
        evidence = ImportanceSampling(20_000)(model, guide, x)
        for i in range(2):
            estimate = Estimate(evidence.log_prob[i].item(), evidence.standard_error[i].item())
            significance.split(2).require_equal(estimate, exact[i].item())


# Weights with many finite moments, so that estimates of their spread can be trusted.
LIGHT = LinearGaussian.random(4, 2, 1.5, seed=1)
# Heavier ones, whose bias shows.
MEDIUM = LinearGaussian.random(4, 2, 1.0, seed=3)


def studentised_bias(model, K):
    """E of (log p_hat - log p) / SE, to first order in K^-1/2.

    A mean over its own standard error has expectation -skewness / (2 sqrt K); the logarithm adds
    half the relative standard deviation of a weight over sqrt K.
    """
    second, third = weight_moment(model, 2), weight_moment(model, 3)
    deviation = math.sqrt(second - 1)
    skewness = (third - 3 * second + 2) / deviation**3
    return (deviation - skewness) / (2 * math.sqrt(K))


class TestUnbiasedness:
    def test_z_scores_have_mean_zero_and_spread_one(self, significance):
        K, x = 500, LIGHT.simulate(10_000)
        evidence = run(ImportanceSampling(K, rows=10**6, tails=False), x, LIGHT.mean_field_vae())
        z = (evidence.log_prob - LIGHT.log_evidence(x).detach()) / evidence.standard_error
        significance = significance.split(2)
        significance.require_equal(mean_of(z), studentised_bias(LIGHT, K))
        significance.require_equal(variance_of(z), 1.0)
        # The test would notice a standard error without its square root, or 5 % off.
        for factor in (1.05, 0.95):
            with pytest.raises(AssertionError):
                significance.require_equal(variance_of(factor * z), 1.0)

    @pytest.mark.parametrize("K", [1, 3, 10])
    def test_its_exponential_is_unbiased_and_itself_low(self, K, significance):
        x = MEDIUM.simulate(1).expand(100_000, -1)
        log_prob = run(ImportanceSampling(K, rows=10**6), x, MEDIUM.mean_field_vae()).log_prob
        log_ratio = log_prob - MEDIUM.log_evidence(x[:1]).item()
        significance = significance.split(2)
        significance.require_equal(mean_of(log_ratio.exp()), 1.0)
        significance.require_less(mean_of(log_ratio), 0.0)
        # A sum divided by one draw too many is noticed.
        with pytest.raises(AssertionError):
            significance.require_equal(mean_of(log_ratio.exp() * K / (K + 1)), 1.0)

    def test_the_standard_error_is_the_spread_over_repetitions(self, significance):
        x = LIGHT.simulate(1).expand(10_000, -1)
        evidence = run(ImportanceSampling(200, rows=10**6, tails=False), x, LIGHT.mean_field_vae())
        stated = mean_of(evidence.standard_error.square())
        significance.require_equal(variance_of(evidence.log_prob), stated)


class TestChunks:
    @pytest.mark.parametrize("rows", [1, 7, 64, 100, 1_000, 10**9])
    def test_never_more_rows_than_asked_for(self, rows):
        seen = []

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", MODEL.prior())
                seen.append(z.shape[:-1].numel())
                pyro.sample("x", MODEL.decoder(z), obs=x)

        x = MODEL.simulate(13)
        with count_evaluations() as count:
            evidence = ImportanceSampling(30, rows=rows)(model, VAE.guide, x)
        assert max(seen) <= rows
        assert count.rows == 13 * 30
        assert len(evidence) == 13

    def test_default_rows_bound_the_memory_for_any_size(self):
        seen = []

        def decoder(z):
            seen.append(z.shape[:-1].numel())
            return MODEL.decoder(z)

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", decoder(pyro.sample("z", MODEL.prior())), obs=x)

        for count, K in ((3, 20_000), (2_500, 3), (200, 600)):
            seen.clear()
            with count_evaluations() as made:
                ImportanceSampling(K)(model, VAE.guide, MODEL.simulate(count))
            assert max(seen) <= 6_000
            assert made.rows == count * K
            assert len(seen) < 2.1 * count * K / 6_000 + 6, "chunks far smaller than allowed"

    def test_chunks_change_the_draws_but_not_their_distribution(self, significance):
        x, vae = LIGHT.simulate(1).expand(4_000, -1), LIGHT.mean_field_vae()
        whole = run(ImportanceSampling(60, rows=10**7), x, vae, seed=1)
        parts = run(ImportanceSampling(60, rows=7 * 60), x, vae, seed=2)
        bits = run(ImportanceSampling(60, rows=25), x[:300], vae, seed=3)
        significance = significance.split(6)
        for other in (parts, bits):
            for of, field in (
                (mean_of, "log_prob"),
                (variance_of, "log_prob"),
                (mean_of, "standard_error"),
            ):
                significance.require_equal(of(getattr(whole, field)), of(getattr(other, field)))

    def test_the_order_of_the_data_is_kept(self):
        x = MODEL.simulate(50)
        evidence = run(ImportanceSampling(10, rows=40), x, MODEL.vae())
        torch.testing.assert_close(evidence.log_prob, MODEL.log_evidence(x).detach())

    def test_single_precision_data_give_double_precision_evidence(self):
        evidence = run(ImportanceSampling(10), binary_data(), binary_vae())
        assert evidence.log_prob.dtype == torch.float64
        assert not evidence.log_prob.requires_grad


class TestSeeds:
    X = binary_data()

    def test_a_seed_gives_the_same_numbers(self):
        first, again, other = (
            run(ImportanceSampling(20), self.X, VAE_SMALL, seed=s).log_prob for s in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_callers_random_state_is_left_alone(self):
        state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        run(ImportanceSampling(20), self.X, VAE_SMALL)
        assert torch.equal(state[0], torch.get_rng_state())
        assert state[1] == np.random.get_state()[1].tolist()  # noqa: NPY002

    def test_no_seed_draws_from_the_callers_state(self):
        values = []
        for _ in range(2):
            torch.manual_seed(6)
            values.append(run(ImportanceSampling(20), self.X, VAE_SMALL, seed=None).log_prob)
        assert torch.equal(*values)
        other = run(ImportanceSampling(20), self.X, VAE_SMALL, seed=None).log_prob
        assert not torch.equal(values[0], other)


class TestEdges:
    def test_one_particle_has_no_standard_error_and_says_so(self):
        evidence = run(ImportanceSampling(1), MODEL.simulate(5))
        assert evidence.standard_error.isnan().all()
        assert math.isnan(evidence.monte_carlo_error)
        assert "one particle has no standard error" in evidence.warning
        assert "not to be trusted" in str(evidence)
        assert evidence.log_prob.isfinite().all()

    @pytest.mark.parametrize("K", [0, -3])
    def test_no_particles(self, K):
        with pytest.raises(ValueError, match=rf"needs num_particles >= 1 .* got {K}"):
            ImportanceSampling(K)

    def test_no_rows(self):
        with pytest.raises(ValueError, match=r"needs rows >= 1 .* got 0"):
            ImportanceSampling(rows=0)

    def test_no_data(self):
        with pytest.raises(ValueError, match="x holds no data"):
            run(ImportanceSampling(5), torch.zeros(0, 4).double())

    def test_one_datum(self):
        evidence = run(ImportanceSampling(50), MODEL.simulate(1))
        assert len(evidence) == 1
        assert math.isnan(evidence.total_error)
        assert evidence.monte_carlo_error == evidence.standard_error.item()

    def test_a_poor_guide_is_pointed_out(self):
        def far(x):
            with pyro.plate("data", len(x)):
                far = torch.full((2,), 6.0, dtype=torch.float64)
                pyro.sample("z", dist.Normal(far, 1.0).to_event(1))

        evidence = ImportanceSampling(100)(VAE.model, far, MODEL.simulate(5))
        assert "5 of 5 data have weights whose tail leaves open" in evidence.warning
        assert "not to be trusted" in str(evidence)

    def test_a_nan_names_the_site(self):
        def model(x):
            with pyro.plate("data", len(x)):
                prior = dist.Normal(x.new_full((2,), math.nan), 1.0, validate_args=False)
                z = pyro.sample("z", prior.to_event(1))
                mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], x.shape[-1])
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        with pytest.raises(ValueError, match="log-density nan at site 'z'"):
            ImportanceSampling(5)(model, VAE.guide, MODEL.simulate(5))

    def test_a_nan_in_x_names_what_does_not_take_it(self):
        x = MODEL.simulate(5)
        x[2, 1] = math.nan
        with pytest.raises(ValueError, match="x has NaN in 1 row, the first in row 2, and the gui"):
            run(ImportanceSampling(5), x)

    def test_what_the_result_says_of_itself(self):
        evidence = run(ImportanceSampling(50), MODEL.simulate(5))
        assert (evidence.num_particles, evidence.direction) == (50, "lower")
        assert evidence.method == "importance sampling"
        assert evidence.seconds > 0
        for field in ("log_prob", "standard_error", "effective_sample_size"):
            value = getattr(evidence, field)
            assert value.shape == (5,)
            assert value.device.type == "cpu"

    def test_no_gradient_is_kept(self):
        vae = binary_vae()
        run(ImportanceSampling(5), binary_data(), vae)
        assert all(p.grad is None for p in vae.parameters())
        assert torch.is_grad_enabled()
