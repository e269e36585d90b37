"""The gradient bench: its statistics, its references, and what it says of known gradients."""

import json
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import binary_data, binary_vae, param_guide, param_model
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from significance import Estimate
from torch import nn

from ppl_vae.diagnostics import (
    Interval,
    gradient_statistics,
    linear_gaussian_bench,
)
from ppl_vae.diagnostics._gradient_samples import (
    Groups,
    Loop,
    PathReference,
    ScoreReference,
    claim_of,
    target_of,
)
from ppl_vae.diagnostics._gradient_statistics import (
    Moments,
    bootstrap_moments,
    fit_slope,
    largest_innocent_z,
    median_signal_to_noise,
)
from ppl_vae.diagnostics._gradients import by_family
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    MIWAE,
    MMD,
    PIWAE,
    RWS,
    STL,
    VIMCO,
    AnalyticELBO,
    Beta,
    BetaTC,
    DReG,
    Objective,
    Reinforce,
    Renyi,
)
from ppl_vae.particles import Programs
from ppl_vae.reference_models import LinearGaussianProblem, ascent_direction
from ppl_vae.weights import log_mean_exp

PROBLEM = LinearGaussianProblem.near_the_optimum()
POSTERIOR = LinearGaussianProblem.near_the_optimum(perturbation=0, wider=1)


class OneWeightForTheBatch(Objective):
    """Each particle has the product of its weights over the batch."""

    def bound(self, particles):
        joint = log_mean_exp(particles.log_weight.sum(1, keepdim=True)) / particles.batch_size
        return joint.expand(particles.batch_size)


class ClaimsTooMuch(Objective):
    """IWAE-STL's gradient under the claim to be unbiased."""

    graph = "split"

    def bound(self, particles):
        return log_mean_exp(particles.log_weight)

    def surrogate(self, particles, bound):
        return IWAESTL(self.num_particles).surrogate(particles, bound)


def loop_of(problem):
    parameters = problem.copies(1)
    model, guide = problem.programs(parameters)
    groups = Groups.of(Programs(model, guide), problem.x, parameters, most_coordinates=10**9)
    return Loop(model, guide, problem.x, groups)


def normal_replicates(mean, sd, count=4000):
    noise = torch.randn(count, len(mean), dtype=torch.float64)
    return torch.tensor(mean, dtype=torch.float64) + noise * torch.tensor(sd).double()


def ratios(law, error=0.01):
    """K to ratios that follow a law, each with this relative error."""
    values = {K: law(K) for K in (1, 4, 16, 64, 256)}
    return {K: Interval(v, error * v, 0.9 * v, 1.1 * v) for K, v in values.items()}


class TestStatistics:
    def test_signal_to_noise_of_known_replicates(self, significance):
        sample = normal_replicates([0.5, 1.0, -4.0], [1.0, 0.5, 2.0])
        found = median_signal_to_noise(
            Moments.of(sample), bootstrap_moments(sample), torch.ones(3, dtype=torch.bool)
        )
        significance.require_equal(Estimate(found.value, found.error), 2.0)
        assert found.low < found.value < found.high
        # sd of |mean|/s: sqrt((1 + snr^2 / 2) / R), for one coordinate of ratio 2
        assert found.error < 1.5 * math.sqrt(3 / 4000)

    def test_the_bootstrap_error_is_that_of_a_repetition(self, significance):
        live = torch.ones(3, dtype=torch.bool)
        found = [
            median_signal_to_noise(Moments.of(sample), bootstrap_moments(sample), live)
            for sample in (normal_replicates([0.3] * 3, [1.0] * 3, 300) for _ in range(300))
        ]
        values = torch.tensor([interval.value for interval in found]).double()
        squares = (values - values.mean()).square()
        spread = Estimate(squares.mean().item(), squares.std().item() / 300**0.5)
        stated = torch.tensor([interval.error for interval in found]).double().square()
        significance.require_equal(
            spread, Estimate(stated.mean().item(), stated.std().item() / 300**0.5)
        )

    def test_no_signal_is_not_taken_for_one(self):
        sample = normal_replicates([0.0] * 40, [1.0] * 40)
        live = torch.ones(40, dtype=torch.bool)
        found = median_signal_to_noise(Moments.of(sample), bootstrap_moments(sample), live)
        assert not found.resolved
        # Uncorrected, the median ratio of pure noise is 0.67 / sqrt(R).
        assert found.value < 0.4 / 4000**0.5

    def test_more_replicates_than_blocks_change_no_moment(self):
        sample = normal_replicates([1.0, 2.0], [1.0, 3.0], 1234)
        moments, resampled = Moments.of(sample), bootstrap_moments(sample)
        torch.testing.assert_close(moments.mean, sample.mean(0))
        ratio = resampled.mean.std(0) / moments.error
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=0.2, rtol=0)

    @pytest.mark.parametrize("slope", [-0.5, 0.5])
    def test_slope_with_a_term_of_order_one_over_k(self, slope):
        found = fit_slope(ratios(lambda K: 0.3 * K**slope * math.exp(0.8 / K)))
        assert found.slope == pytest.approx(slope, abs=1e-10)
        assert found.particles == (4, 16, 64, 256)
        assert found.lack_of_fit == pytest.approx(1)

    def test_what_is_no_line_is_said_to_fit_badly(self):
        assert fit_slope(ratios(lambda K: 1 + math.log(K) ** 2)).lack_of_fit < 1e-3

    def test_ratios_lost_in_noise_are_left_out(self):
        curve = ratios(lambda K: K**-0.5)
        curve[256] = Interval(0.06, 0.03, 0.0, 0.1)
        assert fit_slope(curve).particles == (4, 16, 64)
        assert fit_slope({1: curve[1], 4: curve[4]}) is None

    def test_the_limit_is_bonferronis(self):
        assert largest_innocent_z(0.05, 1, 10**6) == pytest.approx(1.96, abs=1e-3)
        assert largest_innocent_z(0.05, 5, 10**6) == pytest.approx(2.576, abs=1e-3)
        assert largest_innocent_z(0.05, 1, 4) == pytest.approx(2.776, abs=1e-3)


