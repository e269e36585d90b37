"""The automatic estimate: right where log p(x) is known, within what it states, in any stage."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evidence import AutomaticSampling
from ppl_vae.evidence._annealed_pilots import Shown
from ppl_vae.evidence._loop import Call
from ppl_vae.evidence._pilots import BLOCK, Goal, Work, plan_sampling
from ppl_vae.particles import ChunkSize, Programs


def linear_gaussian(dim, features, noise, seed):
    """W, and the exact log p(x) of x = W z + noise e."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(features, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    covariance = weight @ weight.T + noise**2 * torch.eye(features, dtype=torch.float64)
    return weight, torch.distributions.MultivariateNormal(
        torch.zeros(features, dtype=torch.float64), covariance
    )


class Pair:
    """A linear-Gaussian model, and a guide whose scale and mean are off."""

    def __init__(self, dim, scale=1.0, shift=0.0, features=10, noise=0.5, seed=0):
        self.weight, self.marginal = linear_gaussian(dim, features, noise, seed)
        self.dim, self.noise, self.scale, self.shift = dim, noise, scale, shift
        self.precision = (
            torch.eye(dim, dtype=torch.float64) + self.weight.T @ self.weight / noise**2
        )

    def model(self, x):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(len(x), self.dim, dtype=torch.float64)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            mean = z @ self.weight.T
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def guide(self, x):
        covariance = torch.linalg.inv(self.precision)
        sd = covariance.diagonal().sqrt()
        mean = x @ self.weight @ covariance / self.noise**2 + self.shift * sd / math.sqrt(self.dim)
        # The best normal with independent dimensions.
        scale = self.scale * self.precision.diagonal().rsqrt()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    def data(self, count, seed=1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.marginal.sample((count,))


def independent(scale):
    """A pair of independent dimensions: with scale 1 the guide is the posterior."""
    pair = Pair(5, scale)
    pair.weight = torch.zeros(10, 5, dtype=torch.float64)
    pair.weight[:5] = torch.diag(torch.linspace(0.5, 2, 5, dtype=torch.float64))
    pair.precision = torch.eye(5, dtype=torch.float64) + pair.weight.T @ pair.weight / 0.25
    return pair


def test_laplace_s_approximation_from_a_guide_that_is_a_point():
    """Exact where the posterior is normal, at a fraction of the cost of annealing."""
    pair = Pair(4, features=8, noise=0.2)

    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x[:, :4], event_dim=1))

    x = pair.data(5)
    found = AutomaticSampling()(pair.model, point, x)
    assert found.stage_counts == {"importance sampling, Laplace guide": 5}
    torch.testing.assert_close(found.log_prob, pair.marginal.log_prob(x), atol=1e-6, rtol=0)
    # Annealing from the prior takes 80,000 and more.
    assert float(found.evaluations.max()) < 2000


@pytest.mark.parametrize(
    ("dim", "scale", "shift"),
    [(3, 1.0, 0.0), (3, 0.3, 0.0), (3, 2.0, 0.0), (3, 1.0, 2.0), (10, 0.7, 0.0), (30, 1.0, 2.0)],
)
def test_exact_value_is_within_the_stated_doubt(dim, scale, shift):
    pair = Pair(dim, scale, shift)
    x = pair.data(100)
    found = AutomaticSampling()(pair.model, pair.guide, x)
    exact = pair.marginal.log_prob(x)
    half = 1.96 * found.standard_error + 1e-9
    inside = (found.log_prob - half <= exact) & (exact <= found.log_prob + half + found.doubt)
    # 100 data at 95%: fewer than 87 inside have a probability of 0.1%.
    assert int(inside.sum()) >= 87, (found.stage_counts, int(inside.sum()))
    assert found.warning is None
    assert found.mean_doubt < 0.05
    assert (found.mean - exact.mean().item()) == pytest.approx(0, abs=4 * found.monte_carlo_error)


