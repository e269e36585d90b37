"""Trust in estimates: what is said of it, what it would cost, and the doubt of a difference."""

import math
from dataclasses import replace

import pytest
import torch

from ppl_vae.comparison import compare, format_comparison, lowness
from ppl_vae.comparison._crossed import crossed_mean, paired_tests
from ppl_vae.comparison._trust import average_doubt, trust_in, trust_line
from ppl_vae.evidence import STAGES, Evidence, MeanDoubt, doubt_of, evaluations_needed
from ppl_vae.evidence._doubt import doubt_by_normal, doubt_by_tail
from ppl_vae.weights import RunningWeights

NUM_DATA, REPLICATES = 200, 400


def evidence(
    bias, doubt, *, log_prob=0.0, error=0.1, direction="lower", stage=None, evaluations=100
):
    """Estimates of data with this bias and doubt, numbers or one of each datum."""
    count = max(len(each) for each in (bias, doubt, log_prob) if isinstance(each, torch.Tensor))
    values = {
        name: torch.as_tensor(value, dtype=torch.float64).expand(count).clone()
        for name, value in (
            ("log_prob", log_prob), ("standard_error", error), ("bias", bias), ("doubt", doubt),
            ("effective_sample_size", 50.0), ("evaluations", float(evaluations)),
        )
    }  # fmt: skip
    if stage is not None:
        values["stage"] = torch.full((count,), float(STAGES.index(stage)))
    return Evidence(**values, num_particles=100, direction=direction, method="method", seconds=1.0)


def doubt_of_difference(a, b, seeds):
    return average_doubt([doubt_of(a[seed]).minus(doubt_of(b[seed])) for seed in seeds])


TEN = torch.zeros(10, dtype=torch.float64)


class TestCost:
    """Decoder evaluations that bring every doubt below so many nats."""

    def test_importance_weights_take_the_square(self):
        found = evidence(0.0, TEN + 0.15, evaluations=1000)
        assert evaluations_needed(found, 0.05) == pytest.approx(9000)

    def test_annealing_takes_as_many_times_more_temperatures(self):
        found = evidence(0.0, TEN + 0.15, stage="annealing from the prior", evaluations=1000)
        assert evaluations_needed(found, 0.05) == pytest.approx(3000)

    def test_data_below_it_cost_what_they_cost(self):
        doubt = torch.tensor([0.01] * 9 + [0.1], dtype=torch.float64)
        assert evaluations_needed(evidence(0.0, doubt), 0.05) == pytest.approx(90 + 40)

    def test_what_has_no_bound_has_no_cost(self):
        doubt = TEN.clone()
        doubt[:2] = math.inf
        assert evaluations_needed(evidence(0.0, doubt), 0.05) == math.inf
        doubt[0] = 0.0
        assert evaluations_needed(evidence(0.0, doubt), 0.05) == pytest.approx(100)

    def test_exact_estimates_need_no_more(self):
        found = evidence(0.0, TEN + math.inf, direction="exact")
        assert evaluations_needed(found, 0.05) == pytest.approx(100)