class TestExactReference:
    def test_at_the_posterior_it_is_the_evidence(self):
        p = {n: v.clone().requires_grad_() for n, v in POSTERIOR.parameters.items()}
        elbo = POSTERIOR.exact_elbo(p)
        model = LinearGaussian(p["weight"].T, p["bias"], POSTERIOR.noise_scale)
        evidence = model.log_evidence(POSTERIOR.x).sum()
        torch.testing.assert_close(elbo, evidence)
        gradient = ascent_direction(-elbo, p)
        expected = ascent_direction(-evidence, {"weight": model.weight, "bias": model.bias})
        torch.testing.assert_close(gradient["weight"], expected["weight"].T)
        torch.testing.assert_close(gradient["bias"], expected["bias"])
        for name in ("guide_weight", "guide_bias", "guide_log_scale"):
            torch.testing.assert_close(gradient[name], torch.zeros_like(p[name]))

    def test_away_from_it_many_draws_agree(self, significance):
        model, guide = PROBLEM.programs(PROBLEM.copies(1))
        with torch.no_grad():
            particles = AnalyticELBO(50_000).draw(model, guide, PROBLEM.x)
            terms = AnalyticELBO(50_000).elbo_terms(particles).sum(1)
        estimate = Estimate(terms.mean().item(), (terms.std() / 50_000**0.5).item())
        significance.require_equal(estimate, PROBLEM.exact_elbo(PROBLEM.parameters).item())


@pytest.mark.parametrize("objective", [ELBO(3), DReG(4), RWS(3), VIMCO(2)], ids=repr)
def test_a_replicate_of_the_batch_is_a_step_of_the_loop(objective):
    loop = loop_of(PROBLEM)
    torch.manual_seed(3)
    batched = loop.groups.pick(PROBLEM.gradients(objective, 1))
    torch.manual_seed(3)
    torch.testing.assert_close(batched, loop.sample(objective, 1))


@pytest.mark.parametrize("objective", [ELBO(2), IWAE(3), VIMCO(3), RWS(2, phi="both")], ids=repr)
def test_replicates_of_one_batch_do_not_touch(objective):
    assert not PROBLEM.mixes_data(objective)


@pytest.mark.parametrize(
    "objective", [BetaTC(), MMD(weight=10.0), OneWeightForTheBatch(3)], ids=repr
)
def test_objectives_that_mix_data_are_told_and_looped(objective):
    assert PROBLEM.mixes_data(objective)
    bench = linear_gaussian_bench([objective], replicates=30)
    assert bench.rows[0].replicates == 30


