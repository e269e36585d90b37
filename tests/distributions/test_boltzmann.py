"""The restricted Boltzmann machine against sums over every z and h."""

import itertools
import math

import pytest
import torch
from significance import mean_of, variance_of
from torch.nn import functional

from ppl_vae.distributions import (
    Couplings,
    RestrictedBoltzmann,
    annealed,
    annealed_from_both_sides,
    draw_exactly,
    log_total,
    smaller_layer,
    state_log_weights,
)


def couplings(latent, hidden, strength=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return strength * torch.randn(*shape, dtype=torch.float64, generator=generator)

    return Couplings(draw(latent), draw(hidden), draw(latent, hidden))


def every_state(size):
    rows = list(itertools.product((0.0, 1.0), repeat=size))
    return torch.tensor(rows, dtype=torch.float64)


def minus_energies(machine):
    """Of every pair, shape (states of z, states of h)."""
    z, h = (every_state(len(bias)) for bias in machine[:2])
    return (z @ machine.visible)[:, None] + h @ machine.hidden + z @ machine.weight @ h.T


SHAPES = [(3, 5), (5, 3), (4, 4), (1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_log_unnormalised_sums_over_h(shape):
    machine = couplings(*shape)
    exact = torch.logsumexp(minus_energies(machine), 1)
    torch.testing.assert_close(machine.log_unnormalised(every_state(shape[0])), exact)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [1, 10, 2**22])
def test_log_partition_sums_over_the_smaller_layer(monkeypatch, shape, block):
    monkeypatch.setattr("ppl_vae.distributions._boltzmann.BLOCK", block)
    machine = couplings(*shape)
    log_weights = state_log_weights(smaller_layer(machine))
    assert len(log_weights) == 2 ** min(shape)
    exact = torch.logsumexp(minus_energies(machine).flatten(), 0)
    torch.testing.assert_close(log_total(log_weights), exact)


def test_gradient_of_log_partition():
    """It is the mean of the sufficient statistics."""
    machine = Couplings(*(tensor.requires_grad_() for tensor in couplings(3, 2)))
    log_total(state_log_weights(smaller_layer(machine))).backward()
    probability = torch.softmax(minus_energies(machine).flatten(), 0).reshape(8, 4).detach()
    z, h = every_state(3), every_state(2)
    torch.testing.assert_close(machine.visible.grad, probability.sum(1) @ z)
    torch.testing.assert_close(machine.hidden.grad, probability.sum(0) @ h)
    torch.testing.assert_close(machine.weight.grad, z.T @ probability @ h)


@pytest.mark.parametrize("shape", [(3, 5), (4, 2)])
def test_exact_draws(shape, significance):
    machine = couplings(*shape)
    z = draw_exactly(machine, state_log_weights(smaller_layer(machine)), 20_000)
    probability = torch.softmax(machine.log_unnormalised(every_state(shape[0])), 0)
    number = (z @ 2.0 ** torch.arange(shape[0] - 1, -1, -1, dtype=z.dtype)).long()
    for state, expected in enumerate(probability.tolist()):
        count = int((number == state).sum())
        significance.split(len(probability)).require_count(count, len(z), expected)


def test_a_sweep_leaves_the_distribution_as_it_is(significance):
    machine = couplings(3, 4, strength=1.5)
    z = draw_exactly(machine, state_log_weights(smaller_layer(machine)), 20_000)
    moved = machine.sweep(z)
    assert not torch.equal(moved, z)
    probability = torch.softmax(machine.log_unnormalised(every_state(3)), 0)
    for state, expected in zip(every_state(3), probability.tolist(), strict=True):
        count = int((moved == state).all(-1).sum())
        significance.split(8).require_count(count, len(z), expected)


def annealed_anywhere(machine, chains, temperatures):
    """Base rates may be taken from anywhere: the estimate is unbiased all the same."""
    half = torch.full((chains, len(machine.visible)), 0.5).to(machine.visible)
    return annealed(machine, torch.bernoulli(half), temperatures)


class TestAnnealing:
    @pytest.mark.parametrize("temperatures", [1, 3, 30])
    def test_is_unbiased_for_z(self, temperatures, significance):
        """Each chain's weight is, with one temperature as with many; the skew asks for many."""
        machine = couplings(4, 3, strength=0.7)
        exact = torch.logsumexp(minus_energies(machine).flatten(), 0)
        estimates = [
            annealed_anywhere(machine, 200, temperatures).value - exact for _ in range(100)
        ]
        significance.require_equal(mean_of(torch.stack(estimates).exp()), 1)

    def test_its_standard_error_is_that_of_replicates(self, significance):
        machine = couplings(6, 5, strength=0.7)
        runs = [annealed_anywhere(machine, 400, 10) for _ in range(200)]
        stated = mean_of(torch.stack([run.standard_error for run in runs]).square())
        spread = variance_of(torch.stack([run.value for run in runs]))
        significance.require_equal(spread, stated)

    def test_more_temperatures_leave_less_error(self):
        machine = couplings(12, 10)
        errors = [annealed_anywhere(machine, 200, t).standard_error.item() for t in (5, 50, 500)]
        assert errors == sorted(errors, reverse=True)
        assert errors[2] < 0.05
        exact = log_total(state_log_weights(smaller_layer(machine)))
        assert annealed_anywhere(machine, 200, 500).value.item() == pytest.approx(
            exact.item(), abs=0.3
        )

    def test_without_couplings_it_is_exact(self):
        visible, hidden, weight = couplings(30, 25)
        machine = Couplings(visible, hidden, 0 * weight)
        found = annealed_anywhere(machine, 10, 5)
        exact = functional.softplus(visible).sum() + functional.softplus(hidden).sum()
        torch.testing.assert_close(found.value, exact)
        assert found.standard_error.item() < 1e-7
        assert not found.exact

    def test_the_test_finds_chains_that_move_too_early(self, significance):
        """With the sweep before the weight, chains are weighed where they have just been drawn."""
        machine = couplings(4, 3, strength=0.7)
        exact = torch.logsumexp(minus_energies(machine).flatten(), 0)
        estimates = [_moved_too_early(machine, 200, 3) - exact for _ in range(100)]
        with pytest.raises(AssertionError, match="z ="):
            significance.require_equal(mean_of(torch.stack(estimates).exp()), 1)


def _moved_too_early(machine, chains, temperatures):
    z = torch.bernoulli(torch.sigmoid(machine.visible).expand(chains, -1))
    log_weight = torch.zeros(chains, dtype=torch.float64)
    for step in range(temperatures):
        before, after = (
            machine._replace(weight=(step + i) / temperatures * machine.weight) for i in (0, 1)
        )
        z = after.sweep(z)
        log_weight += after.log_unnormalised(z) - before.log_unnormalised(z)
    independent = (
        functional.softplus(machine.visible).sum() + functional.softplus(machine.hidden).sum()
    )
    return torch.logsumexp(log_weight, 0) - math.log(chains) + independent


class TestDistribution:
    machine = couplings(4, 3)

    def law(self, **options):
        log_weights = state_log_weights(smaller_layer(self.machine))
        return RestrictedBoltzmann(
            self.machine,
            lambda: log_total(log_weights),
            lambda number: draw_exactly(self.machine, log_weights, number),
            **options,
        )

    def test_sums_to_one(self):
        assert self.law().log_prob(every_state(4)).exp().sum().item() == pytest.approx(1)

    def test_shapes_and_expand(self):
        law = self.law(validate_args=False)
        assert (law.batch_shape, law.event_shape) == ((), (4,))
        assert law.sample().shape == (4,)
        big = law.expand([3, 5])
        assert (big.batch_shape, big.sample((2,)).shape) == ((3, 5), (2, 3, 5, 4))
        z = law.sample((5,))
        torch.testing.assert_close(big.log_prob(z), law.log_prob(z).expand(3, 5))
        assert big._validate_args is False
        assert not law.has_rsample

    def test_other_values_are_refused(self):
        with pytest.raises(
            ValueError, match=r"latents in \{0, 1\}, got others: .*BernoulliEncoder"
        ):
            self.law().log_prob(torch.full((4,), 0.5))


class TestBothSides:
    @pytest.mark.parametrize(("strength", "seed"), [(0.05, 0), (0.5, 1)])
    def test_a_large_machine_is_right_within_its_stated_error(self, strength, seed):
        """784 pixels that are mostly 0, and 16 hidden units, whose states are summed for truth."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        machine = Couplings(-2 + 0.5 * draw(784), draw(16), strength * draw(784, 16))
        log_weights = state_log_weights(smaller_layer(machine))
        start = draw_exactly(machine, log_weights, 64)
        found = annealed_from_both_sides(machine, start, 150)
        error = (found.value - log_total(log_weights)).abs().item()
        assert found.standard_error.item() < 0.25
        assert error < 3 * found.standard_error.item()

    def test_the_error_holds_what_the_sides_differ_by(self):
        """Two modes far apart: weights alone know little of what a path has missed."""
        hidden = torch.tensor([-36.0]).double()
        strong = 6 * torch.ones(12, 1, dtype=torch.float64)
        machine = Couplings(-3 * torch.ones(12).double(), hidden, strong)
        log_weights = state_log_weights(smaller_layer(machine))
        start = draw_exactly(machine, log_weights, 50)
        short, long = (annealed_from_both_sides(machine, start, steps) for steps in (3, 100))
        assert short.standard_error >= (short.upper - short.value).abs()
        assert (long.value - log_total(log_weights)).abs() < 3 * long.standard_error
        assert long.standard_error < short.standard_error
