"""Temperatures, and what the pilot run finds."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evidence import AnnealedImportanceSampling, Streams
from ppl_vae.evidence.annealing._chains import GeometricPath, HamiltonianTransition
from ppl_vae.evidence.annealing._pilot import (
    interval_length,
    linear,
    of_equal_steps,
    precisions,
    sigmoidal,
)

from .cases import MODEL, TEN, VAE, X, density_of, prepared

ALL = 10**6
pytestmark = pytest.mark.usefixtures("whole_pilot")


class TestFormulas:
    def test_linear(self):
        expected = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
        torch.testing.assert_close(linear(4), expected)

    def test_sigmoidal(self):
        def sigmoid(v):
            return 1 / (1 + math.exp(-v))

        levels = [sigmoid(4 * (2 * t / 6 - 1)) for t in range(7)]
        expected = [(v - levels[0]) / (levels[-1] - levels[0]) for v in levels]
        torch.testing.assert_close(sigmoidal(6), torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("schedule", [linear, sigmoidal])
    def test_one_temperature(self, schedule):
        assert schedule(1).tolist() == [0, 1]

    def test_length_is_of_the_conditional_effective_sample_size(self):
        log_increment = torch.randn(9, 4, dtype=torch.float64)
        w = log_increment.exp()
        fraction = w.mean(0).square() / w.square().mean(0)
        torch.testing.assert_close(interval_length(log_increment), (-fraction.log()).sqrt())

    def test_short_steps_have_a_length_of_step_times_deviation(self):
        ratio = torch.randn(50, 3, dtype=torch.float64)
        found = interval_length(1e-5 * ratio) / 1e-5
        torch.testing.assert_close(found, ratio.std(0, correction=0), rtol=1e-4, atol=0)


class TestEqualSteps:
    def test_equal_lengths_change_nothing(self):
        schedule = sigmoidal(8).unsqueeze(-1)
        found = of_equal_steps(schedule, torch.full((8, 3), 0.4, dtype=torch.float64))
        torch.testing.assert_close(found, schedule.expand(-1, 3))

    def test_each_datum_has_its_own(self):
        """Lengths that grow with b, and lengths that fall."""
        rising = torch.arange(1, 101, dtype=torch.float64)
        lengths = torch.stack([rising, rising.flip(0)], 1)
        found = of_equal_steps(linear(100).unsqueeze(-1), lengths)
        assert found[0].tolist() == [0, 0]
        assert found[-1].tolist() == [1, 1]
        assert (found.diff(dim=0) > 0).all()
        torch.testing.assert_close(found[:, 1], 1 - found[:, 0].flip(0))
        # Half of the way lies beyond b = 0.7, but for the share that every interval has.
        assert 0.68 < found[50, 0] < 0.71

    def test_where_nothing_is_known_the_steps_stay(self):
        for value in (0.0, math.nan, math.inf):
            schedule = linear(5).unsqueeze(-1)
            found = of_equal_steps(schedule, torch.full((5, 2), value, dtype=torch.float64))
            torch.testing.assert_close(found, schedule.expand(-1, 2))

    def test_lengths_found_anew_are_more_even(self):
        """Along the schedule that the pilot run leaves, against the sigmoidal one."""
        x = TEN.simulate(5)
        programs = TEN.mean_field_vae()
        spreads = []
        for kind in ("sigmoidal", "adaptive"):
            ais = AnnealedImportanceSampling(30, 200, 2, spacing=kind, rows=ALL)
            annealer = prepared(ais, x, Streams(1, 0, 0), programs)
            with torch.no_grad():
                chains, lengths = annealer.path.draw(), []
                for point in range(1, annealer.last + 1):
                    lengths.append(interval_length(annealer.increment(chains, point - 1, point)))
                    chains, _ = annealer.move(chains, point)
            lengths = torch.stack(lengths)
            spreads.append((lengths.std(0) / lengths.mean(0)).mean())
        assert spreads[1] < spreads[0]


class TestTuning:
    def test_acceptance_is_near_its_target(self):
        """In the frozen run, averaged over temperatures; from a first guess far off."""
        for target in (0.5, 0.8):
            ais = AnnealedImportanceSampling(60, 64, 4, target_acceptance=target, rows=ALL)
            annealer = prepared(ais, X, Streams(1, 0, 0), VAE)
            with torch.no_grad():
                chains, found = annealer.path.draw(), []
                for point in range(1, annealer.last + 1):
                    chains, acceptance = annealer.move(chains, point)
                    found.append(acceptance.mean())
            assert abs(sum(found) / len(found) - target) < 0.1

    def test_step_sizes_fall_as_the_density_narrows(self):
        ais = AnnealedImportanceSampling(60, 64, 4, rows=ALL)
        steps = prepared(ais, X, Streams(1, 0, 0), VAE).tuning.steps
        assert steps.shape == (61, len(X))
        assert (steps[-10:].mean(0) < steps[:10].mean(0)).all()

    def test_masses_of_a_normal_path(self):
        """Precision (1 - b) + b diag(M): right at every temperature, as far as draws can tell."""
        path = GeometricPath(density_of(VAE, X, 4000), "prior")
        found = precisions(path, "guide", X)
        diagonal = MODEL.posterior_precision.detach().diagonal()
        for level in (0.0, 0.4, 1.0):
            scale = found.scale(torch.full((1,), level, dtype=torch.float64))
            expected = (1 - level + level * diagonal).rsqrt().expand(len(X), -1)
            torch.testing.assert_close(scale, expected, rtol=0.1, atol=0)

    def test_with_masses_one_step_size_suits_all_dimensions(self):
        """A guide with the posterior's scales, which differ a hundredfold."""
        scales = torch.tensor([0.01, 1.0], dtype=torch.float64)

        class Stretched:
            def model(self, x):
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(2), scales).to_event(1))
                    pyro.sample("x", dist.Normal(z / scales, 1.0).to_event(1), obs=x)

            def guide(self, x):
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(x / 2 * scales, scales * 0.5**0.5).to_event(1))

        x = torch.zeros(3, 2, dtype=torch.float64)
        steps = {}
        for mass in ("unit", "guide"):
            ais = AnnealedImportanceSampling(20, 16, 2, mass=mass, rows=ALL)
            programs = Stretched()
            annealer = prepared(ais, x, Streams(0, 0, 0), programs)
            steps[mass] = annealer.tuning.steps.mean()
        assert steps["unit"] < 0.1
        assert steps["guide"] > 0.5


def test_a_transition_is_what_the_settings_say():
    ais = AnnealedImportanceSampling(2, 8, 3, refreshment=0.5)
    annealer = prepared(ais, X[:1], Streams(0, 0, 0), VAE)
    assert annealer.transition == HamiltonianTransition(3, 0.5)
