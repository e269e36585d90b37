"""Sandwiches on simulated data, and what they are used for."""

import math

import pytest
import torch
from programs import LinearChain
from scipy.stats import chi2, norm, t
from significance import mean_of

from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    calibrate,
    reverse_ais,
)
from ppl_vae.evidence.annealing import _pilot as pilot
from ppl_vae.evidence.annealing._reverse import jackknife_error, log_normal_error
from ppl_vae.particles import Programs

from .cases import MODEL, VAE, Positive, X, ratio, run

ALL = 10**6
AIS = AnnealedImportanceSampling


def sandwich(ais, num_data, programs=VAE, x=X, **kwargs):
    return run(BidirectionalMonteCarlo(ais, num_data), x, programs, **kwargs)


# With better step sizes the upper side has half the error.
@pytest.mark.usefixtures("whole_pilot")
class TestUnbiased:
    """Both sides over independent simulated data: E[W] = p(x), E[W_rev] = 1 / p(x)."""

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_both_sides(self, start, significance):
        found = sandwich(AIS(15, 4, 2, start, rows=ALL), 1500)
        exact = MODEL.log_evidence(found.x).detach()
        significance = significance.split(2)
        significance.require_equal(mean_of((found.lower.log_prob - exact).exp()), 1.0)
        significance.require_equal(mean_of((exact - found.upper.log_prob).exp()), 1.0)

    def test_two_layers_and_an_adaptive_schedule(self, significance):
        chain = LinearChain()
        estimator = BidirectionalMonteCarlo(AIS(15, 4, 2, spacing="adaptive", rows=ALL), 800)
        found = estimator(chain.model, chain.rough, chain.simulate(1))
        exact = chain.log_evidence(found.x).detach()
        significance = significance.split(2)
        significance.require_equal(mean_of((found.lower.log_prob - exact).exp()), 1.0)
        significance.require_equal(mean_of((exact - found.upper.log_prob).exp()), 1.0)

    def test_constrained_latents(self, significance):
        positive = Positive()
        found = sandwich(AIS(15, 4, 2, rows=ALL), 800, positive, positive.x)
        exact = (2 / (1 + found.x[:, 0]) ** 3).log()
        significance = significance.split(2)
        significance.require_equal(mean_of((found.lower.log_prob - exact).exp()), 1.0)
        significance.require_equal(mean_of((exact - found.upper.log_prob).exp()), 1.0)

    def test_not_from_latents_of_another_datum(self, monkeypatch, significance):
        """The wrong variant: z* and x are no pair."""

        simulate_data = Programs.simulate_data

        def strangers(programs, x):
            latents, data = simulate_data(programs, x)
            return latents, data.flip(0)

        monkeypatch.setattr(Programs, "simulate_data", strangers)
        found = sandwich(AIS(15, 4, 2, rows=ALL), 1000)
        exact = MODEL.log_evidence(found.x).detach()
        with pytest.raises(AssertionError):
            significance.require_less(mean_of(exact - found.upper.log_prob), 0.0)


class TestOrder:
    @pytest.mark.usefixtures("whole_pilot")
    def test_lower_exact_upper_and_a_gap_that_closes(self, significance):
        short, long = (sandwich(AIS(T, 2, 2, rows=ALL), 400) for T in (4, 40))
        exact = MODEL.log_evidence(short.x).detach()
        assert torch.equal(short.x, long.x)
        significance = significance.split(3)
        significance.require_less(mean_of(short.lower.log_prob - exact), 0.0)
        significance.require_less(mean_of(exact - short.upper.log_prob), 0.0)
        widths = (found.upper.log_prob - found.lower.log_prob for found in (long, short))
        significance.require_less(mean_of(next(widths) - next(widths)), 0.0)

    @pytest.mark.usefixtures("short_pilot")
    def test_from_the_posterior_there_is_no_gap(self):
        found = sandwich(AIS(4, 3, 2, "guide"), 5, MODEL.vae())
        exact = MODEL.log_evidence(found.x).detach()
        for side in (found.lower, found.upper):
            torch.testing.assert_close(side.log_prob, exact, rtol=0, atol=1e-10)
        assert abs(found.gap) < 1e-10