class TestLine:
    """The line at the top."""

    good = trust_in([evidence(0.01, TEN + 0.0123)])
    low = trust_in([evidence(0.1, TEN + 0.5, evaluations=10_000)] * 2)
    unbounded = trust_in([evidence(math.inf, TEN + math.inf)])
    exact = trust_in([evidence(math.nan, TEN + math.nan, direction="exact")])

    def test_all_is_well(self):
        line = trust_line({"a": self.good, "b": self.exact}, [])
        assert (
            line
            == f"all estimates are trusted to {math.ceil(1000 * self.good.doubt) / 1000:.3f} nats"
        )

    def test_what_would_help_and_what_would_not(self):
        line = trust_line({"a": self.good, "b": self.low, "c": self.unbounded}, ["b", "c"])
        assert line.startswith(
            f"in doubt: b (low by up to {self.low.doubt:.2g} nats; about 20M decoder evaluations "
            "in place of 200k bring that below 0.05), c (it cannot be bounded); the others are "
            "trusted to 0.0"
        )

    def test_more_than_a_line_holds(self):
        arms = {f"arm {n}": self.unbounded for n in range(5)}
        assert trust_line(arms, list(arms)).endswith("arm 2 (it cannot be bounded), 2 more")

    def test_a_few_data_without_a_bound_are_counted(self):
        doubt = torch.zeros(200, dtype=torch.float64)
        doubt[:9] = math.inf
        found = trust_in([evidence(0.0, doubt), evidence(0.0, doubt - doubt.nan_to_num(posinf=0))])
        assert found.unbounded == pytest.approx(0.045)
        assert trust_line({"a": found}, ["a"]) == "in doubt: a (4.5% of its data cannot be bounded)"

    def test_data_that_the_doubt_leaves_out_are_told(self):
        """So few that chance explains them: the arm is not in doubt, and they have no bound."""
        doubt = torch.zeros(200, dtype=torch.float64)
        doubt[:2] = math.inf
        found = evidence(0.0, doubt)
        assert "95% below 0.000 beside 2 of the data, which nothing bounds" in str(found)
        assert found.warning is None
        assert trust_line({"a": trust_in([found]), "b": self.exact}, []) == (
            "all estimates are trusted to 0.000 nats, beside up to 1.0% of an arm's data, which "
            "nothing bounds"
        )

    def test_other_reasons_stand_below(self):
        assert trust_line({"a": self.good}, ["a"]) == "in doubt: a (the reason stands below)"

    def test_shares_of_stages_are_means_over_seeds(self):
        found = trust_in(
            [evidence(0.0, TEN, stage="annealing from the prior"),
             evidence(0.0, TEN, stage="importance sampling")]
        )  # fmt: skip
        assert found.stages == pytest.approx(
            {"annealing from the prior": 0.5, "importance sampling": 0.5}
        )
        assert found.evaluations == 100
        assert found.total == 2000


