"""The angle's draws and their derivative against quadrature."""

import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest
from significance import TEST_FALSE_ALARM, mean_of, variance_of

from ppl_vae.distributions import _von_mises_fisher as von_mises_fisher
from ppl_vae.distributions import sphere_cumulants
from ppl_vae.distributions._von_mises_fisher import angle_slope, sample_angle

CASES = [(2, 0.0), (2, 0.5), (2, 30.0), (3, 0.0), (3, 4.0), (4, 1.0), (6, 200.0), (40, 10.0)]


def log_density(angle, concentration, dimension):
    """Up to a constant, 0 at its mode."""

    def value(a):
        return concentration * math.cos(a) + (dimension - 2) * math.log(max(math.sin(a), 1e-300))

    half = (dimension - 2) / 2
    root = half + math.hypot(half, concentration)
    return value(angle) - value(math.acos(concentration / root) if root else math.pi / 2)


def integral(function, low, high):
    """Piece by piece, so that no peak is overlooked."""
    ends = torch.linspace(low, high, 41, dtype=torch.float64).tolist()
    pieces = itertools.pairwise(ends)
    return sum(quad(function, a, b, epsabs=0, epsrel=1e-11)[0] for a, b in pieces)


def distribution_function(concentration, dimension):
    def density(a):
        return math.exp(log_density(a, concentration, dimension))

    grid = torch.linspace(0, math.pi, 400, dtype=torch.float64).tolist()
    pieces = [quad(density, a, b)[0] for a, b in itertools.pairwise(grid)]
    cumulated = torch.tensor([0.0, *pieces], dtype=torch.float64).cumsum(0)
    grid = torch.tensor(grid, dtype=torch.float64)

    def function(angle):
        at = torch.as_tensor(angle, dtype=torch.float64)
        right = torch.searchsorted(grid, at).clamp(1, len(grid) - 1)
        share = (at - grid[right - 1]) / (grid[right] - grid[right - 1])
        low, high = cumulated[right - 1], cumulated[right]
        return ((low + share * (high - low)) / cumulated[-1]).numpy()

    return function


@pytest.mark.parametrize(("dimension", "concentration"), CASES)
def test_draws_have_the_density(dimension, concentration, significance):
    draws = sample_angle(torch.full((4000,), concentration), dimension)
    assert draws.dtype == torch.float32
    found = kstest(draws.double().numpy(), distribution_function(concentration, dimension))
    assert found.pvalue > significance.rate


def test_the_test_of_draws_finds_another_concentration():
    draws = sample_angle(torch.full((4000,), 5.0), 4)
    assert kstest(draws.numpy(), distribution_function(4.0, 4)).pvalue < TEST_FALSE_ALARM


@pytest.mark.parametrize("dimension", [2, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_a_large_concentration(dimension, dtype, significance):
    """1 - cos a is of the order 1e-6: no digits are lost."""
    concentration = torch.full((20_000,), 1e6, dtype=dtype)
    versine = 2 * torch.sin(sample_angle(concentration, dimension).double() / 2).square()
    k = torch.tensor(1e6, dtype=torch.float64, requires_grad=True)
    ratio = sphere_cumulants(k, dimension)[1]
    (variance,) = torch.autograd.grad(ratio, k)
    pair = significance.split(2)
    pair.require_equal(mean_of(versine), 1 - ratio.item())
    # The variance has lost half its digits, which is more than enough here.
    pair.require_equal(variance_of(versine), variance.item())


def test_a_gpu_is_not_kept_waiting(monkeypatch, significance):
    """Without the early exit of a CPU, the first accepted proposal is taken all the same."""
    monkeypatch.setattr(von_mises_fisher, "_ROUNDS", 1)
    draws = sample_angle(torch.full((20_000,), 3.0, dtype=torch.float64), 5)
    ratio = sphere_cumulants(torch.tensor(3.0, dtype=torch.float64), 5)[1].item()
    significance.require_equal(mean_of(torch.cos(draws)), ratio)


@pytest.mark.parametrize("dimension", [2, 3, 4, 9, 100])
@pytest.mark.parametrize("concentration", [0.0, 0.3, 5.0, 15.0, 200.0])
def test_slope(dimension, concentration):
    """-(dH/dk) / h by scipy, at quantiles and far out."""
    angles = torch.linspace(0.02, 0.98, 7, dtype=torch.float64)
    draws = sample_angle(torch.full((500,), concentration, dtype=torch.float64), dimension)
    at = torch.cat([torch.quantile(draws, angles), draws.min()[None], draws.max()[None]])
    found = angle_slope(at, torch.full_like(at, concentration), dimension)
    k = torch.tensor(concentration, dtype=torch.float64)
    ratio = sphere_cumulants(k, dimension)[1].item()

    def integrand(a):
        return (math.cos(a) - ratio) * math.exp(log_density(a, concentration, dimension))

    for angle, slope in zip(at.tolist(), found.tolist(), strict=True):
        h = math.exp(log_density(angle, concentration, dimension))
        low = math.cos(angle) > ratio
        ends = (0.0, angle) if low else (angle, math.pi)
        expected = (-1 if low else 1) * integral(integrand, *ends) / h
        assert slope == pytest.approx(expected, rel=1e-8)
        assert slope <= 0


def test_slope_at_the_poles():
    """0 where the sphere leaves no room to move."""
    at = torch.tensor([0.0, math.pi])
    found = angle_slope(at, torch.full_like(at, 2.0), 5)
    assert found.isfinite().all()
    assert found[0].item() == pytest.approx(0, abs=1e-20)
