"""Estimators by importance sampling other than the plain one, on the exact model."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from programs import weight_moment
from significance import Estimate, mean_of

from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
    _adaptive,
    bits_per_dimension,
    pareto_tail,
)
from ppl_vae.evidence._chunk import Chunk
from ppl_vae.evidence._debiased import draw_lengths, jackknife, sumo_series, survival
from ppl_vae.evidence._doubt import Doubt
from ppl_vae.evidence._weighing import bootstrap_error
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import draw_particles
from ppl_vae.vae import VAE
from ppl_vae.weights import RunningWeights, log_mean_exp

LIGHT = LinearGaussian.random(4, 2, 1.0, seed=3)
HEAVY = LinearGaussian.random(4, 2, 0.4, seed=2)
MODEL = LinearGaussian.random(6, 2, 0.7, seed=2)
X = MODEL.simulate(30, seed=3)
FAMILY = [
    ImportanceSampling(400),
    ParetoSmoothed(400),
    Jackknife(400, 1),
    Jackknife(400, 2),
    Jackknife(400, 3),
    SUMO(100, 10),
    DefensiveSampling(400),
    AdaptiveSampling(0.05),
]


def narrow(model, factor):
    """The best mean-field guide with its scale divided: a bad proposal."""

    def encoder(x):
        q = model.mean_field_posterior(x).base_dist
        return dist.Normal(q.loc, q.scale / factor).to_event(1)

    return VAE(model.prior, model.decoder, encoder)


def of_replicates(estimator, latent, ratio):
    """200 replicates of one datum, by the posterior with its scale multiplied; who covers."""
    model = LinearGaussian(torch.eye(latent, dtype=torch.float64))
    vae, x = narrow(model, 1 / ratio), model.simulate(1, seed=3).expand(200, -1)
    found = estimator(vae.model, vae.guide, x)
    error = (found.log_prob - model.log_evidence(x)).abs()
    return found, (error <= 1.96 * found.standard_error).double().mean().item()


def replicates(estimator, count, model=LIGHT, seed=0):
    """The estimator's result on ``count`` copies of one datum, and the exact log p(x)."""
    vae, x = model.mean_field_vae(), model.simulate(1, seed=3)
    found = estimator(vae.model, vae.guide, x.expand(count, -1), seed=seed)
    return found, model.log_evidence(x).item()


def no_doubt(weights, tail):
    return Doubt(*2 * [torch.zeros_like(weights.log_mean)])


@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_near_the_exact_value_within_its_error(estimator, significance):
    vae = MODEL.mean_field_vae()
    found = estimator(vae.model, vae.guide, X)
    exact = MODEL.log_evidence(X).mean().item()
    significance.require_equal(Estimate(found.mean, found.monte_carlo_error), exact)
    assert found.monte_carlo_error < 0.05


@pytest.mark.parametrize("estimator", FAMILY[:5] + FAMILY[6:], ids=repr)
def test_at_the_posterior_it_is_exact(estimator):
    vae = MODEL.vae()
    found = estimator(vae.model, vae.guide, X)
    if isinstance(estimator, DefensiveSampling):
        # A part of its draws comes from the prior: the weights are bounded, not equal.
        assert (found.log_prob - MODEL.log_evidence(X)).abs().max() < 0.2
        return
    torch.testing.assert_close(found.log_prob, MODEL.log_evidence(X).detach())
    assert found.standard_error.abs().max() < 1e-6
    assert found.warning is None


@pytest.mark.parametrize(
    "estimator", [ImportanceSampling(320), ParetoSmoothed(320), Jackknife(320, 2)], ids=repr
)
def test_how_particles_are_cut_changes_nothing(estimator, monkeypatch):
    log_weight = 2 * torch.randn(320, 5, dtype=torch.float64) - 50
    log_weight[::9, 2] = -math.inf
    vae, found = MODEL.mean_field_vae(), []
    for size in (320, 64, 7, 1):
        monkeypatch.setattr(Chunk, "log_weights", lambda *_, size=size: log_weight.split(size))
        found.append(estimator(vae.model, vae.guide, X[:5]))
    for other in found[1:]:
        for name in ("log_prob", "standard_error", "effective_sample_size", "pareto_k"):
            torch.testing.assert_close(getattr(other, name), getattr(found[0], name))
    if isinstance(estimator, Jackknife):
        blocks = log_weight.unflatten(0, (16, -1)).logsumexp(1)
        torch.testing.assert_close(found[0].log_prob, jackknife(blocks, 20, 2))