class TestWays:
    """Which way a datum goes, and what it costs."""

    def test_few_latents_are_integrated(self):
        pair = Pair(2, scale=0.3)
        x = pair.data(10)
        found = AutomaticSampling()(pair.model, pair.guide, x)
        assert found.direction == "exact"
        assert found.stage_counts == {"quadrature": 10}
        torch.testing.assert_close(found.log_prob, pair.marginal.log_prob(x), atol=1e-5, rtol=0)

    def test_few_configurations_are_summed(self):
        logits = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
        weight = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(logits=logits.expand(len(x), 3)).to_event(1))
                pyro.sample("x", dist.Normal((z @ weight).unsqueeze(-1), 0.5).to_event(1), obs=x)

        x = torch.linspace(-1, 3, 5, dtype=torch.float64).unsqueeze(1)
        found = AutomaticSampling()(model, None, x)
        states = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0], dtype=torch.float64)])
        prior = torch.distributions.Bernoulli(logits=logits).log_prob(states).sum(1)
        likelihood = torch.distributions.Normal(states @ weight, 0.5).log_prob(x)
        exact = (prior + likelihood).logsumexp(1)
        assert found.stage_counts == {"enumeration": 5}
        torch.testing.assert_close(found.log_prob, exact, atol=1e-9, rtol=0)

    def test_the_posterior_as_a_guide_costs_a_pilot_and_a_block(self):
        pair = independent(1.0)
        found = AutomaticSampling()(pair.model, pair.guide, pair.data(20))
        assert found.stage_counts == {"importance sampling": 20}
        assert found.evaluations.tolist() == [500.0] * 20
        assert found.standard_error.max() < 1e-6

    def test_without_a_guide_it_anneals_from_the_prior(self):
        pair = Pair(3)
        x = pair.data(20)
        found = AutomaticSampling()(pair.model, None, x)
        assert found.stage_counts == {"annealing from the prior": 20}
        error = (found.log_prob - pair.marginal.log_prob(x)).abs()
        assert (error <= 4 * found.standard_error + found.doubt).all()

    def test_a_part_of_the_support_is_no_guide(self):
        """Guides on a part of the prior's support give way to a mixture with the prior."""

        def model(x):
            with pyro.plate("data", len(x)):
                zero = torch.zeros(len(x), 3, dtype=torch.float64)
                z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 2.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                zero = torch.zeros(len(x), 3, dtype=torch.float64)
                pyro.sample("z", dist.Uniform(zero - 0.5, zero + 0.5).to_event(1))

        x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        found = AutomaticSampling()(model, guide, x)
        exact = torch.distributions.Normal(0.0, math.sqrt(5)).log_prob(x).sum(1)
        assert {"defensive importance sampling"} >= set(found.stage_counts) - {
            "importance sampling, Laplace guide", "annealing from the prior",
        }  # fmt: skip
        off = (found.log_prob - exact).abs()
        assert (off <= 4 * found.standard_error + found.doubt + 1e-6).all()


def test_a_rare_large_weight_counts_beyond_the_variance_of_log_w():
    """Chains near normal are as their variance says; one large weight asks for more of them."""
    level = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    normal = 0.3 * torch.special.ndtri(level)
    rare = normal.clone()
    rare[-1] = 4.0
    shown = Shown(*(torch.ones(2, dtype=torch.float64) for _ in range(3)))
    shown.take(torch.tensor([0, 1]), torch.stack([normal, rare], 1), 128)
    torch.testing.assert_close(shown.variance, torch.stack([normal.var(), rare.var()]))
    assert shown.length.tolist() == [128, 128]
    # Relative variances of the weights themselves, over those of log-normal ones.
    weight = rare.exp() / rare.exp().mean()
    expected = weight.var() / torch.expm1(rare.var())
    torch.testing.assert_close(shown.excess, torch.stack([torch.ones_like(expected), expected]))
    assert expected > 10


