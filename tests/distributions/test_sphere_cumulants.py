"""Against scipy's and mpmath's Bessel functions."""

import math

import mpmath
import pytest
import torch
from scipy.special import gammaln, ive

from ppl_vae.distributions import sphere_cumulants

DIMENSIONS = [2, 3, 4, 7, 16, 51, 128, 1000]
CONCENTRATIONS = [1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6]
ROUNDING = 1e-13


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def by_mpmath(concentration, dimension):
    """log 0F1(; m/2; k^2/4) and its first two derivatives, to 40 digits."""
    with mpmath.workdps(40):
        k, half = mpmath.mpf(concentration), mpmath.mpf(dimension) / 2
        value = mpmath.hyp0f1(half, k**2 / 4)
        ratio = k / dimension * mpmath.hyp0f1(half + 1, k**2 / 4) / value
        variance = 1 - ratio**2 - (dimension - 1) * ratio / k
        return float(mpmath.log(value)), float(ratio), float(variance)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_both_to_rounding(dimension):
    k = double(CONCENTRATIONS)
    log_mean, ratio = sphere_cumulants(k, dimension)
    exact = double([by_mpmath(value, dimension) for value in CONCENTRATIONS])
    torch.testing.assert_close(log_mean, exact[:, 0], rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(ratio, exact[:, 1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("dimension", [2, 3, 7, 50])
def test_are_what_scipy_makes_of_scaled_bessel_functions(dimension):
    """Where scipy's neither overflows nor vanishes."""
    k = double([0.1, 1.0, 5.0, 40.0, 300.0])
    order = dimension / 2 - 1
    scaled = double(ive(order, k.numpy()))
    log_bessel = scaled.log() + k
    log_mean, ratio = sphere_cumulants(k, dimension)
    expected = log_bessel - order * torch.log(k / 2) + gammaln(order + 1)
    torch.testing.assert_close(log_mean, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        ratio, double(ive(order + 1, k.numpy())) / scaled, rtol=1e-12, atol=0
    )


def test_closed_forms():
    """On the sphere in three dimensions ``log (sinh k / k)`` and ``coth k - 1 / k``."""
    k = double([0.5, 2.0, 20.0])
    log_mean, ratio = sphere_cumulants(k, 3)
    torch.testing.assert_close(log_mean, torch.log(torch.sinh(k) / k), rtol=1e-13, atol=0)
    torch.testing.assert_close(ratio, 1 / torch.tanh(k) - 1 / k, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dimension", [2, 5, 200])
def test_nothing_at_zero(dimension):
    k = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    log_mean, ratio = sphere_cumulants(k, dimension)
    torch.testing.assert_close(log_mean, torch.zeros_like(k), rtol=0, atol=1e-15)
    assert ratio.tolist() == [0, 0]
    (variance,) = torch.autograd.grad(ratio.sum(), k, create_graph=True)
    torch.testing.assert_close(variance, torch.full_like(k, 1 / dimension))
    (slope,) = torch.autograd.grad(variance.sum(), k)
    assert slope.isfinite().all()


@pytest.mark.parametrize("dimension", [2, 3, 20])
def test_derivatives(dimension):
    k = double([0.01, 0.7, 5.0, 60.0]).requires_grad_()
    log_mean, ratio = sphere_cumulants(k, dimension)
    (first,) = torch.autograd.grad(log_mean.sum(), k, create_graph=True)
    assert torch.equal(first, ratio)
    (second,) = torch.autograd.grad(first.sum(), k)
    exact = double([by_mpmath(value, dimension)[2] for value in k.tolist()])
    torch.testing.assert_close(second, exact, rtol=1e-10, atol=0)
    assert torch.autograd.gradcheck(lambda k: sphere_cumulants(k, dimension), (k,))
    assert torch.autograd.gradgradcheck(lambda k: sphere_cumulants(k, dimension), (k,))


def test_type_and_shape_stay():
    k = torch.rand(2, 3)
    for value in sphere_cumulants(k, 4):
        assert (value.dtype, value.shape) == (torch.float32, (2, 3))
    log_mean, _ = sphere_cumulants(torch.tensor(1e4), 4)
    assert log_mean.item() == pytest.approx(by_mpmath(1e4, 4)[0], rel=1e-7)


def test_no_number_is_no_number():
    assert all(value.isnan() for value in sphere_cumulants(torch.tensor(math.nan), 3))