class TestTargets:
    @pytest.mark.parametrize("problem", [PROBLEM, POSTERIOR], ids=["near", "posterior"])
    @pytest.mark.parametrize(
        ("objective", "target"),
        [
            (ELBO(3), "ELBO"),
            (AnalyticELBO(3), "ELBO"),
            (STL(3), "ELBO"),
            (Reinforce(3), "ELBO"),
            (ELBO(3, kl=Beta(4.0)), "ELBO"),
            (IWAE(1), "ELBO"),
            (IWAE(3), "L_K"),
            (DReG(3), "L_K"),
            (RWS(3), "L_K"),
            (PIWAE(3, num_bounds=2), "L_K"),
            (MIWAE(3, num_bounds=2), "its own bound"),
            (Renyi(3, alpha=0.5), "its own bound"),
        ],
        ids=repr,
    )
    def test_told_from_the_reported_value(self, problem, objective, target):
        model, guide = problem.programs(problem.copies(1))
        particles = objective.draw(model, guide, problem.x)
        assert target_of(objective, particles) == target

    @pytest.mark.parametrize("kind", [PathReference, ScoreReference])
    def test_references_are_unbiased(self, kind, significance):
        bench = linear_gaussian_bench([kind(ELBO(2))], replicates=40_000)
        significance = significance.split(28)
        for row in bench.rows:
            assert row.reference == "exact gradient of the ELBO"
            assert abs(row.bias.largest_z) < significance.limit

    @pytest.mark.parametrize(
        ("objective", "group", "claim"),
        [
            (IWAE(3), "phi", "unbiased"),
            (IWAESTL(3), "theta", "unbiased"),
            (IWAESTL(3), "phi", "biased by design"),
            (RWS(3), "phi", "follows another target"),
            (PIWAE(3, num_bounds=2), "phi", "follows another target"),
            (ELBO(1, kl=Beta(4.0)), "theta", "follows another target"),
            (CUBO(3, order=2.0), "phi", "biased by design"),
            (CUBO(3, order=2.0), "theta", "follows another target"),
        ],
        ids=repr,
    )
    def test_what_an_objective_says_of_its_gradient(self, objective, group, claim):
        assert claim_of(objective, group, shared=False) == claim

    def test_a_shared_parameter_has_both_gradients(self):
        assert claim_of(IWAESTL(3), "theta", shared=True) == "biased by design"
        assert claim_of(IWAE(3), "theta", shared=True) == "unbiased"


UNBIASED = [
    ELBO(2),
    AnalyticELBO(2),
    STL(2),
    IWAE(4),
    DReG(4),
    VIMCO(4),
    Reinforce(3),
    CIWAE(3, beta=0.3),
]


@pytest.fixture(scope="module")
def bench():
    objectives = [*UNBIASED, IWAESTL(4), RWS(4), ClaimsTooMuch(4)]
    return linear_gaussian_bench(objectives, replicates=20_000)


class TestBias:
    def test_none_of_unbiased_gradients(self, bench, significance):
        rows = [row for row in bench.rows if row.claim == "unbiased"]
        rows = [row for row in rows if row.objective != "ClaimsTooMuch"]
        assert len(rows) == 2 * len(UNBIASED) + 2
        significance = significance.split(sum(row.coordinates for row in rows))
        for row in rows:
            assert abs(row.bias.largest_z) < significance.limit, row
            assert row.bias.rms < 2 * row.bias.rms_error

    def test_found_where_it_is(self, bench, significance):
        row = bench.row("IWAESTL", 4, "phi")
        assert row.verdict == "biased by design, found"
        assert abs(row.bias.largest_z) > significance.split(12).limit
        assert bench.row("IWAESTL", 4, "theta").verdict == "no bias found"
        assert bench.row("RWS(phi=wake)", 4, "phi").verdict == "follows another target, found"

    def test_a_false_claim_is_shown_up(self, bench):
        assert bench.row("ClaimsTooMuch", 4, "phi").verdict == "BIASED, against its claim"
        assert "BIASED, against its claim" in str(bench)

    def test_the_rms_is_that_of_the_bias(self, bench):
        """IWAE-STL's phi lacks the score: sum_k v_k grad log q(z_k)."""
        loop, row = loop_of(PROBLEM), bench.row("IWAESTL", 4, "phi")
        torch.manual_seed(1)
        missing = [loop.groups.pick(PROBLEM.gradients(o, 40_000)) for o in (IWAESTL(4), DReG(4))]
        means = [sample["phi"].mean(0) for sample in missing]
        rms = (means[0] - means[1]).square().mean().sqrt().item()
        assert abs(row.bias.rms - rms) < 4 * row.bias.rms_error