def test_a_plan_of_many_draws_rests_on_many():
    """A tail that a thousand draws have not shown is looked for in a quarter of what is planned."""
    pair = independent(1.4)
    size, call = ChunkSize(16, None, whole=True), Call(None, 0)
    with call.open(Programs(pair.model, pair.guide), pair.data(20), size) as look, torch.no_grad():
        work = Work(look.programs, torch.as_tensor(look.x), look.data_at_once, look.replays)
        few = plan_sampling(work, Goal(doubt=0.05, error=0.05, most=10**6))
        many = plan_sampling(work, Goal(doubt=0.05, error=0.004, most=10**6))
    assert few.blocks.max() <= 16
    assert few.spent.tolist() == [4 * BLOCK] * 20
    large = many.cost.isfinite() & (many.blocks > 32)
    assert large.sum() >= 15
    # By other draws it may ask for more or less than the plan that the look was a quarter of.
    share = (many.spent / many.asked_for)[large]
    assert share.min() > 1 / 8


class TestLimits:
    """Budgets, plans, files."""

    pair = Pair(10, scale=2.0)
    x = pair.data(30)

    def test_no_more_than_it_may_spend_beyond_the_least(self):
        x = self.x[:4]
        free = AutomaticSampling()(self.pair.model, None, x)
        bounded = AutomaticSampling(max_evaluations=4 * 5000)
        found = bounded(self.pair.model, None, x)
        assert found.evaluations_per_datum < 5000 < free.evaluations_per_datum

    @pytest.mark.parametrize("each", [500, 1000, 2500, 5000])
    def test_a_budget_is_kept_where_there_is_a_guide(self, each):
        # Annealing would be its way: 12 times as much without a budget.
        pair = Pair(10, scale=0.3)
        found = AutomaticSampling(max_evaluations=30 * each)(pair.model, pair.guide, self.x)
        assert found.evaluations.sum() <= 30 * each * 1.1

    def test_a_budget_below_the_first_pilot_is_refused(self):
        auto = AutomaticSampling(max_evaluations=30 * 500 - 1)
        with pytest.raises(ValueError, match="give 15000 or more for 30 data"):
            auto(self.pair.model, self.pair.guide, self.x)
        with pytest.raises(ValueError, match="give 15000 or more for 30 data"):
            auto.plan(self.pair.model, self.pair.guide, self.x)

    def test_a_plan_keeps_to_the_budget(self):
        bounded = AutomaticSampling(max_evaluations=30 * 1000)
        assert bounded.plan(self.pair.model, self.pair.guide, self.x).evaluations <= 30 * 1000

    def test_a_plan_is_what_it_costs(self):
        auto = AutomaticSampling()
        plan = auto.plan(self.pair.model, self.pair.guide, self.x)
        found = auto(self.pair.model, self.pair.guide, self.x)
        assert plan.num_data == plan.num_sampled == 30
        assert plan.evaluations == pytest.approx(float(found.evaluations.sum()), rel=0.3)
        assert sum(plan.stages.values()) == pytest.approx(1)
        assert plan.seconds > 0
        assert "decoder evaluations" in str(plan)

    def test_it_goes_on_from_its_checkpoint(self, tmp_path):
        auto = AutomaticSampling(rows=160)
        whole = auto(self.pair.model, self.pair.guide, self.x)
        calls = 0

        def stopping(x):
            nonlocal calls
            calls += 1
            if calls > 60:
                raise KeyboardInterrupt
            return self.pair.guide(x)

        path = tmp_path / "unfinished.safetensors"
        with pytest.raises(KeyboardInterrupt):
            auto(self.pair.model, stopping, self.x, checkpoint=path)
        calls = -(10**9)
        again = auto(self.pair.model, stopping, self.x, checkpoint=path)
        torch.testing.assert_close(again.log_prob, whole.log_prob, atol=0, rtol=0)
        torch.testing.assert_close(again.stage, whole.stage, atol=0, rtol=0)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"target": 0.0}, "target above 0, got 0.0"),
            ({"error": -1.0}, "error above 0, got -1.0"),
            ({"max_seconds": math.inf}, "max_seconds above 0, got inf"),
            ({"most": 0}, "needs most >= 1"),
        ],
    )
    def test_wrong_settings_are_one_line(self, settings, message):
        with pytest.raises(ValueError, match=message):
            AutomaticSampling(**settings)
