"""The cumulant generating function of a coordinate of a uniform point on the sphere."""

import functools
from fractions import Fraction
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.distributions._precision import in_double

_SHIFT = 16
"""Number of orders between the one asked for and the one that the expansion is taken at."""

_TERMS = 10
"""Number of terms of the expansion. With the shift, its error is below 2e-14 of 1 and the value."""


def sphere_cumulants(
    concentration: Float[Tensor, "*batch"], dimension: int
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """``log E exp(kappa t)`` and its derivative, t a coordinate of a uniform point of the sphere.

    The first is ``log 0F1(; m/2; kappa^2 / 4)``, that is ``log I_v(kappa) - v log(kappa / 2) + log
    Gamma(v + 1)`` with v = m/2 - 1 and the modified Bessel function I; the second the ratio
    ``I_(v+1) / I_v``. Debye's expansion, uniform in kappa, at a larger order, then down by the
    recurrence of the ratios, in which no terms cancel. No iteration has a length that depends on
    values, so that nothing waits for a device. Computed in double precision.

    Args:
        concentration: kappa, 0 or more.
        dimension: m, of the space around the sphere; 2 or more.

    Returns:
        Both in the type of the concentration, differentiable as often as is wanted.

    References:
        Olver et al., NIST digital library of mathematical functions, 10.29, 10.41.
        Amos, 1974, Computation of modified Bessel functions and their ratios.
    """
    log_mean, ratio = _Cumulants.apply(in_double(concentration), dimension)
    return log_mean.to(concentration.dtype), ratio.to(concentration.dtype)


@final
class _Cumulants(torch.autograd.Function):
    """Value and first derivative A; the next ones from ``A' = 1 - A^2 - (m - 1) A / kappa``."""

    @staticmethod
    def forward(concentration: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
        return _evaluate(concentration, dimension)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        concentration, ctx.dimension = inputs
        ctx.save_for_backward(concentration, output[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (concentration, ratio), m = ctx.saved_tensors, ctx.dimension
        # A / kappa has the limit 1 / m at 0; the inner where keeps 0 / 0 out of the gradient.
        positive = concentration > 0
        slope = torch.where(positive, ratio / torch.where(positive, concentration, 1.0), 1 / m)
        variance = 1 - ratio.square() - (m - 1) * slope
        return grad_outputs[0] * ratio + grad_outputs[1] * variance, None


def _evaluate(concentration: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    quarter_square = (concentration / 2).square()
    first = Fraction(dimension, 2) - 1
    # Debye's expansion is good at large orders alone; the recurrence F_(n-1) = F_n + q F_(n+1) /
    # (n (n + 1)), q = kappa^2 / 4, has positive terms, so that going down loses no digits.
    log_mean, quotient = _debye(quarter_square, first + _SHIFT)
    steps = []
    for shift in range(_SHIFT, 0, -1):
        order = float(first) + shift
        steps.append(quarter_square * quotient / (order * (order + 1)))
        quotient = torch.reciprocal(1 + steps[-1])
    log_mean = log_mean + torch.log1p(torch.stack(steps)).sum(0)
    return log_mean, concentration * quotient / dimension


def _debye(quarter_square: Tensor, order: Fraction) -> tuple[Tensor, Tensor]:
    """``log F_n`` and ``F_(n+1) / F_n``, where ``F_n = 0F1(; n + 1; kappa^2 / 4)``."""
    n, coefficients = float(order), _debye_coefficients(order)
    square = 4 * quarter_square / n**2
    root = torch.sqrt(1 + square)
    # root - 1, which has no digits left where kappa is small against n.
    p, excess = 1 / root, square / (1 + root)
    series, derivative = torch.zeros_like(p), torch.zeros_like(p)
    for coefficient in reversed(coefficients):
        derivative = derivative * p + series
        series = series * p + coefficient
    leading = n * (excess - torch.log1p(excess / 2)) - torch.log1p(square) / 4
    # Divided by its value at kappa = 0, where the logarithm is 0.
    log_value = leading + torch.log(series / sum(coefficients))
    slope = 1 / (1 + root) - p**2 / (2 * n) - p**3 * derivative / (n * series)
    return log_value, 2 * (n + 1) / n * slope


@functools.cache
def _debye_coefficients(order: Fraction) -> tuple[float, ...]:
    """Coefficients of the powers of p in ``sum_k u_k(p) / n^k``, lowest first.

    ``u_(k+1) = p^2 (1 - p^2) u_k' / 2 + int_0^p (1 - 5 t^2) u_k dt / 8``, in exact fractions: the
    terms are large, and of either sign.
    """
    total = [Fraction(0)] * (3 * _TERMS + 1)
    u = [Fraction(1)]
    for k in range(_TERMS + 1):
        following = [Fraction(0)] * (len(u) + 3)
        for power, coefficient in enumerate(u):
            total[power] += coefficient / order**k
            half = Fraction(power, 2)
            following[power + 1] += coefficient * (half + Fraction(1, 8 * (power + 1)))
            following[power + 3] -= coefficient * (half + Fraction(5, 8 * (power + 3)))
        u = following
    return tuple(map(float, total))