@pytest.fixture(scope="module")
def at_posterior():
    return linear_gaussian_bench([STL(2), DReG(4), IWAE(4)], problem=POSTERIOR, replicates=500)


class TestAtThePosterior:
    @pytest.mark.parametrize(("name", "K"), [("STL", 2), ("DReG", 4)])
    def test_phi_has_no_variance(self, at_posterior, name, K):
        row = at_posterior.row(name, K, "phi")
        assert (row.live, row.variance.value, row.coordinates) == (0, 0.0, 12)
        assert math.isnan(row.signal_to_noise.value)
        assert row.verdict == "no bias found"
        assert not at_posterior.slopes

    def test_the_plain_gradient_has_some(self, at_posterior):
        row = at_posterior.row("IWAE", 4, "phi")
        assert row.live == 12
        assert row.variance.value > 0.1

    def test_no_number_is_no_number_in_json(self, at_posterior):
        text = json.dumps(at_posterior.summary(), allow_nan=False)
        rows = json.loads(text)["rows"]
        (row,) = [r for r in rows if (r["objective"], r["group"]) == ("DReG", "phi")]
        assert row["signal_to_noise"]["value"] is None
        assert " - " in str(at_posterior)


class TestSlopes:
    def test_iwae_loses_phis_signal(self, significance):
        bench = linear_gaussian_bench([IWAE(K) for K in (4, 16, 64)], replicates=(50_000, 2))
        slope = bench.slopes["IWAE", "phi"]
        significance = significance.split(2)
        significance.require_equal(Estimate(slope.slope, slope.error), -0.5)
        significance.require_less(Estimate(slope.slope, slope.error), 0.0)
        assert bench.agrees("IWAE", "phi")
        wrong = replace(bench, expected_slopes={("IWAE", "phi"): 0.5})
        assert wrong.agrees("IWAE", "phi") is False
        assert "+0.5, OUTSIDE" in str(wrong)

    def test_a_slope_lost_in_noise_is_said_to_be(self):
        objectives = [*(IWAE(K) for K in (16, 64)), *(DReG(K) for K in (16, 64))]
        bench = linear_gaussian_bench(objectives, replicates=300)
        assert ("IWAE", "phi") not in bench.slopes
        assert "IWAE phi: no slope" in str(bench)
        assert "DReG phi: no slope" not in str(bench)

    def test_dreg_gains_it(self, significance):
        bench = linear_gaussian_bench([DReG(K) for K in (4, 16, 64, 256)], replicates=(3000, 2))
        significance = significance.split(4)
        for group in ("theta", "phi"):
            slope = bench.slopes["DReG", group]
            estimate = Estimate(slope.slope, slope.error)
            significance.require_equal(estimate, 0.5)
            for other in (0.35, 0.65):
                with pytest.raises(AssertionError):
                    significance.require_equal(estimate, other)
            assert slope.lack_of_fit > 1e-3


class Shared(nn.Module):
    """``both`` is the decoder's weight and the guide's; ``idle`` is used by neither."""

    def __init__(self):
        super().__init__()
        self.both = nn.Parameter(torch.tensor([[1.0, 0.5, -0.3]]))
        self.prior = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.idle = nn.Parameter(torch.zeros(3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.both, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.both.T + self.bias, 1.0).to_event(1))


