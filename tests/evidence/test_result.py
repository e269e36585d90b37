import json
import math
from dataclasses import replace

import pytest
import torch
from programs import binary_vae
from scipy.stats import t
from significance import Estimate, mean_of, variance_of

from ppl_vae.comparison import compare
from ppl_vae.evidence import Evidence, ImportanceSampling, paired_difference
from ppl_vae.evidence._weighing import measured
from ppl_vae.identity import Identity, Source
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.vae import VAE
from ppl_vae.weights import RunningWeights

NOISE = 1.5
MODEL = LinearGaussian.random(4, 2, NOISE, seed=1)


def evidence_of(log_prob, standard_error, ess=100.0, num_particles=1000):
    log_prob = torch.as_tensor(log_prob, dtype=torch.float64)
    return Evidence(
        log_prob=log_prob,
        standard_error=torch.as_tensor(standard_error, dtype=torch.float64).expand_as(log_prob),
        effective_sample_size=torch.full_like(log_prob, ess),
        num_particles=num_particles,
        direction="lower",
        method="importance sampling",
        seconds=1.0,
    )


def marginal():
    covariance = MODEL.weight @ MODEL.weight.T + NOISE**2 * torch.eye(4).double()
    return torch.distributions.MultivariateNormal(MODEL.bias.detach(), covariance.detach())


def entropy():
    return marginal().entropy().item()


def evaluate(x, size, K, model=MODEL):
    """The rows of x as data sets of a size, each with the evidence it would have alone."""
    vae = model.mean_field_vae()
    whole = ImportanceSampling(K, rows=10**6, tails=False)(vae.model, vae.guide, x)
    names = ("log_prob", "standard_error", "effective_sample_size", "rounding")
    parts = zip(*(getattr(whole, name).split(size) for name in names), strict=True)
    return [replace(whole, **dict(zip(names, part, strict=True))) for part in parts]


class TestFormulas:
    evidence = evidence_of([-1.0, -2.0, -6.0], [0.1, 0.2, 0.2])

    def test_mean_and_errors(self):
        assert self.evidence.mean == pytest.approx(-3)
        assert self.evidence.monte_carlo_error == pytest.approx(0.3 / 3)
        assert self.evidence.total_error == pytest.approx(math.sqrt(7 / 3))
        assert self.evidence.data_error == pytest.approx(math.sqrt(7 / 3 - 0.01))

    def test_the_data_error_is_not_negative(self):
        assert evidence_of([-1.0, -1.0], 0.5).data_error == 0

    def test_text(self):
        text = str(self.evidence)
        assert text.startswith("log p(x) = -3.000 nats per datum")
        errors = "(error of the mean: Monte Carlo 0.100, finite data 1.524, together 1.528"
        for part in (errors, "N = 3", "K = 1000", "a lower bound"):
            assert part in text
        assert "trusted" not in text

    def test_no_total_stands_below_one_of_its_parts(self):
        """Three data spread by less than their noise by chance."""
        found = evidence_of([-1.0, -1.1, -1.2], 0.24)
        assert found.total_error == pytest.approx(0.1 / math.sqrt(3))
        assert (
            "(error of the mean: Monte Carlo 0.139, finite data not seen, as the data spread by "
            "less: by 0.058;" in str(found)
        )
        assert "together" not in str(found)

    def test_one_datum_says_nothing_of_how_data_differ(self):
        text = str(evidence_of([-1.0], [0.1]))
        assert "(error of the mean: Monte Carlo 0.100; N = 1" in text
        assert "nan" not in text

    def test_summary_is_plain_json(self):
        summary = self.evidence.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert summary["log_prob"] == pytest.approx(-3)
        assert summary["total_error"] == pytest.approx(math.sqrt(7 / 3))
        one = evidence_of([-1.0], math.nan, num_particles=1).summary()
        assert json.loads(json.dumps(one, allow_nan=False))["total_error"] is None

    @pytest.mark.parametrize(
        ("shapes", "highest"),
        [
            (None, None),
            ([math.nan, 0.4, 0.3], 0.4),
            ([-math.inf, math.nan, 0.3], 0.3),
            ([math.nan] * 3, None),
        ],
    )
    def test_highest_shape_of_the_data_that_have_one(self, shapes, highest):
        """Annealed data have none: NaN."""
        pareto_k = None if shapes is None else torch.tensor(shapes).double()
        found = replace(self.evidence, pareto_k=pareto_k).summary()["max_pareto_k"]
        assert found == (None if highest is None else pytest.approx(highest))