@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_the_same_seed_gives_the_same_numbers(estimator):
    vae = MODEL.mean_field_vae()
    first, again, other = (estimator(vae.model, vae.guide, X, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.log_prob, again.log_prob)
    assert not torch.equal(first.log_prob, other.log_prob)


@pytest.mark.parametrize(
    ("estimator", "count"),
    [
        (ImportanceSampling(500, tails=False, rows=100_000), 4000),
        (ParetoSmoothed(500, rows=100_000), 1000),
        (Jackknife(512, 1, rows=100_000), 1000),
        (Jackknife(512, 2, rows=100_000), 1000),
        (DefensiveSampling(500, rows=100_000), 1000),
        (AdaptiveSampling(0.03, rows=100_000), 4000),
    ],
    ids=repr,
)
def test_a_stated_95_percent_interval_covers_as_often(estimator, count):
    found, exact = replicates(estimator, count)
    z = (found.log_prob - exact) / found.standard_error
    covered = (z.abs() < 1.96).double().mean().item()
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(
    "estimator", [DefensiveSampling(20, rows=10**5), ImportanceSampling(20, rows=10**5)], ids=repr
)
def test_the_exponential_is_unbiased(estimator, significance):
    found, exact = replicates(estimator, 20_000)
    significance.require_equal(mean_of((found.log_prob - exact).exp()), 1.0)


class TestBootstrap:
    """Against the spread of many independent estimates; the delta method is the other measure."""

    @pytest.mark.parametrize(
        "estimator",
        [ImportanceSampling(512, tails=False, bootstrap=200), Jackknife(512, 2, bootstrap=50)],
        ids=repr,
    )
    def test_its_intervals_cover(self, estimator):
        found, exact = replicates(estimator, 1000)
        covered = (found.log_prob - exact).abs() < 1.96 * found.standard_error
        assert 0.93 <= covered.double().mean() <= 0.97

    @pytest.mark.parametrize(
        "estimator", [ImportanceSampling(512), Jackknife(512, 1)], ids=lambda e: type(e).__name__
    )
    def test_only_the_error_is_another(self, estimator):
        vae = MODEL.mean_field_vae()
        delta, boot = (
            replace(estimator, bootstrap=b)(vae.model, vae.guide, X) for b in (None, 500)
        )
        assert torch.equal(delta.log_prob, boot.log_prob)
        # 500 bootstrap samples know a standard deviation to 3%.
        ratio = (boot.standard_error / delta.standard_error).median()
        assert abs(ratio - 1) < 0.1
        assert not torch.equal(delta.standard_error, boot.standard_error)

    def test_of_a_mean_it_is_the_textbook_s(self, significance):
        """The bootstrap variance of a mean is s^2 (K - 1) / K^2, whatever the sample."""
        log_weight = torch.randn(40, 2, dtype=torch.float64)
        w = log_weight.exp()
        counts = bootstrap_error(log_weight, 40_000, lambda sums: sums[0].exp() / 40)
        expected = w.std(0, correction=0) / 40**0.5
        # The relative error of a standard deviation from R normal values is 1 / sqrt(2 R).
        for found, value in zip(counts, expected, strict=True):
            significance.require_equal(Estimate(found.item(), value / 80_000**0.5), value.item())

    def test_weights_of_zero_are_no_trouble(self):
        log_weight = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf], [0.5, 0.0]]).double()
        error = bootstrap_error(log_weight.repeat(20, 1), 100, lambda sums: sums[0])
        assert error.isfinite().all()

    @pytest.mark.parametrize("build", [ImportanceSampling, Jackknife])
    def test_one_sample_has_no_spread(self, build):
        with pytest.raises(ValueError, match="bootstrap >= 2 samples, or None, got 1"):
            build(bootstrap=1)


