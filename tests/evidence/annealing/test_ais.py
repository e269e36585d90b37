"""Annealed importance sampling against exact evidence."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import mean_of

from ppl_vae import vae
from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling, Streams
from ppl_vae.evidence.annealing._chains import GeometricPath, HamiltonianTransition
from ppl_vae.evidence.annealing._pilot import Annealer
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import ChunkSize, Programs, evaluation

from .cases import EXACT, MODEL, TEN, VAE, Positive, X, density_of, ratio, run

AIS = AnnealedImportanceSampling
ALL = 10**6
POSITIVE = Positive()


@pytest.mark.usefixtures("short_pilot")
class TestExact:
    @pytest.mark.parametrize("schedule", ["linear", "sigmoidal", "adaptive"])
    def test_every_weight_is_p_of_x_from_the_posterior(self, schedule):
        evidence = run(AIS(5, 5, 1, "guide", schedule), X, MODEL.vae())
        torch.testing.assert_close(evidence.log_prob, EXACT, rtol=0, atol=1e-10)
        assert evidence.standard_error.max() < 1e-6

    def test_two_layers_from_the_posterior_in_either_order(self):
        chain = LinearChain()
        x = chain.simulate(5)
        for guide in (chain.top_down, chain.bottom_up):
            evidence = AIS(5, 4, 1, "guide")(chain.model, guide, x)
            torch.testing.assert_close(evidence.log_prob, chain.log_evidence(x).detach())


class TestUnbiased:
    """E[W] = p(x), however short the schedule and bad the transitions."""

    @pytest.mark.parametrize("start", ["prior", "guide"])
    @pytest.mark.parametrize("schedule", ["linear", "sigmoidal", "adaptive"])
    def test_a_short_schedule(self, start, schedule, significance):
        evidence = run(AIS(5, 4000, 2, start, schedule, rows=ALL))
        significance.require_equal(ratio(evidence), 1.0)

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_one_temperature_is_importance_sampling(self, start, significance):
        evidence = run(AIS(1, 4000, 1, start, rows=ALL))
        significance.require_equal(ratio(evidence), 1.0)

    @pytest.mark.parametrize(
        "settings",
        [{"refreshment": 0.3}, {"mass": "guide"}, {"target_acceptance": 0.2}],
        ids=["refreshment", "mass", "acceptance"],
    )
    def test_under_other_transitions(self, settings, significance):
        evidence = run(AIS(8, 3000, 2, rows=ALL, **settings))
        significance.require_equal(ratio(evidence), 1.0)

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_ten_latents(self, start, significance):
        x = TEN.simulate(3)
        evidence = run(AIS(150, 600, 2, start, rows=ALL), x, TEN.mean_field_vae())
        significance.require_equal(ratio(evidence, TEN.log_evidence(x)), 1.0)

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_two_layers(self, start, significance):
        chain = LinearChain()
        x = chain.simulate(4)
        evidence = AIS(20, 1500, 2, start, rows=ALL)(chain.model, chain.rough, x)
        significance.require_equal(ratio(evidence, chain.log_evidence(x)), 1.0)

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_constrained_latents(self, start, significance):
        """A rate, a point of a simplex and two of an interval; p(x) in closed form."""
        evidence = run(AIS(15, 2000, 3, start, rows=ALL), POSITIVE.x, POSITIVE)
        significance.require_equal(ratio(evidence, POSITIVE.log_evidence), 1.0)

    def test_single_precision(self, significance):
        model = LinearGaussian(MODEL.weight.float(), MODEL.bias.float(), MODEL.noise_scale)
        evidence = run(AIS(10, 2000, 2, rows=ALL), X.float(), model.mean_field_vae())
        significance.require_equal(ratio(evidence), 1.0)

    def test_the_standard_error_is_that_of_repetitions(self, significance):
        """Squared deviations from p(x) have the mean that their errors say."""
        x = X[:1].expand(1000, -1)
        evidence = run(AIS(4, 50, 1, "guide", rows=ALL), x)
        relative = (evidence.log_prob - EXACT[0]).exp() - 1
        stated = (relative + 1) * evidence.standard_error
        significance.require_equal(mean_of(relative.square() - stated.square()), 0.0)


class Adapting:
    """The wrong variant: the step size of a chain reacts to what became of that very chain."""

    def __init__(self):
        self.inner, self.own = HamiltonianTransition(3), 1.0

    def __call__(self, path, chains, level, step, scale):
        moved, acceptance = self.inner(path, chains, level, step * self.own, scale)
        accepted = (moved.position != chains.position).any(-1)[0]
        self.own = self.own * torch.where(accepted, 2.5, 0.4)
        return moved, acceptance


class TestFrozen:
    def mean_weight(self, transition):
        """One chain for each of many copies of a datum, so that a chain has its own step size."""
        x = MODEL.simulate(1, seed=3)
        with evaluation(Programs(VAE.model, VAE.guide), x, ChunkSize.of_data(1)) as look:
            annealer = AIS(40, 1, 3).prepare(look, x, Streams(0, 0, 0))
        steps = annealer.tuning.steps.expand(-1, 20_000)
        path = GeometricPath(density_of(VAE, x.expand(20_000, -1), 1), "prior")
        with torch.no_grad():
            tuning = replace(annealer.tuning, steps=steps)
            log_weight, _ = Annealer(path, transition, tuning).forward()
        return mean_of((log_weight - MODEL.log_evidence(x).detach()).exp())

    def test_step_sizes_from_the_pilot_run_keep_the_mean(self, significance):
        significance.require_equal(self.mean_weight(HamiltonianTransition(3)), 1.0)

    def test_step_sizes_adapted_in_the_weighted_run_do_not(self, significance):
        with pytest.raises(AssertionError):
            significance.require_equal(self.mean_weight(Adapting()), 1.0)


class TestAccuracy:
    def test_from_the_prior_where_importance_sampling_fails(self, significance):
        """A guide ten times too narrow."""

        def narrow(x):
            with pyro.plate("data", len(x)):
                q = MODEL.mean_field_posterior(x).base_dist
                pyro.sample("z", dist.Normal(q.loc, q.scale / 10).to_event(1))

        x = MODEL.simulate(40)
        exact = MODEL.log_evidence(x).detach()
        sampled = ImportanceSampling(2000)(MODEL.vae().model, narrow, x)
        annealed = AIS(100, 64, 3, rows=ALL)(MODEL.vae().model, narrow, x)
        significance = significance.split(2)
        significance.require_less(mean_of(sampled.log_prob - exact), -0.5)
        significance.require_equal(ratio(annealed, exact), 1.0)

    def test_is_a_lower_bound_that_more_temperatures_raise(self, significance):
        x = TEN.simulate(500)
        exact = TEN.log_evidence(x).detach()
        programs = TEN.mean_field_vae()
        short, long = (run(AIS(T, 4, 1, rows=ALL), x, programs).log_prob for T in (3, 20))
        significance = significance.split(2)
        significance.require_less(mean_of(short - long), 0.0)
        significance.require_less(mean_of(long - exact), 0.0)

    def test_a_network(self, significance):
        """Bernoulli pixels: as importance sampling with many particles."""
        programs, x = binary_vae(), binary_data(20)
        many = run(ImportanceSampling(100_000), x, programs)
        annealed = run(AIS(30, 300, 3, rows=ALL), x, programs)
        significance.require_equal(ratio(annealed, many.log_prob), ratio(many, many.log_prob))


@pytest.mark.usefixtures("short_pilot")
class TestRepeatability:
    short = AIS(4, 3, 1, rows=32)  # 4 data at once: a pilot of 8 chains

    def test_a_seed_gives_the_same_numbers_and_leaves_the_callers_alone(self):
        state = torch.get_rng_state()
        first, second, other = (run(self.short, X[:4], seed=seed).log_prob for seed in (4, 4, 5))
        assert torch.equal(first, second)
        assert not torch.isclose(first, other).any()
        assert torch.equal(torch.get_rng_state(), state)

    def test_without_a_seed_the_callers_random_state_decides(self):
        results = []
        for _ in range(2):
            torch.manual_seed(8)
            results.append(run(self.short, X[:4], seed=None).log_prob)
        assert torch.equal(*results)
        assert not torch.isclose(results[0], run(self.short, X[:4], seed=None).log_prob).any()

    def test_a_chunk_does_not_depend_on_the_others(self):
        whole = run(self.short, X)
        changed = torch.cat([X[:4], X[4:] + 3])
        torch.testing.assert_close(
            run(self.short, changed).log_prob[:4], whole.log_prob[:4], rtol=0, atol=0
        )
        torch.testing.assert_close(
            run(self.short, X[:4]).log_prob, whole.log_prob[:4], rtol=0, atol=0
        )

    def test_data_in_one_chunk_do_not_touch(self):
        """The same random numbers, other neighbours: pilot, schedule and weights are each one's."""
        estimator = AIS(4, 3, 2, spacing="adaptive", mass="guide", rows=ALL)
        changed = torch.cat([X[:1], X[1:] + 3])
        torch.testing.assert_close(run(estimator, changed).log_prob[0], run(estimator).log_prob[0])