def weighed(log_weight):
    """What importance sampling makes of these log-weights."""
    return Evidence(
        **measured(RunningWeights.of(log_weight)),
        num_particles=len(log_weight),
        direction="lower",
        method="importance sampling",
        seconds=1.0,
    )


class TestVerdicts:
    @pytest.mark.parametrize("count", [2, 3, 4, 5, 50])
    def test_equal_weights_are_exact_however_few(self, count):
        found = weighed(torch.full((count, 3), -7.0, dtype=torch.float64))
        assert found.log_prob.tolist() == pytest.approx([-7.0] * 3)
        assert found.warning is None

    @pytest.mark.parametrize("count", [2, 4, 5, 50])
    def test_one_weight_that_carries_all_is_not_trusted(self, count):
        log_weight = torch.zeros(count, 3, dtype=torch.float64)
        log_weight[0] = 20.0
        warning = weighed(log_weight).warning
        assert warning.startswith("not to be trusted: 3 of 3 data have fewer than ")

    def test_weights_that_are_equal_because_they_are_rounded(self):
        """A model that has diverged: the spread of log-densities is below their rounding."""
        found = weighed(torch.full((20, 4), -3.39e12))
        assert found.monte_carlo_error > 1e5
        assert "not to be trusted: 4 of 4 data have log-densities so large" in found.warning
        assert "rounding leaves up to 4e+05 nats" in found.warning
        assert weighed(torch.full((20, 4), -3e3)).warning is None

    def test_all_weights_0(self):
        log_weight = torch.zeros(200, 40, dtype=torch.float64)
        log_weight[:, 7] = -math.inf
        found = weighed(log_weight)
        assert found.log_prob[7].item() == -math.inf
        assert found.warning.startswith("not to be trusted: 1 of 40 data have weights of 0 only")
        assert found.summary()["log_prob"] is None
        json.dumps(found.summary(), allow_nan=False)

    def test_half_the_weights_0(self):
        log_weight = torch.zeros(200, 4, dtype=torch.float64)
        log_weight[::2] = -math.inf
        found = weighed(log_weight)
        torch.testing.assert_close(found.log_prob, torch.full_like(found.log_prob, -math.log(2)))
        # Of a share of 1/2 in 200 draws, relative to the share.
        expected = torch.full_like(found.log_prob, math.sqrt(1 / 199))
        torch.testing.assert_close(found.standard_error, expected)
        assert found.warning is None


class TestTotalError:
    """The spread over data holds the Monte Carlo noise already."""

    @staticmethod
    def sets(distinct):
        """Data sets of 20 from a population of so many data; the fewer, the more is noise."""
        x = MODEL.simulate(distinct)
        rows = torch.randint(distinct, (5_000 * 20,), generator=torch.Generator().manual_seed(1))
        return evaluate(x[rows], 20, K=10)

    @pytest.mark.parametrize("distinct", [1, 5_000])
    def test_the_stated_variance_is_that_of_the_mean(self, distinct, significance):
        sets = self.sets(distinct)
        spread = variance_of(torch.tensor([e.mean for e in sets]))
        stated = mean_of(torch.tensor([e.total_error**2 for e in sets]))
        significance.require_equal(spread, stated)

    def test_noise_counted_twice_is_noticed(self, significance):
        """METHODS.md's first formula, s^2/N + mean(SE^2)/N, is wrong: s^2 holds SE^2."""
        sets = self.sets(1)
        spread = variance_of(torch.tensor([e.mean for e in sets]))
        noise = mean_of(torch.tensor([e.monte_carlo_error**2 for e in sets]))
        twice = mean_of(torch.tensor([e.total_error**2 + e.monte_carlo_error**2 for e in sets]))
        # One datum again and again: all of the spread is noise.
        significance.split(2).require_equal(spread, noise)
        with pytest.raises(AssertionError):
            significance.split(2).require_equal(spread, twice)

    def test_monte_carlo_error_is_the_spread_of_repetitions_on_the_same_data(self, significance):
        sets = evaluate(MODEL.simulate(10).repeat(2_000, 1), 10, K=100)
        stated = mean_of(torch.tensor([e.monte_carlo_error**2 for e in sets]))
        significance.require_equal(variance_of(torch.tensor([e.mean for e in sets])), stated)

    def test_data_error_is_the_spread_of_the_exact_values(self, significance):
        """Without the particles' part, what is left is the spread of log p(x) itself."""
        sets = evaluate(MODEL.simulate(100_000), 20, K=10)
        left = mean_of(torch.tensor([e.total_error**2 - e.monte_carlo_error**2 for e in sets]))
        exact = variance_of(MODEL.log_evidence(MODEL.simulate(100_000, seed=8)))
        significance.require_equal(left, Estimate(exact.value / 20, exact.error / 20))