class TestDifference:
    """The doubt of a difference is smaller than that of either arm where both are low alike."""

    def test_what_both_are_low_by_cancels(self):
        a = {0: evidence(0.3, TEN + 0.3), 1: evidence(0.3, TEN + 0.3)}
        assert doubt_of_difference(a, a, [0, 1])[:2] == pytest.approx((0.0, 0.0))
        b = {0: evidence(0.1, TEN + 0.1), 1: evidence(0.3, TEN + 0.3)}
        assert doubt_of_difference(a, b, [0, 1])[:2] == pytest.approx((0.1, 0.0))
        assert doubt_of_difference(b, a, [0, 1])[:2] == pytest.approx((-0.1, 0.0))

    def test_an_arm_without_any_bound_may_be_as_high_as_the_other(self):
        """One model under a guide that misses a part of its support: 0.7 nats low, or more."""
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(100, generator=generator, dtype=torch.float64)
        good = {0: evidence(0.0, TEN.repeat(10), log_prob=noise)}
        low = {0: evidence(math.inf, TEN.repeat(10) + math.inf, log_prob=noise.flip(0) - 0.7)}
        found = compare({"good": good, "low": low})
        ((pair, test),) = found.tests.items()
        assert pair == ("low", "good")
        assert -1 < test.simultaneous[0] < -0.6
        assert test.simultaneous[1] == math.inf
        assert test.verdict(pair) == "no difference shown"
        ((pair, test),) = compare({"low": low, "good": good}).tests.items()
        assert test.verdict(pair) == "no difference shown"
        text = format_comparison(found, "title")
        assert "in doubt: low (it cannot be bounded)" in text
        assert text.splitlines()[-1] == f"low: {found.warnings['low']}."

    def test_no_seeds_are_planned_where_they_cannot_close_the_interval(self):
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(4, 100, generator=generator, dtype=torch.float64)
        hundred = TEN.repeat(10)
        good = {s: evidence(0.0, hundred, log_prob=noise[s]) for s in (0, 1)}
        unbounded = {s: evidence(math.inf, hundred + math.inf, log_prob=noise[s]) for s in (0, 1)}
        low = {s: evidence(0.9, hundred + 0.9, log_prob=noise[s]) for s in (0, 1)}
        for arm in (unbounded, low):
            below = {s: replace(each, log_prob=each.log_prob - 0.7) for s, each in arm.items()}
            for arms in ({"good": good, "poor": below}, {"poor": below, "good": good}):
                found = compare(arms)
                ((pair, power),) = found.power.items()
                assert found.verdict(pair) == "no difference shown"
                assert (power.more_seeds, power.more_data, power.power_now) == (None, None, 0.0)
                assert "no number of seeds can: poor may be low by" in format_comparison(found, "")
                assert "more seed(s)" not in format_comparison(found, "")

    def test_an_interval_open_on_the_far_side_can_be_shown_by_seeds(self):
        """The second arm lies above the first whatever the second is low by."""
        generator = torch.Generator().manual_seed(0)
        noise = 0.5 * torch.randn(2, 100, generator=generator, dtype=torch.float64)
        spread = torch.tensor([[0.2], [-0.2]], dtype=torch.float64)
        hundred = TEN.repeat(10)
        good = {s: evidence(0.0, hundred, log_prob=noise[s]) for s in (0, 1)}
        better = {
            s: evidence(math.inf, hundred + math.inf, log_prob=noise[s] + 0.15 + spread[s])
            for s in (0, 1)
        }
        found = compare({"good": good, "better": better})
        ((pair, power),) = found.power.items()
        assert pair == ("better", "good")
        assert found.interval(pair)[1] == math.inf
        assert found.interval(pair)[0] < 0
        assert power.more_seeds > 0
        assert "more seed(s) of each" in format_comparison(found, "")

    def test_what_hides_a_difference(self):
        assert MeanDoubt(0.0, 0.0, below=True).hides(0.3)
        assert not MeanDoubt(0.0, 0.0, above=True).hides(0.3)
        assert MeanDoubt(0.0, 0.0, above=True).hides(-0.3)
        assert MeanDoubt(-0.4, 0.0).hides(0.3)
        assert not MeanDoubt(-0.2, 0.0).hides(0.3)
        assert not MeanDoubt(0.4, 0.0).hides(0.3)
        assert MeanDoubt(0.4, 0.0).hides(-0.3)
        # Equal arms are told as such.
        assert not MeanDoubt(0.0, 0.0).hides(0.0)

    def test_what_is_not_known_of_single_data_adds_up_as_squares(self):
        a = {0: evidence(0.1, TEN + 0.4)}
        b = {0: evidence(0.1, TEN + 0.5)}
        shift, rise, fall, *_ = doubt_of_difference(a, b, [0])
        assert shift == pytest.approx(0.0)
        # Neither is higher than it is estimated: b falls by no more than the 0.1 that it rises.
        assert rise == pytest.approx(math.hypot(0.3 / math.sqrt(10), 0.1))
        assert fall == pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 10))

    def test_an_arm_that_is_low_is_not_high(self):
        """Half of 16 nats above, however little is known of how much more."""
        a, b = {0: evidence(0.5, TEN + 5000.0)}, {0: evidence(0.0, TEN * 0)}
        low, high = doubt_of_difference(a, b, [0]).widened(16.0, 15.0, 17.0)
        assert low == 15.0
        assert high > 1500
        low, high = doubt_of_difference(b, a, [0]).widened(-16.0, -17.0, -15.0)
        assert low < -1500
        assert high == -15.0

    def test_exact_arms_and_those_that_do_not_tell_add_none(self):
        exact = {0: evidence(9.0, TEN + 9.0, direction="exact")}
        silent = {0: replace(evidence(0.0, TEN), bias=None, doubt=None)}
        assert doubt_of_difference(exact, silent, [0]) == MeanDoubt(0.0, 0.0)
        unbounded = {0: evidence(0.0, TEN + math.inf)}
        assert doubt_of_difference(exact, unbounded, [0]) == MeanDoubt(0.0, 0.0, below=True)

    def test_an_interval_holds_the_plain_one(self):
        found = MeanDoubt(0.5, 0.4).widened(1.0, 0.7, 1.3)
        assert found == pytest.approx((0.7, 1.5 + 0.5))
        found = MeanDoubt(-0.5, 0.0, 0.4).widened(1.0, 0.7, 1.3)
        assert found == pytest.approx((0.5 - 0.5, 1.3))
        assert MeanDoubt(0.0, 0.0).widened(1.0, 0.7, 1.3) == (0.7, 1.3)


def chains(variance, count):
    """Log means of annealed weights, their errors and doubts; log p(x) is 0."""
    noise = torch.randn(count, 8000, dtype=torch.float64)
    log_weight = math.sqrt(variance) * noise - variance / 2
    return RunningWeights.of(log_weight), doubt_by_normal(log_weight)


def draws(dim, scale, count):
    """As :func:`chains`, of a normal posterior under a normal guide of another scale."""
    log_weight = torch.zeros(count, 1500, dtype=torch.float64)
    for _ in range(dim):
        noise = torch.randn(count, 1500, dtype=torch.float64)
        log_weight += 0.5 * noise.square() * (1 - scale**2) + math.log(scale)
    weights = RunningWeights.of(log_weight)
    return weights, doubt_by_tail(weights)