@pytest.mark.usefixtures("short_pilot")
class TestResult:
    def test_says_what_it_did(self):
        evidence = run(AIS(4, 3, 2, "guide", "linear", gap=0.25))
        assert evidence.direction == "lower"
        assert evidence.method == (
            "annealed importance sampling from the guide: 4 linear temperatures, 2 leapfrog steps, "
            "3 chains"
        )
        # It says how many chains there are: no K beside that.
        assert evidence.procedure == evidence.method
        assert evidence.gap == 0.25
        assert evidence.pareto_k is None
        assert "use more temperatures or chains" in evidence.warning
        assert evidence.seconds > 0

    @pytest.mark.parametrize("schedule", ["linear", "adaptive"])
    def test_counts_decoder_gradient_evaluations(self, schedule):
        rows = 0

        def decoder(z):
            nonlocal rows
            rows += z[..., 0].numel() if torch.is_grad_enabled() else 0
            return MODEL.decoder(z)

        programs = vae.VAE(MODEL.prior, decoder, MODEL.mean_field_posterior)
        evidence = run(AIS(4, 3, 2, spacing=schedule), X, programs)
        assert evidence.evaluations_per_datum == rows / len(X)

    @pytest.mark.parametrize(
        ("checked", "message"),
        [
            (True, r"^Expected parameter loc .* Real\(\), but found invalid values$"),
            (False, "an annealed log-weight of datum 0 of its chunk is not finite"),
        ],
    )
    def test_a_weight_that_is_no_number_is_reported(self, checked, message):
        """The guide's draws are fine; draws of the prior are not."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                mean = z.sum(-1, True).sqrt().expand(*z.shape[:-1], 4)
                likelihood = dist.Normal(mean, 1.0, validate_args=checked)
                pyro.sample("x", likelihood.to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_full((2,), 3.0), 0.01).to_event(1))

        with pytest.raises(ValueError, match=message):
            AIS(2, 50, 1)(model, guide, X)

    def test_no_data(self):
        with pytest.raises(ValueError, match="x holds no data"):
            run(AIS(2, 2, 1), X[:0])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_temperatures": 0}, "num_temperatures >= 1"),
            ({"num_chains": 0}, "num_chains >= 1"),
            ({"leapfrog_steps": 0}, "leapfrog_steps >= 1"),
            ({"rows": 0}, "rows >= 1"),
            ({"start": "middle"}, "start one of prior, guide, got 'middle'"),
            ({"spacing": "cosine"}, "spacing one of linear, sigmoidal, adaptive"),
            ({"mass": "dense"}, "mass one of unit, guide"),
            ({"target_acceptance": 1.0}, "target_acceptance between 0 and 1"),
            ({"refreshment": 0.0}, "refreshment in"),
            ({"gap": float("nan")}, "finite gap"),
        ],
    )
    @pytest.mark.usefixtures("unchecked_types")
    def test_settings_out_of_range(self, settings, message):
        with pytest.raises(ValueError, match=message):
            AIS(**settings)