def inside(values, errors, target, size, level=0.95):
    """How many intervals, by Student's t, hold the target."""
    limit = t.ppf((1 + level) / 2, size - 1)
    return sum(abs(v - target) <= limit * e for v, e in zip(values, errors, strict=True))


class TestCoverage:
    @pytest.mark.parametrize("level", [0.8, 0.95])
    def test_of_the_populations_mean(self, level, significance):
        """log p(x) has mean -entropy over the population: how often is it in the interval?"""
        sets = evaluate(MODEL.simulate(600 * 100), 100, K=50)
        values, errors = [e.mean for e in sets], [e.total_error for e in sets]
        count = inside(values, errors, -entropy(), 100, level)
        significance.require_count(count, 600, level)

    def test_of_the_test(self, significance):
        """Intervals from the Monte Carlo error alone cover far too seldom."""
        sets = evaluate(MODEL.simulate(300 * 100), 100, K=50)
        values, errors = [e.mean for e in sets], [e.monte_carlo_error for e in sets]
        with pytest.raises(AssertionError):
            significance.require_count(inside(values, errors, -entropy(), 100), 300, 0.95)

    def test_of_paired_differences(self, significance):
        """Two models on the same data: their difference has a known population mean."""
        x = MODEL.simulate(400 * 50)
        shifted = LinearGaussian(MODEL.weight.detach(), MODEL.bias.detach() + 0.3, NOISE)
        a, b = evaluate(x, 50, K=50), evaluate(x, 50, K=50, model=shifted)
        differences = [paired_difference(p, q) for p, q in zip(a, b, strict=True)]
        # KL of two normals with one covariance: half the squared distance of their means.
        covariance = marginal().covariance_matrix
        shift = torch.full((4,), 0.3, dtype=torch.float64)
        exact = (shift @ torch.linalg.solve(covariance, shift) / 2).item()
        count = inside(
            [d.mean for d in differences], [d.total_error for d in differences], exact, 50
        )
        significance.require_count(count, 400, 0.95)


