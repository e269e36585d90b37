"""Importance sampling from a guide refined for each datum."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import mean_of

from ppl_vae.cli import main
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import KLObjective
from ppl_vae.particles import draw_particles
from ppl_vae.randomness import seeded
from ppl_vae.refinement import Refinement, refine
from ppl_vae.runs import RunConfig, train_run
from ppl_vae.weights import log_mean_exp

MODEL = LinearGaussian.random(4, 2, 1.0, seed=3)
VAE = MODEL.vae()
SHORT = Refinement(steps=5, learning_rate=0.3, num_particles=2)


def weak_guide(x):
    """One normal for every datum, wide enough for importance weights to have a variance."""
    with pyro.plate("data", len(x)):
        loc = torch.zeros(2, dtype=torch.float64)
        pyro.sample("z", dist.Normal(loc, 1.5).to_event(1))


class TestUnbiasedness:
    """Given the refined guide, which its own draws made, weights have mean p(x)."""

    def estimates(self, estimator, x, seed=0):
        evidence = estimator(VAE.model, weak_guide, x, seed=seed)
        return (evidence.log_prob - MODEL.log_evidence(x).detach()).exp()

    @pytest.mark.parametrize("K", [1, 4])
    def test_for_p_of_x(self, K, significance):
        """Many copies of one datum: each is refined, and estimated, with draws of its own."""
        x = MODEL.simulate(1, seed=2).expand(40_000, -1)
        ratio = self.estimates(ImportanceSampling(K, refine=SHORT, rows=10**6), x)
        significance.require_equal(mean_of(ratio), 1.0)

    def test_on_the_draws_of_the_refinement_it_would_not_be(self, significance):
        """A refined guide looks too good through the very draws it was chosen by."""

        class OneNoise(KLObjective):
            def draw(self, model, guide, x, **checks):
                with seeded(7):
                    return super().draw(model, guide, x, **checks)

            def elbo_terms(self, particles):
                return particles.log_weight

        x = MODEL.simulate(1, seed=2).expand(20_000, -1)
        objective = OneNoise(2)
        refined = refine(VAE.model, weak_guide, x, objective, steps=5, learning_rate=0.3)
        exact = MODEL.log_evidence(x[:1]).detach()
        reused = log_mean_exp(objective.draw(VAE.model, refined, x).log_weight) - exact
        fresh = log_mean_exp(draw_particles(VAE.model, refined, x, 2).log_weight) - exact
        significance = significance.split(2)
        significance.require_equal(mean_of(fresh.exp()), 1.0)
        with pytest.raises(AssertionError):
            significance.require_equal(mean_of(reused.exp()), 1.0)


class TestGain:
    def test_more_effective_samples_from_a_weak_guide(self, significance):
        x = MODEL.simulate(300)
        plain, refined = (
            ImportanceSampling(400, refine=refine, tails=False)(VAE.model, weak_guide, x)
            for refine in (None, Refinement(20))
        )
        gain = refined.effective_sample_size - plain.effective_sample_size
        significance.require_less(mean_of(-gain), 0.0)

    def test_a_network(self, significance):
        vae, x = binary_vae(), binary_data(500)
        # A guide with its noise put in: far from any posterior.
        with torch.no_grad():
            for parameter in vae.encoder.parameters():
                parameter.add_(torch.randn_like(parameter))
        plain, refined = (
            ImportanceSampling(400, refine=refine, tails=False)(vae.model, vae.guide, x)
            for refine in (None, Refinement())
        )
        gain = refined.effective_sample_size - plain.effective_sample_size
        significance.require_less(mean_of(-gain), 0.0)

    def test_several_sites(self, significance):
        chain = LinearChain()
        x = chain.simulate(100)

        def far(x):
            with pyro.plate("data", len(x)):
                for name, size in (("u", 2), ("v", 3)):
                    loc = torch.zeros(size, dtype=torch.float64)
                    pyro.sample(name, dist.Normal(loc, 1.5).to_event(1))

        plain, refined = (
            ImportanceSampling(400, refine=refinement)(chain.model, far, x)
            for refinement in (None, Refinement())
        )
        gain = refined.effective_sample_size - plain.effective_sample_size
        significance.require_less(mean_of(-gain), 0.0)


class TestChunks:
    @pytest.mark.parametrize("rows", [60, 10**6])
    def test_every_datum_meets_its_own_offset(self, rows):
        """Orthogonal loadings: refined to the posterior, every weight is the datum's own p(x)."""
        model = LinearGaussian(torch.eye(3, 2, dtype=torch.float64), noise_scale=0.7)
        x = model.simulate(5)
        refinement = Refinement(600, 0.1, num_particles=2)
        estimator = ImportanceSampling(20, refine=refinement, rows=rows)
        evidence = estimator(model.vae().model, weak_guide, x)
        torch.testing.assert_close(evidence.log_prob, model.log_evidence(x).detach())

    def test_draws_at_once_are_as_few_as_asked(self):
        seen = []

        def decoding(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", MODEL.prior())
                seen.append(z.shape[:-1].numel())
                pyro.sample("x", MODEL.decoder(z), obs=x)

        x = MODEL.simulate(100)
        estimator = ImportanceSampling(60, refine=Refinement(3, num_particles=2), rows=240)
        estimator(decoding, weak_guide, x)
        assert max(seen) <= 240
        # 4 data of 60 draws at once, and 28 of 2 draws in each of 3 steps.
        runs = 25 + 3 * math.ceil(100 / 28)
        looks, work = seen[:-runs], seen[-runs:]
        assert sum(work) == 100 * 60 + 3 * 100 * 2
        # Before it estimates, an estimator looks at what the programs are made of, on a few data.
        assert len(looks) <= 5
        assert max(looks) <= 8


class TestWhatItSays:
    def test_the_method_and_the_key(self):
        estimator = ImportanceSampling(10, refine=SHORT)
        evidence = estimator(VAE.model, weak_guide, MODEL.simulate(2))
        assert evidence.method == "importance sampling (guide refined by 5 steps)"
        assert "refined by 5 steps" in str(evidence)
        assert evidence.direction == "lower"
        assert evidence.seconds > 0
        assert repr(SHORT) in repr(estimator)
        assert ImportanceSampling(10)(VAE.model, weak_guide, MODEL.simulate(2)).method == (
            "importance sampling"
        )

    def test_seeds(self):
        x, estimator = MODEL.simulate(5), ImportanceSampling(10, refine=SHORT)
        state = torch.get_rng_state()
        first, again, other = (
            estimator(VAE.model, weak_guide, x, seed=seed).log_prob for seed in (1, 1, 2)
        )
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_on_the_command_line(tmp_path, capsys):
    config = RunConfig.of(epochs=1, hidden=(4,), latent=2, batch_size=500, validation_particles=2)
    train_run(config, tmp_path, device="cpu", progress=False)
    command = ["evaluate", str(tmp_path), "--particles", "20", "--limit", "30", "--json"]
    found = {}
    for option in ([], ["--refine", "2"], ["--refine", "3"]):
        main([*command, *option])
        found[tuple(option)] = json.loads(capsys.readouterr().out)
    plain, two, three = found.values()
    assert plain["method"] == "importance sampling"
    assert two["method"] == "importance sampling (guide refined by 2 steps)"
    # An estimate made with other settings is not handed out again.
    assert len({result["log_prob"] for result in (plain, two, three)}) == 3