class TestPareto:
    @pytest.mark.parametrize("count", [100, 225, 400, 5000])
    def test_tails_are_arviz_s_on_all_weights(self, count):
        log_weight = torch.randn(count, 4, dtype=torch.float64) * torch.tensor([0.1, 1, 2, 4]) - 100
        weights = RunningWeights(count)
        for chunk in log_weight.split(70):
            weights.add(chunk)
        tail = pareto_tail(weights)
        for i in range(4):
            expected, k = array_stats.psislw(-log_weight[:, i].numpy(), axis=-1)
            # ArviZ's weights sum to 1; those below the tail tell what they were divided by.
            smallest = int(log_weight[:, i].argmin())
            smoothed = torch.as_tensor(expected) + log_weight[smallest, i] - expected[smallest]
            weights = RunningWeights.of(smoothed.unsqueeze(1))
            assert tail.pareto_k[i].item() == pytest.approx(float(k))
            assert tail.smoothed.log_mean[i].item() == pytest.approx(weights.log_mean.item())
            error = tail.smoothed.standard_error[i].item()
            assert error == pytest.approx(weights.standard_error.item())

    def test_weights_of_0_have_no_part_in_the_tail(self):
        log_weight = torch.randn(1000, 3, dtype=torch.float64) * 2
        log_weight[200:, 1] = -math.inf
        log_weight[99:, 2] = -math.inf
        tail = pareto_tail(RunningWeights.of(log_weight))
        for i, kept in enumerate((1000, 200)):
            alone = pareto_tail(RunningWeights.of(log_weight[:kept, i : i + 1]))
            torch.testing.assert_close(tail.pareto_k[i], alone.pareto_k[0])
            torch.testing.assert_close(tail.tail_share[i], alone.tail_share[0])
        assert tail.pareto_k[2].isnan()
        plain = RunningWeights.of(log_weight)
        torch.testing.assert_close(tail.smoothed.log_mean[2], plain.log_mean[2])

    def test_a_known_shape(self, significance):
        """exp of an exponential variable of rate a is Pareto with shape 1/a."""
        log_weight = -torch.rand(20_000, 100, dtype=torch.float64).log() * 0.6
        # The fit's prior pulls its 424 tail values towards 0.5 as 10 values would.
        expected = (424 * 0.6 + 10 * 0.5) / 434
        significance.require_equal(
            mean_of(pareto_tail(RunningWeights.of(log_weight)).pareto_k), expected
        )

    def test_equal_weights_have_no_tail(self):
        tail = pareto_tail(RunningWeights.of(torch.full((100, 2), -3.0, dtype=torch.float64)))
        assert (tail.pareto_k == -math.inf).all()
        assert tail.smoothed.log_mean.tolist() == [-3.0, -3.0]

    @pytest.mark.parametrize("estimator", [ImportanceSampling(1000), ParetoSmoothed(1000)])
    def test_a_bad_guide_is_announced(self, estimator):
        vae = narrow(MODEL, 10)
        found = estimator(vae.model, vae.guide, X)
        assert (found.pareto_k > found.pareto_threshold).double().mean() > 0.5
        assert found.warning.startswith("not to be trusted")
        assert "have weights whose tail leaves open how low their log p(x) is" in found.warning
        assert "annealed importance sampling" in found.warning
        assert found.summary()["max_pareto_k"] > 0.7

    def test_a_heavy_tail_that_carries_nothing_is_no_alarm(self):
        tail = torch.rand(5000, 4, dtype=torch.float64).pow(-1.0)
        log_weight = torch.log1p(1e-8 * tail)
        smoothed = pareto_tail(RunningWeights.of(log_weight))
        assert (smoothed.pareto_k > 0.65).all()
        assert (smoothed.tail_share < 0.01).all()
        torch.testing.assert_close(
            pareto_tail(RunningWeights.of(tail.log())).tail_share,
            (tail.topk(213, 0).values - tail.topk(213, 0).values[-1]).sum(0) / tail.sum(0),
        )

    def test_the_defensive_mixture_stands_it(self):
        vae, exact = narrow(MODEL, 10), MODEL.log_evidence(X).mean().item()
        plain = ImportanceSampling(1000)(vae.model, vae.guide, X)
        mixed = DefensiveSampling(1000, 0.5)(vae.model, vae.guide, X)
        assert abs(mixed.mean - exact) < 0.1 < 1 < abs(plain.mean - exact)

    def test_few_particles_are_not_fitted(self):
        vae = MODEL.mean_field_vae()
        assert ImportanceSampling(99)(vae.model, vae.guide, X).pareto_k is None
        assert ImportanceSampling(400, tails=False)(vae.model, vae.guide, X).pareto_k is None
        with pytest.raises(ValueError, match="num_particles >= 100"):
            ParetoSmoothed(99)