def sample(pool, truth):
    weights, found = pool
    rows = torch.randint(len(weights.log_mean), (len(truth),))
    return evidence(
        found.bias[rows], found.doubt[rows],
        log_prob=truth + weights.log_mean[rows], error=weights.standard_error[rows],
    )  # fmt: skip


def coverage(a, b, seeds, spread):
    """Share of intervals of a difference of 0 that hold it, and how much wider doubt makes them."""
    means, doubts = [], []
    for _ in range(REPLICATES):
        truth = torch.randn(NUM_DATA, dtype=torch.float64)
        apart = spread * torch.randn(NUM_DATA, dtype=torch.float64)
        arms = [
            {seed: sample(pool, values) for seed in range(seeds)}
            for pool, values in ((a, truth + apart), (b, truth))
        ]
        values, errors = (
            [torch.stack([getattr(arm[seed], name) for seed in range(seeds)]) for arm in arms]
            for name in ("log_prob", "standard_error")
        )
        means.append(crossed_mean(values[0] - values[1], errors[0] ** 2 + errors[1] ** 2))
        doubts.append(doubt_of_difference(*arms, range(seeds)))
    inside, wider = 0, 0.0
    for mean, test, doubt in zip(means, paired_tests(means, 0.95), doubts, strict=True):
        low, high = doubt.widened(mean.mean, *test.interval)
        inside += low <= 0 <= high
        wider += (high - low) / (test.interval[1] - test.interval[0]) / REPLICATES
    return inside / REPLICATES, wider


@pytest.mark.parametrize(
    ("case", "seeds", "spread"),
    [("even", 1, 0.02), ("even", 3, 0.2), ("rough", 1, 0.02), ("light tails", 1, 0.02)],
)
def test_intervals_of_arms_that_are_low_alike_cover(case, seeds, spread):
    """95% is 95%, where the sum of both arms' doubts made twice as wide an interval of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pool = {
            "even": lambda: chains(0.5, 32),
            "rough": lambda: chains(1.5, 32),
            "light tails": lambda: draws(5, 1.5, 250),
        }[case]()
        covered, wider = coverage(pool, pool, seeds, spread)
    # 400 replicates of 95% have a standard error of 1.1%.
    assert 0.92 <= covered <= 0.985
    assert wider < 1.25


def test_an_arm_that_is_low_alone_is_covered_from_one_side():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        covered, wider = coverage(chains(1.5, 32), draws(5, 1.5, 250), 1, 0.02)
    # The estimate stays within the interval, whose far end is then never missed.
    assert covered >= 0.93
    assert wider > 1.1


class TestLowness:
    """Estimates by another method beside the trusted ones."""

    def test_it_is_the_paired_difference_over_shared_seeds(self):
        trusted = {s: evidence(0.0, TEN, log_prob=TEN - s, error=0.03) for s in range(3)}
        other = {s: evidence(0.0, TEN, log_prob=TEN - s - 0.2, error=0.04) for s in (0, 2, 5)}
        found = lowness(trusted, other)
        assert found.low_by == pytest.approx(0.2)
        assert found.log_prob == pytest.approx(-1.2)
        assert found.num_seeds == 2
        assert found.low_by_error == pytest.approx(0.05 / math.sqrt(20))
        assert found.monte_carlo_error == pytest.approx(0.04 / math.sqrt(20))

    def test_without_a_shared_seed_there_is_none(self):
        each = evidence(0.0, TEN)
        assert lowness({0: each}, {1: each}) is None

    def test_it_stands_in_columns_beside(self):
        arms = {
            arm: {s: evidence(0.0, TEN, log_prob=torch.arange(10) / 9 - s) for s in range(2)}
            for arm in ("a", "b")
        }
        low = {s: evidence(0.0, TEN, log_prob=torch.arange(10) / 9 - s - 0.25) for s in range(2)}
        beside = {"iwae-5000": {"a": lowness(arms["a"], low)}}
        lines = format_comparison(compare(arms, replicates=2), "title", beside=beside).splitlines()
        header, a, b = lines[4:7]
        assert header.endswith("iwae-5000  low by")
        assert a.split()[-2:] == ["-0.250", "0.250"]
        assert b.split()[-2:] == ["-", "-"]
        assert "low by: log p(x) minus the estimate beside it, by datum." in lines