class TestPairedDifference:
    def test_formulas(self):
        a = evidence_of([-1.0, -2.0, -6.0], [0.1, 0.2, 0.2])
        b = evidence_of([-1.5, -3.0, -6.0], [0.2, 0.0, 0.1])
        difference = paired_difference(a, b)
        assert difference.mean == pytest.approx(0.5)
        assert difference.monte_carlo_error == pytest.approx(math.sqrt(0.09 + 0.05) / 3)
        assert difference.total_error == pytest.approx(0.5 / math.sqrt(3))
        expected = math.sqrt(0.25 / 3 - 0.14 / 9)
        assert difference.data_error == pytest.approx(expected)
        reverse = paired_difference(b, a)
        assert reverse.mean == -difference.mean
        assert reverse.total_error == difference.total_error

    def test_the_interval_holds_what_either_side_may_be_low_by(self):
        a = evidence_of([-1.0, -2.0, -6.0], [0.1, 0.2, 0.2])
        b = evidence_of([-1.5, -3.0, -6.0], [0.2, 0.0, 0.1])
        half = 1.959964 * 0.5 / math.sqrt(3)
        assert paired_difference(a, b).interval == pytest.approx((0.5 - half, 0.5 + half))
        # Every datum of a is low by 0.2, which is known to 0.3: that of the mean to 0.3 / sqrt(3).
        three = torch.ones(3, dtype=torch.float64)
        low = replace(a, bias=0.2 * three, doubt=0.5 * three)
        wide = math.hypot(half, 0.3 / math.sqrt(3))
        found = paired_difference(low, b)
        assert found.interval == pytest.approx((0.5 - half, 0.7 + wide))
        assert f"95% interval [{0.5 - half:+.3f}, {0.7 + wide:+.3f}]" in str(found)
        assert paired_difference(b, low).interval == pytest.approx((-0.7 - wide, -0.5 + half))
        # Where both are low by as much, only what is not known of each is left.
        both = paired_difference(low, replace(b, bias=0.2 * three, doubt=0.2 * three))
        assert both.interval == pytest.approx((0.5 - wide, 0.5 + wide))
        unbounded = replace(b, bias=math.inf * three, doubt=math.inf * three)
        assert paired_difference(a, unbounded).interval == (-math.inf, pytest.approx(0.5 + half))

    def test_pairing_removes_what_the_data_share(self):
        x = MODEL.simulate(300)
        vae, exact = MODEL.mean_field_vae(), MODEL.vae()
        a = ImportanceSampling(200, tails=False)(vae.model, vae.guide, x)
        b = ImportanceSampling(200, tails=False)(exact.model, exact.guide, x)
        unpaired = math.hypot(a.total_error, b.total_error)
        assert paired_difference(a, b).total_error < unpaired / 10

    def test_an_error_that_all_data_share_does_not_fall_with_their_number(self):
        # Of each datum 0.05 in all: 0.03 its own, 0.04 that of all.
        a = replace(evidence_of([-1.0] * 100, 0.05), shared_error=0.04)
        b = evidence_of([-1.5] * 100, 0.1)
        difference = paired_difference(a, b)
        expected = math.sqrt((0.03**2 + 0.1**2) / 100 + 0.04**2)
        assert difference.monte_carlo_error == pytest.approx(expected)
        # The data show no spread at all.
        assert difference.total_error == pytest.approx(0.04)
        both = paired_difference(a, replace(b, shared_error=0.03))
        assert both.total_error == pytest.approx(0.05)

    def test_stated_errors_are_those_of_repetitions_with_a_shared_error(self, significance):
        generator = torch.Generator().manual_seed(0)
        exact = torch.randn(50, generator=generator, dtype=torch.float64)

        def noise(size, scale):
            return scale * torch.randn(size, generator=generator, dtype=torch.float64)

        covered = 0
        for _ in range(400):
            a = replace(
                evidence_of(exact + noise(50, 0.03) + noise(1, 0.04), 0.05), shared_error=0.04
            )
            b = evidence_of(exact - 0.2 + noise(50, 0.02), 0.02)
            found = paired_difference(a, b)
            covered += abs(found.mean - 0.2) <= 1.96 * found.monte_carlo_error
        significance.require_count(covered, 400, 0.95)

    def test_a_difference_from_itself_is_nothing(self):
        a = evidence_of([-1.0, -2.0], 0.1)
        assert paired_difference(a, a).mean == 0
        assert paired_difference(a, a).total_error == 0

    def test_other_data_are_refused(self):
        def of(rows, source):
            identity = Identity("p", rows, "IS", source=source)
            return replace(evidence_of([-1.0, -2.0], 0.1), identity=identity)

        a, b = of("first rows", Source("digits", "test")), of("others", Source("digits", "valid"))
        assert paired_difference(a, a).mean == 0
        assert paired_difference(a, replace(b, identity=None)).mean == 0
        message = "rows first rows and others, from digits, test and digits, valid"
        with pytest.raises(ValueError, match=message):
            paired_difference(a, b)

    def test_a_probability_and_a_density_are_refused(self):
        x = torch.randint(2, (6, 6), generator=torch.Generator().manual_seed(0)).float()
        found = [
            ImportanceSampling(5)(vae.model, vae.guide, x)
            for vae in (
                binary_vae(),
                VAE(StandardNormalPrior(2), NormalDecoder(MLP(2, [4], 6)), binary_vae().encoder),
            )
        ]
        assert [each.identity.measure for each in found] == ["probability", "density"]
        with pytest.raises(ValueError, match=r"is a probability of one and a density of the other"):
            paired_difference(*found)
        arms = dict(zip(("bits", "grey"), ({0: each} for each in found), strict=True))
        compared = compare(arms | {"again": {0: found[0]}}, replicates=100)
        assert list(compared.differences) == [("again", "bits")]
        note = "p(x) is a probability in one and a density in the other, so that they are not"
        assert [each for each in compared.notes if each.startswith(note)] == [
            f"{note} compared: grey and bits, again and grey."
        ]

    def test_different_numbers_of_data(self):
        with pytest.raises(ValueError, match="the same data, got 2 and 3"):
            paired_difference(evidence_of([-1.0, -2.0], 0.1), evidence_of([-1.0] * 3, 0.1))


def test_rounding_that_all_data_share_is_part_of_the_whole_error():
    """Their values are one number after rounding: the spread says 0 of what none of them knows."""
    lost = torch.full((4,), 3.0)
    found = Evidence(
        log_prob=torch.full((4,), -1e9),
        standard_error=lost,
        effective_sample_size=torch.full((4,), 10.0),
        num_particles=10,
        direction="lower",
        method="importance sampling",
        seconds=0.0,
        rounding=lost,
    )
    assert found.total_error == pytest.approx(3.0)
    assert found.total_error >= found.monte_carlo_error
    assert found.data_error == 0.0