class TestJackknife:
    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_a_polynomial_bias_is_removed_exactly(self, order):
        """With values that are log p + a_1/n + ... + a_m/n^m the correction gives log p."""
        blocks = torch.randn(16, 3, dtype=torch.float64)
        plain = [jackknife(blocks, 4, order)]
        # By hand, from the means over subsets of each size.
        from itertools import combinations

        means = []
        for left_out in range(order + 1):
            kept = torch.tensor(list(combinations(range(16), 16 - left_out)))
            size = 4 * (16 - left_out)
            means.append((torch.logsumexp(blocks[kept], 1) - math.log(size)).mean(0))
        # Lagrange extrapolation to 1/n = 0 through the points 1/n_j.
        nodes = [1 / (16 - j) for j in range(order + 1)]
        expected = sum(
            mean * math.prod(-b / (a - b) for b in nodes if b != a)
            for a, mean in zip(nodes, means, strict=True)
        )
        torch.testing.assert_close(plain[0], expected)

    def test_it_takes_bias_away(self, significance):
        significance = significance.split(2)
        variance = weight_moment(HEAVY, 2) - 1
        vae, x = HEAVY.mean_field_vae(), HEAVY.simulate(1, seed=3)
        exact = HEAVY.log_evidence(x).item()
        with torch.no_grad():
            drawn = draw_particles(vae.model, vae.guide, x.expand(60_000, -1), 32)
        plain = mean_of(log_mean_exp(drawn.log_weight))
        blocks = torch.logsumexp(drawn.log_weight.unflatten(0, (16, 2)), 1)
        mended = mean_of(jackknife(blocks, 2, 1))
        significance.require_less(plain, exact)
        assert plain.value == pytest.approx(exact - variance / 64, abs=2e-3)
        # What is left is of second order: below what the plain bound is low by.
        significance.require_less(plain, mended)
        assert abs(mended.value - exact) < abs(plain.value - exact) / 2

    @pytest.mark.parametrize("count", [16, 100, 0])
    def test_blocks_must_fit(self, count):
        with pytest.raises(ValueError, match="Jackknife needs num_particles"):
            Jackknife(count)

    def test_order(self):
        with pytest.raises(ValueError, match="order 1, 2 or 3, got 4"):
            Jackknife(32, 4)


class TestSUMO:
    def test_the_truncation_has_the_stated_tail(self, significance):
        lengths = draw_lengths(200_000)
        points = [1, 5, 40, 79, 85, 100]
        significance = significance.split(len(points))
        tails = survival(torch.tensor(points, dtype=torch.float64))
        for j, probability in zip(points, tails.tolist(), strict=True):
            count = int((lengths >= j).sum())
            significance.require_count(count, len(lengths), probability)
        assert lengths.min() == 0

    def test_a_series_by_hand(self):
        log_weight = torch.randn(12, dtype=torch.float64)
        lengths = torch.tensor([2, 0, 1])
        found = sumo_series(log_weight, lengths, 2)
        start = 0
        for value, n in zip(found, lengths.tolist(), strict=True):
            part = log_weight[start : start + n + 3]
            bound = [part[:k].exp().mean().log() for k in range(1, len(part) + 1)]
            expected = bound[1] + sum((bound[2 + j] - bound[1 + j]) * (j + 1) for j in range(n + 1))
            torch.testing.assert_close(value, expected)
            start += n + 3

    def test_it_is_unbiased_for_the_logarithm_itself(self, significance):
        """From 2 particles on, where the plain bound is far too low."""
        found, exact = replicates(SUMO(20, 2, rows=50_000), 3_000, HEAVY)
        significance = significance.split(2)
        significance.require_equal(mean_of(found.log_prob), exact)
        plain, _ = replicates(ImportanceSampling(8, tails=False, rows=100_000), 20_000, HEAVY)
        significance.require_less(mean_of(plain.log_prob), exact)

    def test_one_replicate_has_no_error(self):
        with pytest.raises(ValueError, match="replicates >= 2"):
            SUMO(1)