class TestResult:
    @pytest.mark.usefixtures("short_pilot")
    def test_table_and_directions(self):
        found = sandwich(AIS(3, 2, 1), 4)
        assert (found.lower.direction, found.upper.direction) == ("lower", "upper")
        widths = found.upper.log_prob - found.lower.log_prob
        assert found.gap == pytest.approx(widths.mean().item())
        assert found.gap_error == pytest.approx(widths.std().item() / 2)
        lines = str(found).splitlines()
        assert "4 simulated data" in lines[0]
        assert [line.split()[0] for line in lines[1:]] == ["upper", "lower", "gap"]
        assert f"{found.gap:.3f}" in lines[3]

    @pytest.mark.usefixtures("short_pilot")
    def test_one_datum_has_no_error(self):
        assert math.isnan(sandwich(AIS(2, 2, 1), 1).gap_error)

    @pytest.mark.usefixtures("whole_pilot")
    def test_chunks_start_at_their_own_latents(self, significance):
        """As in one chunk, but for the random numbers."""
        found = sandwich(AIS(2, 2, 1, "guide", rows=16), 6, MODEL.vae())
        torch.testing.assert_close(
            found.upper.log_prob, MODEL.log_evidence(found.x).detach(), rtol=0, atol=1e-10
        )
        chunked = sandwich(AIS(10, 2, 1, rows=8 * 100), 400)
        exact = MODEL.log_evidence(chunked.x).detach()
        significance.require_equal(mean_of((exact - chunked.upper.log_prob).exp()), 1.0)

    @pytest.mark.usefixtures("short_pilot")
    def test_a_seed_gives_the_same_numbers(self):
        first, second = (sandwich(AIS(3, 2, 1), 3, seed=4) for _ in range(2))
        assert torch.equal(first.upper.log_prob, second.upper.log_prob)
        assert torch.equal(first.lower.log_prob, second.lower.log_prob)

    def test_needs_data(self):
        with pytest.raises(ValueError, match="num_simulated >= 1"):
            BidirectionalMonteCarlo(AIS(3, 2, 1), 0)


@pytest.mark.usefixtures("short_pilot")
class TestCalibration:
    settings = AIS(1, 4, 2, rows=ALL)

    def test_the_shortest_schedule_that_is_good_enough(self):
        lengths = (40, 2, 5, 1000)
        gaps = {T: sandwich(AIS(T, 4, 2, rows=ALL), 50) for T in (2, 5, 40)}
        target = gaps[5].gap
        found = calibrate(VAE.model, VAE.guide, X, target, lengths, ais=self.settings, num_data=50)
        assert found.num_temperatures == 40
        assert found.gap == gaps[40].gap < target < gaps[2].gap
        assert run(found).gap == found.gap

    def test_none_is_good_enough(self):
        with pytest.raises(ValueError, match=r"below 1e-06 nats .*\(2: .* \+- .*; 3: "):
            calibrate(VAE.model, VAE.guide, X, 1e-6, (3, 2), ais=self.settings, num_data=3)

    @pytest.mark.parametrize(
        ("target", "lengths", "num_data"), [(0.0, (3,), 3), (1.0, (), 3), (1.0, (3,), 1)]
    )
    def test_arguments_out_of_range(self, target, lengths, num_data):
        with pytest.raises(ValueError, match="calibrate needs"):
            calibrate(VAE.model, VAE.guide, X, target, lengths, num_data=num_data)


