"""The data's rank among data that the model makes, and what it says of wrong models."""

import json
import math
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import binary_vae

from ppl_vae.diagnostics import STATISTICS, PredictiveCheck, predictive_check
from ppl_vae.likelihoods import Observed
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import Programs
from ppl_vae.randomness import seeded

LINEAR = LinearGaussian.random(4, 2, 0.7, seed=2)
REPLICATES = 23
"""Then p is a twelfth, two twelfths, ..., each with probability 1/12 of a continuous statistic."""
LOOSE = {"num_replicates": REPLICATES, "false_alarm": 0.5}


def standard_normal(x):
    """x ~ N(0, I), whatever z is."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1), obs=x)


def draw(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_data(seed):
    return LINEAR.simulate(10, seed=seed)


def binary_rows(seed):
    vae = binary_vae()
    with seeded(1000 + seed):
        return Programs(vae.model).simulate_data(torch.zeros(10, 6))[1]


def checks(model, guide, data, count):
    """Checks of independent data sets of the model."""
    return [predictive_check(model, guide, data(seed), seed=seed, **LOOSE) for seed in range(count)]


def p_values_of(found):
    """Of each statistic, over the checks."""
    return {n: torch.tensor([each.p_values[n] for each in found]) for n in found[0].p_values}


@cache
def linear_checks():
    """Without a guide: z of the discrepancy is fitted to the data, so that its p is not uniform."""
    return checks(LINEAR.vae().model, None, linear_data, 300)


# Annotations are checked in the other tests; in hundreds of checks they take a third of the time.
@pytest.mark.usefixtures("unchecked_types")
class TestDataOfTheModel:
    def test_p_values_of_continuous_statistics_are_uniform(self, significance):
        p_values = p_values_of(linear_checks())
        assert set(p_values) == {"mean", "standard_deviation", "skewness", "correlation"}
        significance = significance.split(3 * len(p_values))
        for values in p_values.values():
            for twelfths in (1, 3, 6):
                count = int((values < (twelfths + 0.5) / 12).sum())
                significance.require_count(count, 300, twelfths / 12)

    def test_p_values_of_binary_data_are_not_too_small(self, significance):
        vae = binary_vae()
        p_values = p_values_of(checks(vae.model, vae.guide, binary_rows, 200))
        assert set(p_values) >= {"mean", "zeros", "correlation", "squared_residual"}
        significance = significance.split(3 * len(p_values))
        for values in p_values.values():
            for twelfths in (1, 3, 6):
                # Ties make a p larger: only more small ones than a twelfth are a fault.
                count = int((values < (twelfths + 0.5) / 12).sum())
                significance.require_count(
                    max(count, round(200 * twelfths / 12)), 200, twelfths / 12
                )

    def test_findings_are_as_rare_as_stated(self, significance):
        alarms = sum(bool(found.findings) for found in linear_checks())
        # Bonferroni's rate is an upper limit.
        significance.require_count(max(alarms, 150), 300, 0.5)


SIGNS = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)
WRONG = {
    "mean": draw(200, 6) + 0.2,
    "standard_deviation": draw(200, 6) * math.sqrt(2),
    # Exponential: mean 1, variance 1 and skewness 2.
    "skewness": -torch.special.ndtr(draw(200, 6)).log() - 1,
    "zeros": draw(200, 6) * (draw(200, 6, seed=4) < 1) / 0.8413447**0.5,
    # Of opposite signs, so that the mean of all cells keeps its variance.
    "correlation": (SIGNS * draw(200, 1, seed=4) + draw(200, 6)) / math.sqrt(2),
}
"""Data of mean 0, variance 1 and no skewness, zeros or correlation, but for one of them."""


class TestWrongModels:
    @pytest.mark.parametrize("respect", WRONG)
    def test_the_statistic_of_that_respect_has_the_smallest_p(self, respect):
        found = predictive_check(standard_normal, None, WRONG[respect])
        p_values = dict(found.p_values)
        assert p_values.pop(respect) == pytest.approx(2 / 1000)
        assert min(p_values.values()) > 2 / 1000
        (finding,) = found.findings
        assert finding == f"{respect.replace('_', ' ')}: the data have more"

    def test_the_other_side(self):
        found = predictive_check(standard_normal, None, draw(200, 6) / math.sqrt(2))
        assert "standard deviation: the data have less" in found.findings

    def test_a_guide_that_ignores_the_data_leaves_larger_residuals(self):
        """p(x) is right, N(0, I): the discrepancy alone sees what z leaves."""
        x = draw(200, 4, seed=5)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(math.sqrt(0.5) * z, 0.5**0.5).to_event(1), obs=x)

        found = predictive_check(model, guide, x)
        # z of the prior: E(x - az)^2 = 1.5, where data of the decoder have 0.5.
        assert found.findings == ["squared residual: the data have more"]
        observed, replicated = found.to_frame().set_index("statistic").loc["squared_residual"][:2]
        assert observed == pytest.approx(1.5, rel=0.1)
        assert replicated == pytest.approx(0.5, rel=0.02)


class TestStatistics:
    def test_by_hand(self):
        x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [4.0, 5.0]], dtype=torch.float64)
        found = {name: float(statistic(x)) for name, statistic in STATISTICS.items()}
        assert found == pytest.approx(
            {
                "mean": 2.0,
                "standard_deviation": (2.0 + math.sqrt(7)) / 2,
                # Of 0, 2, 4 it is 0; of 1, 0, 5 the third moment is 6, the variance 14/3.
                "skewness": 6 / (14 / 3) ** 1.5 / 2,
                "zeros": 1 / 3,
                "correlation": 8 / math.sqrt(8 * 14),
            }
        )

    @pytest.mark.parametrize("shape", [(50, 7), (5, 20)])
    def test_correlation_of_all_pairs(self, shape):
        x = draw(*shape)
        correlations = np.corrcoef(x.numpy(), rowvar=False)[np.triu_indices(shape[1], 1)]
        expected = math.sqrt((correlations**2).mean())
        assert float(STATISTICS["correlation"](x)) == pytest.approx(expected)

    def test_features_that_do_not_vary_count_as_0(self):
        x = torch.cat([draw(9, 2), torch.full((9, 2), 0.1, dtype=torch.float64)], 1)
        r = np.corrcoef(x[:, :2].numpy(), rowvar=False)[0, 1]
        assert float(STATISTICS["correlation"](x)) == pytest.approx(math.sqrt(r**2 / 6))
        skewness = float(STATISTICS["skewness"](x[:, :2])) / 2
        assert float(STATISTICS["skewness"](x)) == pytest.approx(skewness)

    def test_what_is_the_same_everywhere_is_left_out(self):
        x = draw(20, 1)
        assert predictive_check(standard_normal, None, x).names == (
            "mean", "standard_deviation", "skewness"
        )  # fmt: skip
        with pytest.raises(ValueError, match="every statistic is the same"):
            predictive_check(standard_normal, None, x, statistics={"one": lambda x: 1.0})

    def test_of_your_own(self):
        largest = {"largest": lambda x: x.max()}
        x = draw(50, 3)
        x[7, 1] = 9.0
        found = predictive_check(standard_normal, None, x, statistics=largest)
        assert found.names == ("largest",)
        assert found.observed.tolist() == [9.0]
        assert found.findings == ["largest: the data have more"]
        assert "statistics=('largest',)" in found.identity.settings


class TestPValues:
    @pytest.mark.parametrize(
        ("above", "below", "expected"),
        [(0, 19, 0.1), (19, 0, 0.1), (1, 18, 0.2), (9, 10, 1.0), (19, 19, 1.0), (10, 12, 1.0)],
    )
    def test_count_the_data_among_the_sets(self, above, below, expected):
        replicated = torch.arange(19.0).double().unsqueeze(-1)
        found = PredictiveCheck(
            ("t",), torch.ones(1).double(), replicated, (above,), (below,), 5, 0.5
        )
        assert found.p_values == {"t": pytest.approx(expected)}
        assert bool(found.findings) == (expected <= 0.5)


class TestPrograms:
    def test_discrepancy_needs_a_guide_and_a_mean(self):
        def cauchy(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Cauchy(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

        x = draw(10, 2)
        assert "squared_residual" not in predictive_check(cauchy, guide, x, **LOOSE).names
        vae = LINEAR.vae()
        x = linear_data(0)
        assert "squared_residual" not in predictive_check(vae.model, None, x, **LOOSE).names
        assert "squared_residual" in predictive_check(vae.model, vae.guide, x, **LOOSE).names

    def test_a_guide_that_is_a_point(self):
        """Without noise in z the data's residual is one number."""
        vae = LINEAR.vae()

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Delta(LINEAR.posterior(x).mean, event_dim=1))

        x = linear_data(0)
        found = predictive_check(vae.model, guide, x, **LOOSE)
        fitted = LINEAR.posterior(x).mean @ LINEAR.weight.mT + LINEAR.bias
        expected = (x - fitted).square().mean().item()
        assert found.observed[found.names.index("squared_residual")].item() == pytest.approx(
            expected
        )

    def test_data_in_chunks(self, significance):
        """A set larger than a chunk has the moments of one that is not."""
        vae = LINEAR.vae()
        x = LINEAR.simulate(2500, seed=1)
        found = predictive_check(vae.model, vae.guide, x, **LOOSE)
        assert found.num_data == 2500
        frame = found.to_frame().set_index("statistic")
        mean = frame.loc["mean"]
        weight = LINEAR.weight.detach()
        covariance = weight @ weight.mT + 0.49 * torch.eye(4, dtype=torch.float64)
        error = math.sqrt(covariance.mean().item() / 2500)
        z = (mean["replicated"] - LINEAR.bias.mean().item()) / (error / math.sqrt(REPLICATES))
        assert abs(z) < significance.limit
        # At the exact posterior the residuals of data of the model are those of the noise.
        assert frame.loc["squared_residual", "observed"] == pytest.approx(0.49, rel=0.1)

    def test_images_are_flattened(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                probs = z.sigmoid().reshape(*z.shape[:-1], *[1] * (x.dim() - 1))
                pixels = dist.Bernoulli(probs.expand(*z.shape[:-1], *x.shape[1:]))
                pyro.sample("x", pixels.to_event(x.dim() - 1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))

        x = (draw(12, 2, 3) > 0).float()
        found = predictive_check(model, guide, x, **LOOSE)
        flat = predictive_check(model, guide, x.flatten(1), **LOOSE)
        assert "squared_residual" in found.names
        assert torch.equal(found.replicated, flat.replicated)
        assert torch.equal(found.observed, flat.observed)


class TestWhatItSays:
    def found(self, seed=0):
        vae = LINEAR.vae()
        return predictive_check(vae.model, vae.guide, linear_data(0), seed=seed, **LOOSE)

    def test_summary_is_json(self):
        found = self.found()
        summary = json.loads(json.dumps(found.summary()))
        assert summary["statistics"]["mean"]["p_value"] == found.p_values["mean"]
        assert summary["num_replicates"] == REPLICATES
        assert "replicated" not in summary
        row = found.to_frame().set_index("statistic").loc["correlation"]
        assert row["replicated_sd"] == pytest.approx(
            found.replicated[:, found.names.index("correlation")].std().item()
        )

    def test_text(self):
        x = draw(9, 2)
        found = predictive_check(standard_normal, None, x, num_replicates=300)
        assert "standard deviation" in str(found)
        last = "(false-alarm rate 0.05 over all; 300 replicated sets of N = 9)"
        assert str(found).endswith(f"nothing speaks against the model {last}")
        found = predictive_check(standard_normal, None, x + 3, num_replicates=300)
        assert str(found).endswith(f"mean: the data have more {last}")

    def test_figure(self):
        found = self.found()
        (panel,) = found.plot().axes
        shown = {text.get_text() for text in panel.texts}
        assert {name.replace("_", " ") for name in found.names} <= shown

    def test_seeds(self):
        first, again, other = (self.found(seed).replicated for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        state = torch.get_rng_state()
        self.found()
        assert torch.equal(state, torch.get_rng_state())


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "arguments", "message"),
        [
            (draw(1, 2), {}, "needs 2 data or more without missing cells, got 1 data"),
            (draw(9, 2), {"num_replicates": 238}, "num_replicates must be 239 or more for 5"),
            (draw(9, 2), {"false_alarm": 0.0}, "false_alarm must be between 0 and 1"),
            (draw(9, 2), {"statistics": {}}, "statistics takes one or more"),
            (draw(9, 2), {"statistics": {"t": lambda x: x.sum() / 0}}, "'t' of the data is no fin"),
            (draw(9, 2), {"statistics": {"t": lambda x: x[0]}}, "'t' of the data is no finite"),
        ],
    )
    def test_in_a_line(self, x, arguments, message):
        with pytest.raises(ValueError, match=message) as raised:
            predictive_check(standard_normal, None, x, **arguments)
        assert "\n" not in str(raised.value)

    def test_missing_cells(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                normal = dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1)
                pyro.sample("x", Observed(normal), obs=x)

        x = draw(9, 2)
        x[3, 1] = math.nan
        with pytest.raises(ValueError, match="got 9 data with 1 missing: leave out such rows"):
            predictive_check(model, None, x)