class TestAdaptive:
    def test_draws_go_where_they_are_needed(self):
        vae = MODEL.mean_field_vae()
        x = torch.cat([X, X + 4])
        found = AdaptiveSampling(0.02)(vae.model, vae.guide, x)
        assert found.standard_error.max() <= 1.5 * 0.02
        assert len(found.evaluations.unique()) > 2
        # The order of the data is kept.
        assert (found.log_prob - MODEL.log_evidence(x)).abs().max() < 0.15

    def test_it_gives_up_at_most(self):
        vae = narrow(MODEL, 10)
        found = AdaptiveSampling(0.01, first=50, most=400)(vae.model, vae.guide, X)
        assert found.num_particles == 400
        assert found.evaluations.max() == 450

    def test_stopping_leaves_no_bias_that_matters(self, monkeypatch, significance):
        """Against a plain estimate of as many draws; once, pilot and draws shared a stream."""
        # The doubts of 20,000 estimates, of which nothing is claimed, take most of the time.
        monkeypatch.setattr(_adaptive, "doubt_by_tail", no_doubt)
        found, exact = replicates(AdaptiveSampling(0.03, first=50, rows=100_000), 20_000)
        # A plain estimate of as many draws is low by half the squared standard error.
        low = found.standard_error.square().mean().item() / 2
        significance.require_equal(mean_of(found.log_prob + low), exact)

    @pytest.mark.parametrize(
        ("latent", "ratio"), [(1, 0.5), (1, 0.6), (2, 0.6), (3, 0.65), (5, 0.65)]
    )
    def test_it_does_not_stop_where_the_tail_was_not_seen(self, latent, ratio):
        """Coverage below 86% is said; ``benchmarks/heavy_tails.py`` has the whole grid."""
        found, covered = of_replicates(AdaptiveSampling(rows=100_000), latent, ratio)
        assert covered < 0.9
        assert found.warning is not None
        # The doubt of a datum, where it is bounded at all, is several times its error.
        assert found.doubt[found.doubt.isfinite()].mean() > 0.2

    @pytest.mark.parametrize(("latent", "ratio"), [(1, 0.9), (2, 0.8), (5, 0.9), (3, 1.0)])
    def test_a_tail_that_is_light_enough_is_no_alarm(self, latent, ratio):
        found, covered = of_replicates(AdaptiveSampling(rows=100_000), latent, ratio)
        assert covered > 0.86
        assert found.doubt[found.doubt.isfinite()].mean() < 0.2
        assert found.warning is None or "may be low" not in found.warning

    @pytest.mark.parametrize("first", [10, 30, 99])
    def test_a_short_pilot_is_no_way_past_the_tail(self, first):
        vae = MODEL.mean_field_vae()
        found = AdaptiveSampling(1.0, first=first)(vae.model, vae.guide, X)
        assert found.pareto_k.isfinite().all()
        assert found.evaluations.min() >= 100

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"target": 0.0}, "target > 0"),
            ({"target": math.nan}, "target > 0"),
            ({"first": 0}, "first >= 1"),
            ({"first": 10, "most": 5}, "most >= first"),
        ],
    )
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            AdaptiveSampling(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_share": 0.0}, "between 0 and 1"),
        ({"prior_share": 1.0}, "between 0 and 1"),
        ({"num_particles": 3}, "num_particles >= 4"),
    ],
)
def test_wrong_mixtures(arguments, message):
    with pytest.raises(ValueError, match=message):
        DefensiveSampling(**arguments)


@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_no_data(estimator):
    vae = MODEL.mean_field_vae()
    with pytest.raises(ValueError, match="x holds no data"):
        estimator(vae.model, vae.guide, X[:0])


def test_running_weights_merge_and_go_through_columns():
    log_weight = torch.randn(30, 6, dtype=torch.float64) * 5 - 300
    log_weight[:, 5] = -math.inf
    whole, first, second = (RunningWeights() for _ in range(3))
    whole.add(log_weight)
    first.add(log_weight[:10])
    second.add(log_weight[10:])
    both = first.merged(second)
    parts = [both.rows(torch.arange(6) < 2).columns(), both.rows(torch.arange(6) >= 2).columns()]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for one in (both, RunningWeights.from_columns(columns, 30, 100_000)):
        assert one.num_particles == 30
        torch.testing.assert_close(one.log_mean, whole.log_mean)
        torch.testing.assert_close(one.standard_error[:5], whole.standard_error[:5])
        torch.testing.assert_close(one.effective_sample_size, whole.effective_sample_size)


def test_bits_per_dimension():
    assert bits_per_dimension(-math.log(2) * 8, 4) == pytest.approx(2.0)