class TestReverse:
    @pytest.mark.usefixtures("whole_pilot")
    def test_agrees_where_chains_mix(self, significance):
        """In p(x) / estimate, of which the weights backwards are unbiased estimates."""
        evidence = reverse_ais(
            AIS(20, 2000, 3, rows=ALL), VAE.model, VAE.guide, X[:3], transitions=20
        )
        backwards = evidence.log_prob.neg()
        inverse = type(evidence)(**{**vars(evidence), "log_prob": backwards})
        exact = MODEL.log_evidence(X[:3])
        significance.require_equal(ratio(inverse, -exact), 1.0)

    @pytest.mark.usefixtures("whole_pilot")
    @pytest.mark.parametrize("num_temperatures", [20, 60])
    def test_its_intervals_cover_or_it_says_so(self, num_temperatures, monkeypatch):
        """By the delta method 72 to 81% did at 20 temperatures, and most were "caution"."""
        monkeypatch.setattr(pilot, "_WARM_UP", 15)
        x = MODEL.simulate(1, seed=3).expand(300, -1)
        ais = AIS(num_temperatures, 16, 3, rows=ALL)
        found = reverse_ais(ais, VAE.model, VAE.guide, x, transitions=5)
        deviation = found.log_prob - MODEL.log_evidence(x).detach()
        covered = (deviation.abs() <= 1.96 * found.standard_error).double().mean()
        assert covered >= 0.9 or found.warning.startswith("not to be trusted")
        # The error stated is no less than the spread.
        assert found.standard_error.square().mean().sqrt() > 0.95 * deviation.std()

    def test_the_jackknife_by_hand(self):
        log_weight = torch.randn(5, 3, dtype=torch.float64) - 1000
        log_weight[0, 1] = -math.inf
        log_weight[1:, 2] = -math.inf
        left_out = torch.stack(
            [log_weight[[j for j in range(5) if j != k]].logsumexp(0) for k in range(5)]
        )
        variance = 4 / 5 * (left_out - left_out.mean(0)).square().sum(0)
        error = jackknife_error(log_weight)
        expected = variance.sqrt() * t.ppf(0.975, 4) / norm.ppf(0.975)
        torch.testing.assert_close(error[:2], expected[:2])
        assert error[2].item() == math.inf
        assert jackknife_error(log_weight[:1]).isnan().all()

    def test_the_log_normal_error_by_hand(self):
        log_weight = torch.randn(5, 3, dtype=torch.float64) * torch.tensor([0.1, 1.0, 3.0]) - 1000
        log_weight[0, 2] = -math.inf
        for datum, error in enumerate(log_normal_error(log_weight)[:2]):
            own = log_weight[:, datum]
            mean, variance = own.mean().item(), own.var().item()
            ends = [
                mean + variance / 2
                + sign * math.hypot(
                    norm.ppf(0.975) * math.sqrt(variance / 5),
                    variance / 2 * (4 / chi2.ppf(level, 4) - 1),
                )
                for sign, level in ((-1, 0.975), (1, 0.025))
            ]  # fmt: skip
            estimate = own.logsumexp(0).item() - math.log(5)
            further = max(estimate - ends[0], ends[1] - estimate)
            assert error.item() == pytest.approx(further / norm.ppf(0.975))
        # Weights of 0 are not log-normal: the jackknife's error stands alone.
        assert log_normal_error(log_weight)[2] == 0
        assert log_normal_error(log_weight[:1]).isnan().all()

    @pytest.mark.parametrize("variance", [0.1, 0.5, 1.5, 4.0])
    def test_few_log_normal_weights_are_covered(self, variance):
        """log E[W] = s^2/2; with 16 weights the jackknife covers 88% at s^2 = 1.5 and 77% at 4."""
        number = 4000
        normal = torch.randn(16, number, dtype=torch.float64)
        log_weight = normal * math.sqrt(variance)
        deviation = log_weight.logsumexp(0) - math.log(16) - variance / 2
        jackknife = jackknife_error(log_weight)
        error = jackknife.maximum(log_normal_error(log_weight))
        covered, without = (
            (deviation.abs() <= 1.96 * e).double().mean().item() for e in (error, jackknife)
        )
        assert covered > 0.95 - 4 * math.sqrt(0.95 * 0.05 / number)
        if variance > 1:
            assert without < 0.9

    @pytest.mark.usefixtures("short_pilot")
    def test_promises_nothing(self):
        evidence = reverse_ais(AIS(3, 2, 1), VAE.model, VAE.guide, X[:2], transitions=2)
        assert evidence.direction == "consistent"
        assert "no guaranteed upper bound" in evidence.method
        assert "missed backwards too" in " ".join(reverse_ais.__doc__.split())

    def test_needs_transitions(self):
        with pytest.raises(ValueError, match="transitions >= 1"):
            reverse_ais(AIS(3, 2, 1), VAE.model, VAE.guide, X, transitions=0)
