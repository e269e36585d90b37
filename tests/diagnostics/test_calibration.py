"""Ranks are uniform under the posterior, and say how another guide is wrong."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_vae
from significance import Estimate as Measured

from ppl_vae.diagnostics import Calibration, simulation_based_calibration
from ppl_vae.linear_gaussian import LinearGaussian

MODEL = LinearGaussian.random(6, 3, 0.8, seed=2)
X = MODEL.simulate(1)
SCALE = torch.linalg.inv(MODEL.posterior_precision.detach()).diagonal().sqrt()


def moved(shift=0.0, factor=1.0, dimensions=3):
    """The posterior, moved by so many of its standard deviations and stretched, of some dims."""
    some = torch.arange(3) < dimensions

    def guide(x):
        p = MODEL.posterior(x)
        stretch = torch.where(some, factor, 1.0).to(x).diag()
        loc = p.mean + torch.where(some, shift, 0.0) * SCALE
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=stretch @ p.scale_tril))

    return guide


def calibrate(guide, **kwargs):
    return simulation_based_calibration(MODEL.vae().model, guide, X, **kwargs)


class TestTheExactPosterior:
    def test_is_calibrated(self):
        result = calibrate(moved())
        assert result.calibrated
        assert "nothing speaks against calibration" in str(result)

    def test_either_order_of_two_sites(self):
        chain = LinearChain()
        for guide in (chain.top_down, chain.bottom_up):
            result = simulation_based_calibration(chain.model, guide, chain.simulate(1))
            assert result.calibrated
            assert set(result.names) == {"u[0]", "u[1]", "v[0]", "v[1]", "v[2]"}

    # Annotations are checked in the other tests; in a hundred calls they take a third of the time.
    @pytest.mark.usefixtures("unchecked_types")
    def test_false_alarms_are_as_rare_as_stated(self, significance):
        alarms = sum(
            not calibrate(moved(), num_simulations=200, false_alarm=0.2, seed=seed).calibrated
            for seed in range(150)
        )
        # Bonferroni's rate is an upper limit: only more alarms than it allows are a fault.
        significance.require_count(max(alarms, 30), 150, 0.2)

    def test_ranks_have_the_moments_of_the_uniform(self, significance):
        result = calibrate(moved(), num_simulations=4000, num_draws=19)
        significance = significance.split(6)
        for index, test in enumerate(result.tests):
            ranks = result.ranks[:, index].double()
            error = math.sqrt((20**2 - 1) / 12 / 4000)
            significance.require_equal(Measured(ranks.mean().item(), error), 9.5)
            location = Measured(test.location.value, test.location.standard_error)
            significance.require_equal(location, 0.0)

    @pytest.mark.parametrize("probability", [0.5, 0.9])
    def test_coverage(self, probability, significance):
        result = calibrate(moved(), num_simulations=4000)
        for coverage in result.coverage(probability):
            inside = round(coverage.value * 4000)
            significance.split(3).require_count(inside, 4000, probability)


class TestWrongGuides:
    @pytest.mark.parametrize(
        ("shift", "factor", "finding"),
        [
            (0, 0.5, ["too narrow"]),
            (0, 2.0, ["too wide"]),
            (0.5, 1.0, ["shifted: too high"]),
            (-0.5, 1.0, ["shifted: too low"]),
            (2.0, 1.0, ["shifted: too high"]),
            (-50.0, 1.0, ["shifted: too low"]),
            (-0.5, 0.6, ["shifted: too low", "too narrow"]),
            (0.5, 1.6, ["shifted: too high", "too wide"]),
        ],
    )
    def test_say_how_they_are_wrong(self, shift, factor, finding):
        result = calibrate(moved(shift, factor))
        assert result.findings == dict.fromkeys(result.names, finding)

    def test_in_their_own_units(self, significance):
        """Of a guide (shift, factor) z* is -shift/factor above, 1/factor as wide."""
        result = calibrate(moved(0.3, 1.25), num_simulations=5000, num_draws=999)
        significance = significance.split(6)
        for test in result.tests:
            location = Measured(test.location.value, test.location.standard_error)
            significance.require_equal(location, -0.3 / 1.25)
            spread = Measured(test.spread.value, test.spread.standard_error)
            significance.require_equal(spread, 1 / 1.25)

    def test_one_wrong_dimension_is_found_alone(self):
        result = calibrate(moved(0.0, 0.5, dimensions=1))
        assert result.findings == {"z[0]": ["too narrow"]}
        assert "1 of 3 dimensions are not calibrated" in str(result)

    def test_another_shape_of_the_right_location_and_width(self):
        """Half the draws are half as wide, half wider: normal scores have mean 0, variance 1."""

        def guide(x):
            p = MODEL.posterior(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.StudentT(1.2, p.mean, 0.55 * SCALE).to_event(1))

        result = calibrate(guide, num_simulations=8000)
        assert not result.calibrated
        assert all(test.p_values["shape"] < test.level for test in result.tests)

    def test_mean_field_is_too_narrow_where_the_posterior_is_correlated(self):
        vae = MODEL.mean_field_vae()
        result = simulation_based_calibration(vae.model, vae.guide, X, num_simulations=20_000)
        assert all(found == ["too narrow"] for found in result.findings.values())
        assert result.findings

    def test_the_prior_passes_as_the_documentation_warns(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))

        assert calibrate(guide).calibrated


class TestDiscreteLatents:
    def programs(self, wrong=0.0):
        logits = torch.tensor([0.4, -0.3], dtype=torch.float64)

        def prior():
            return pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(prior(), 0.6).to_event(1), obs=x)

        def guide(x):
            odds = (x - 0.5) / 0.36
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(logits=logits + odds + wrong).to_event(1))

        return model, guide, torch.zeros(1, 2, dtype=torch.float64)

    def test_ties_are_broken_at_random(self):
        assert simulation_based_calibration(*self.programs()).calibrated

    def test_a_wrong_guide_is_found(self):
        result = simulation_based_calibration(*self.programs(1.0))
        assert result.findings == {name: ["shifted: too high"] for name in result.names}


class TestWhatItSays:
    def test_summary_is_json(self):
        result = calibrate(moved(0.0, 0.5), num_simulations=200)
        summary = json.loads(json.dumps(result.summary()))
        assert summary["dimensions"]["z[1]"]["findings"] == ["too narrow"]
        assert summary["dimensions"]["z[1]"]["coverage_90"] < 0.8
        assert summary["calibrated"] is False

    def test_ranks_by_hand(self):
        ranks = torch.tensor([[0], [99], [49]])
        result = Calibration(ranks, ("z",), 99)
        expected = torch.tensor([[0.005], [0.995], [0.495]], dtype=torch.float64)
        torch.testing.assert_close(result.normalized_ranks, expected)

    def test_seeds(self):
        first, again, other = (
            calibrate(moved(), num_simulations=100, seed=s).ranks for s in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        state = torch.get_rng_state()
        calibrate(moved(), num_simulations=100)
        assert torch.equal(state, torch.get_rng_state())

    def test_chunks_and_single_precision(self, monkeypatch):
        monkeypatch.setattr("ppl_vae.diagnostics._calibration._ROWS", 990)
        vae = binary_vae()
        x = torch.zeros(1, 6)
        result = simulation_based_calibration(vae.model, vae.guide, x, num_simulations=105)
        assert result.ranks.shape == (105, 2)
        assert result.ranks.min() >= 0
        assert result.ranks.max() <= 99

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_simulations": 99}, "num_simulations must be 100 or more, got 99"),
            ({"num_draws": 18}, "num_draws must be 19 or more, got 18"),
            ({"false_alarm": 0.0}, "false_alarm must be between 0 and 1"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            calibrate(moved(), **arguments)
        with pytest.raises(ValueError, match="probability must be between 0 and 1"):
            Calibration(torch.zeros(100, 1).long(), ("z",), 19).coverage(1.5)