class TestAnyModel:
    def test_theta_and_phi_by_the_graph(self):
        owner = Shared()
        bench = gradient_statistics(owner.model, owner.guide, torch.ones(4, 3), [IWAE(2), DReG(2)])
        assert bench.parameters == {"theta": ("both", "prior"), "phi": ("both", "bias")}
        assert bench.shared == ("both",)
        assert "In both groups, with one gradient: both." in str(bench)
        assert {row.verdict for row in bench.rows} == {"no bias found"}
        assert bench.row("IWAE", 2, "theta").coordinates == 4
        assert bench.rows[0].reference == "pathwise gradient of L_K, 200 replicates"

    def test_pyro_params(self):
        bench = gradient_statistics(param_model, param_guide, torch.randn(5, 3), [ELBO()])
        assert set(bench.parameters["theta"]) == {"weight", "scale"}
        assert set(bench.parameters["phi"]) == {"shift", "spread"}

    def test_latents_without_a_path_have_a_reference_too(self, significance):
        shift = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", NonreparameterizedNormal(shift + 0 * x, 0.8).to_event(1))

        x = torch.ones(3, 1, dtype=torch.float64)
        bench = gradient_statistics(
            model, guide, x, [Reinforce(2), VIMCO(2)], replicates=150, parameters={"shift": shift}
        )
        assert bench.parameters == {"phi": ("shift",)}
        for row in bench.rows:
            assert row.reference.startswith("score-function gradient")
            assert abs(row.bias.largest_z) < significance.split(2).limit

    def test_nothing_is_changed_and_a_seed_repeats(self):
        vae, x = binary_vae(), binary_data(6)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        state = torch.get_rng_state()
        results = [
            gradient_statistics(vae.model, vae.guide, x, {"a": [IWAE(2)]}, replicates=10, seed=seed)
            for seed in (1, 1, 2)
        ]
        torch.testing.assert_close(torch.get_rng_state(), state)
        torch.testing.assert_close(dict(vae.state_dict()), before)
        assert all(parameter.grad is None for parameter in vae.parameters())
        first, again, other = (
            [replace(row, seconds=0.0) for row in result.rows] for result in results
        )
        assert first == again
        assert first != other

    def test_no_row_depends_on_which_others_there_are(self):
        vae, x = binary_vae(), binary_data(6)
        alone = gradient_statistics(vae.model, vae.guide, x, [DReG(3)], replicates=10)
        beside = gradient_statistics(vae.model, vae.guide, x, [ELBO(), DReG(3)], replicates=10)
        for group in ("theta", "phi"):
            one, two = (b.row("DReG", 3, group) for b in (alone, beside))
            assert one.signal_to_noise == two.signal_to_noise
            assert one.bias == two.bias

    def test_large_groups_are_sampled(self):
        vae, x = binary_vae(), binary_data(6)
        bench = gradient_statistics(
            vae.model, vae.guide, x, [ELBO()], replicates=5, most_coordinates=10
        )
        assert [row.coordinates for row in bench.rows] == [10, 10]

    def test_cost_and_names(self):
        vae, x = binary_vae(), binary_data(6)
        objectives = [ELBO(2), RWS(3, phi="sleep"), MIWAE(3, num_bounds=2)]
        bench = gradient_statistics(vae.model, vae.guide, x, objectives, replicates=5)
        assert bench.objectives == ("ELBO", "RWS(phi=sleep)", "MIWAE(num_bounds=2)")
        assert [row.decoder_evaluations for row in bench.rows[::2]] == [2, 6, 6]
        assert all(row.seconds > 0 for row in bench.rows)
        frame = bench.to_frame()
        assert list(frame["group"]) == ["theta", "phi"] * 3
        assert {"signal_to_noise", "signal_to_noise_low", "bias_rms", "verdict"} <= set(frame)


def test_a_coordinate_is_named_by_parameter_and_index():
    groups = loop_of(PROBLEM).groups
    assert groups.names["theta"][0] == "weight"
    assert groups.label("theta", 5) == "weight[0, 1, 1]"
    assert groups.label("theta", 8) == "bias[0, 0]"
    with pytest.raises(IndexError):
        Groups.label(replace(groups, coordinates={"theta": torch.tensor([999])}), "theta", 0)


class TestWrongUse:
    def test_objectives(self):
        with pytest.raises(ValueError, match="no objective"):
            by_family([])
        with pytest.raises(ValueError, match="twice with one K"):
            by_family([IWAE(2), IWAE(2)])

    @pytest.mark.parametrize("replicates", [1, (1, 5), (5, 1)])
    def test_replicates(self, replicates):
        with pytest.raises(ValueError, match="replicates must be 2 or more"):
            linear_gaussian_bench([ELBO()], replicates=replicates)

    def test_no_parameters(self):
        owner = Shared().requires_grad_(False)
        with pytest.raises(ValueError, match="depend on no parameter"):
            gradient_statistics(owner.model, owner.guide, torch.ones(4, 3), [ELBO()])

    @pytest.mark.parametrize(
        "sizes", [{"latent": 5}, {"latent": 0}, {"num_data": 0}, {"perturbation": -1}, {"wider": 0}]
    )
    def test_sizes(self, sizes):
        with pytest.raises(ValueError, match="needs"):
            LinearGaussianProblem.near_the_optimum(**sizes)


def test_a_claim_is_that_of_the_number_of_particles():
    assert claim_of(IWAESTL(1), "phi", shared=False) == "unbiased"
    assert claim_of(IWAESTL(2), "phi", shared=False) == "biased by design"
