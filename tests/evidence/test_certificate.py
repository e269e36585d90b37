"""Certificate of an automatic estimate: both sides hold log p(x), and data that are easier show."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from significance import mean_of

from ppl_vae.evidence import AutomaticSampling
from ppl_vae.evidence._certificate import _mostly_above, upper_bound
from ppl_vae.likelihoods import Observed

from .test_automatic import Pair

NUM = 120


class Narrow:
    """A guide on a part of the prior's support: a tenth of the draws come from the prior."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(len(x), 3, dtype=torch.float64)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 2.0).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(len(x), 3, dtype=torch.float64)
            pyro.sample("z", dist.Uniform(zero - 2.0, zero + 2.0).to_event(1))

    @staticmethod
    def data(count):
        generator = torch.Generator().manual_seed(0)
        return math.sqrt(5) * torch.randn(count, 3, dtype=torch.float64, generator=generator)


def exact_of(pair, x):
    if isinstance(pair, Pair):
        return pair.marginal.log_prob(x)
    return torch.distributions.Normal(0.0, math.sqrt(5)).log_prob(x).sum(1)


CASES = {
    "importance sampling": (Pair(3, 2.0), True, {}),
    "annealing from the refined guide": (Pair(3, 0.3), True, {}),
    "annealing from the prior": (Pair(3), False, {"most": 3000}),
    "defensive importance sampling": (Narrow, True, {"target": 0.5}),
}


@pytest.mark.parametrize("stage", CASES)
def test_both_sides_hold_log_p(stage, significance):
    """E[w] = p(x) below and E[1 / upper] = 1 / p(x), whichever stage a datum ends at."""
    pair, guided, settings = CASES[stage]
    guide = pair.guide if guided else None
    found = AutomaticSampling(**settings).certify(
        pair.model, guide, pair.data(30), num_simulated=NUM
    )
    assert stage in found.lower.stage_counts
    assert found.upper.stage_counts == found.lower.stage_counts
    exact = exact_of(pair, found.x)
    significance = significance.split(2)
    significance.require_equal(mean_of((found.lower.log_prob - exact).exp()), 1.0)
    significance.require_equal(mean_of((exact - found.upper.log_prob).exp()), 1.0)
    # Both sides share all draws but one.
    assert found.gap_error < 0.5 * (found.lower.log_prob - exact).std().item()
    assert found.gap > -3 * found.gap_error


def test_a_gap_is_what_too_few_draws_leave():
    pair = Pair(3)
    few, many = (
        AutomaticSampling(most=most).certify(pair.model, None, pair.data(5), num_simulated=80)
        for most in (3000, 20_000)
    )
    low = (exact_of(pair, few.x) - few.lower.log_prob).mean().item()
    assert few.gap > low > 0
    assert few.gap > 4 * many.gap
    assert few.gap > 4 * few.gap_error


def test_the_exact_draw_takes_every_place():
    log_weight = torch.tensor([[0.2], [1.0], [-math.inf], [2.0]], dtype=torch.float64)
    exact = torch.tensor([0.7], dtype=torch.float64)
    places = torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)
    inverse = 0.0
    for k in range(4):
        replaced = log_weight.clone()
        replaced[k] = exact
        inverse += places[k].item() / replaced.exp().mean().item()
    found = upper_bound(log_weight, exact, places)
    assert found.item() == pytest.approx(-math.log(inverse))


class Amortised(Pair):
    """A guide that is right for usual data, and whose mean stays behind for others."""

    def guide(self, x):
        covariance = torch.linalg.inv(self.precision)
        mean = x.clamp(-2.5, 2.5) @ self.weight @ covariance / self.noise**2
        scale = self.precision.diagonal().rsqrt()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))


class TestLikeness:
    """Whether simulated data are as hard as the real ones."""

    def test_harder_data_are_told(self):
        pair = Amortised(5)
        x = 3 * pair.data(40)
        auto = AutomaticSampling()
        found = auto.certify(pair.model, pair.guide, x, estimate=auto(pair.model, pair.guide, x))
        likeness = found.likeness
        assert likeness.easier
        assert likeness.effective[0] > 2 * likeness.effective[1]
        assert min(likeness.evaluations) > 500
        assert "simulated data are easier than the real ones, of which the gap says less" in str(
            found
        )
        assert found.summary()["likeness"]["easier"] is True

    @pytest.mark.parametrize(("shift", "above"), [(0.0, False), (0.3, False), (1.5, True)])
    def test_ranks_tell_what_is_mostly_above(self, shift, above):
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (20, 64))
        assert _mostly_above((a + shift).exp(), b.exp()) is above
        # Values that are equal say nothing.
        assert not _mostly_above(torch.ones(20), torch.ones(64))

    def test_the_model_s_own_data_are_not(self):
        pair = Pair(3, 2.0)
        found = AutomaticSampling().certify(pair.model, pair.guide, pair.data(64))
        assert not found.likeness.easier
        assert found.likeness.evaluations is None
        assert "no easier than the real ones: of 250 draws" in str(found)

    def test_without_guide_or_estimate_nothing_is_compared(self):
        pair = Pair(3)
        auto = AutomaticSampling(most=1000)
        found = auto.certify(pair.model, None, pair.data(4), num_simulated=2)
        assert found.likeness is None
        assert found.summary()["likeness"] is None


def test_what_is_exact_needs_none():
    pair = Pair(2)
    assert AutomaticSampling().certify(pair.model, pair.guide, pair.data(3)) is None


def test_a_datum_costs_no_more_than_a_real_one_may():
    pair = Pair(10, 2.0)
    auto = AutomaticSampling(max_evaluations=30 * 5000)
    found = auto.certify(pair.model, None, pair.data(30), num_simulated=10)
    assert found.lower.evaluations_per_datum < 5000


def test_simulated_data_lack_the_cells_that_real_ones_do():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", Observed(dist.Normal(z, 1.0).to_event(1)), obs=x)

    def guide(x):
        mean, scale = x.nan_to_num() / 2, torch.where(x.isnan(), 1.0, 0.5**0.5)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    x = torch.zeros(6, 3, dtype=torch.float64)
    x[:, 1] = math.nan
    found = AutomaticSampling().certify(model, guide, x, num_simulated=8)
    assert found.x.isnan().sum(0).tolist() == [0, 8, 0]
    # The guide is the posterior of what is observed.
    assert abs(found.gap) < 1e-5


@pytest.mark.parametrize("count", [0, -1])
def test_it_needs_data(count):
    pair = Pair(3)
    with pytest.raises(ValueError, match="num_simulated >= 1"):
        AutomaticSampling().certify(pair.model, pair.guide, pair.data(3), num_simulated=count)
