"""Sequential Monte Carlo and its resampling."""

import pytest
import torch
from programs import LinearChain
from significance import mean_of

from ppl_vae.evidence import AnnealedImportanceSampling, SequentialMonteCarlo
from ppl_vae.evidence.annealing import _smc as smc_module
from ppl_vae.evidence.annealing._chains import GeometricPath, resampled, systematic_ancestors

from .cases import EXACT, MODEL, TEN, VAE, X, density_of, ratio, run

ALL = 10**6


def smc(num_temperatures, num_groups, size, leapfrog_steps=2, threshold=0.5, **settings):
    chains = num_groups * size
    annealing = AnnealedImportanceSampling(
        num_temperatures, chains, leapfrog_steps, rows=ALL, **settings
    )
    return SequentialMonteCarlo(annealing, num_groups, threshold)


class TestResampling:
    def test_as_many_descendants_as_they_should_have_rounded_up_or_down(self):
        log_weight = torch.randn(3, 7, 5, dtype=torch.float64) * 2
        ancestors = systematic_ancestors(log_weight)
        counts = torch.nn.functional.one_hot(ancestors, 7).sum(1).transpose(1, 2)
        expected = 7 * log_weight.softmax(1)
        assert ancestors.shape == log_weight.shape
        assert ((counts - expected).abs() < 1).all()

    def test_on_average_just_so_many(self, significance):
        log_weight = torch.tensor([0.3, -1.0, 1.2, 0.0]).double().reshape(1, 4, 1)
        ancestors = systematic_ancestors(log_weight.expand(20_000, -1, -1))
        counts = torch.nn.functional.one_hot(ancestors.squeeze(-1), 4).sum(1)
        significance = significance.split(4)
        for column, share in zip(counts.T, log_weight.softmax(1).flatten().tolist(), strict=True):
            significance.require_equal(mean_of(column), 4 * share)

    def test_stays_within_data_and_groups(self):
        """All weight on one chain of each group, another one for each datum."""
        path = GeometricPath(density_of(VAE, X[:3], 6), "prior")
        chains = path.draw()
        log_weight = torch.full((6, 3), -torch.inf, dtype=torch.float64)
        heavy = torch.tensor([[0, 1, 2], [5, 4, 3]])  # of both groups, by datum
        for group in range(2):
            log_weight[heavy[group], torch.arange(3)] = 0.0
        where = torch.tensor([[True, True, False], [True, True, True]])
        after = resampled(chains, log_weight, 2, where)
        for old, new in zip(chains, after, strict=True):
            for group, datum in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
                expected = old[heavy[group, datum], datum].expand(3, *old.shape[2:])
                assert torch.equal(new[3 * group : 3 * group + 3, datum], expected)
            assert torch.equal(new[:3, 2], old[:3, 2])


class TestUnbiased:
    @pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_for_p_of_x(self, threshold, start, significance):
        estimator = smc(6, 600, 5, threshold=threshold, start=start)
        significance.require_equal(ratio(run(estimator)), 1.0)

    def test_with_momentum_kept_and_an_adaptive_schedule(self, significance):
        estimator = smc(6, 600, 5, 1, refreshment=0.4, spacing="adaptive")
        significance.require_equal(ratio(run(estimator)), 1.0)

    def test_two_layers(self, significance):
        chain = LinearChain()
        x = chain.simulate(4)
        evidence = smc(10, 300, 5)(chain.model, chain.rough, x)
        significance.require_equal(ratio(evidence, chain.log_evidence(x)), 1.0)

    def test_weights_kept_after_resampling_would_count_twice(self, monkeypatch, significance):
        """The wrong variant: a resampled chain goes on with its ancestor's weight."""

        class Torch:
            """As torch, but what should become 0 stays what it was."""

            def __getattr__(self, name):
                return getattr(torch, name)

            def where(self, condition, a, b):
                return b if isinstance(a, float) else torch.where(condition, a, b)

        monkeypatch.setattr(smc_module, "torch", Torch())
        evidence = run(smc(6, 600, 5))
        with pytest.raises(AssertionError):
            significance.require_equal(ratio(evidence), 1.0)


class TestResult:
    @pytest.mark.usefixtures("short_pilot")
    def test_from_the_posterior_every_group_has_p_of_x(self):
        evidence = run(smc(5, 4, 3, start="guide"), X, MODEL.vae())
        torch.testing.assert_close(evidence.log_prob, EXACT, rtol=0, atol=1e-10)
        torch.testing.assert_close(
            evidence.effective_sample_size, torch.full_like(EXACT, 4), rtol=1e-6, atol=0
        )

    def test_resampling_helps_a_short_schedule(self, significance):
        """Lower bounds, of which the higher is the better one."""
        x = TEN.simulate(500)
        programs = TEN.mean_field_vae()
        without, with_ = (run(smc(15, 1, 40, 1, t), x, programs) for t in (0.0, 0.5))
        significance.require_less(mean_of(without.log_prob - with_.log_prob), 0.0)

    @pytest.mark.usefixtures("short_pilot")
    def test_one_group_has_no_standard_error_and_says_so(self):
        evidence = run(smc(4, 1, 2))
        assert evidence.standard_error.isnan().all()
        assert evidence.caution == "not to be trusted: one group of particles has no standard error"
        assert evidence.log_prob.isfinite().all()

    @pytest.mark.usefixtures("short_pilot")
    def test_says_what_it_did(self):
        evidence = run(smc(3, 4, 2))
        assert evidence.direction == "lower"
        assert evidence.num_particles == 8
        assert evidence.method.startswith("sequential Monte Carlo from the prior: 3 sigmoidal")
        assert evidence.method.endswith("8 chains in 4 groups")

    @pytest.mark.parametrize(
        ("chains", "settings", "message"),
        [
            (8, {"num_groups": 3}, "got 8 chains in 3 groups"),
            (8, {"num_groups": 8}, "got 8 chains in 8 groups"),
            (8, {"num_groups": 0}, "num_groups >= 1"),
            (8, {"num_groups": 2, "threshold": 1.5}, "threshold between 0 and 1"),
        ],
    )
    def test_settings_out_of_range(self, chains, settings, message):
        with pytest.raises(ValueError, match=message):
            SequentialMonteCarlo(AnnealedImportanceSampling(3, chains), **settings)
