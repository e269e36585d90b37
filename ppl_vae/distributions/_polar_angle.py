"""The angle between a von Mises-Fisher draw and the mean direction: draws and their derivative."""

import functools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.distributions._precision import in_double
from ppl_vae.distributions._sphere_cumulants import sphere_cumulants

_ROUNDS, _PROPOSALS = 4, 8
"""Rounds of as many proposals each. One is accepted with probability 0.65 or more: none, below
1e-14."""

_REACH = 10.0
"""Number of widths of the density beyond which its tail is below 1e-12 of it."""

_NODES = 24
"""Points of the quadrature, for relative errors below 1e-9."""


def sample_angle(concentration: Float[Tensor, "*shape"], dimension: int) -> Float[Tensor, "*shape"]:
    """Draws of the angle, of density ``h(a) ~ exp(kappa cos a) sin^(m-2) a`` on [0, pi].

    The distribution function of cos a inverted for m = 3, Wood's rejection sampler otherwise. On a
    GPU the number of proposals is fixed, so that no step waits for it.

    Args:
        concentration: kappa, 0 or more.
        dimension: m, 2 or more.

    References:
        Wood, 1994, Simulation of the von Mises Fisher distribution.
        Ulrich, 1984, Computer generation of distributions on the m-sphere.
    """
    draw = _invert if dimension == 3 else _reject
    # 1 - cos a, which keeps its digits where the angle is small.
    versine = draw(concentration, dimension)
    return 2 * torch.asin(torch.sqrt(versine / 2).clamp(max=1))


def _invert(concentration: Tensor, dimension: int) -> Tensor:
    positive = concentration.clamp(min=torch.finfo(concentration.dtype).eps ** 2)
    return -torch.log1p(torch.rand_like(positive) * torch.expm1(-2 * positive)) / positive


def _reject(concentration: Tensor, dimension: int) -> Tensor:
    """Wood's envelope is the density of (1 - (1 + b) B) / (1 - (1 - b) B), B ~ Beta."""
    last = dimension - 1
    b = last / (2 * concentration + torch.sqrt(4 * concentration.square() + last**2))
    best, at_best = 2 * b / (1 + b), (1 - b) / (1 + b)
    versine, accepted = torch.zeros_like(b), torch.zeros_like(b, dtype=torch.bool)
    for _ in range(_ROUNDS):
        share = _symmetric_beta(b.new_empty(_PROPOSALS, *b.shape), dimension)
        proposal = 2 * b * share / (1 - (1 - b) * share)
        log_volume = torch.log1p(at_best * (proposal / best - 1) / (1 + at_best))
        log_ratio = concentration * (best - proposal) + last * log_volume
        good = torch.rand_like(share).log() <= log_ratio
        first = good.byte().argmax(0, keepdim=True)
        versine = torch.where(accepted, versine, proposal.gather(0, first).squeeze(0))
        accepted = accepted | good.any(0)
        if accepted.device.type == "cpu" and bool(accepted.all()):
            break
    return versine


def _symmetric_beta(like: Tensor, dimension: int) -> Tensor:
    """Beta(a, a) draws with a = (m - 1)/2, from two uniforms each.

    References:
        Ulrich, 1984, Computer generation of distributions on the m-sphere.
        Devroye, 1986, Non-uniform random variate generation, IX.4.
    """
    exponent = 2 / (dimension - 2) if dimension > 2 else math.inf
    power = torch.exp(exponent * torch.rand_like(like).log())
    radius = torch.sqrt(1 - power)
    # (1 + radius cos(2 pi U)) / 2, with its digits where it is small.
    return power / (2 * (1 + radius)) + radius * torch.cos(math.pi * torch.rand_like(like)).square()


def angle_slope(
    angle: Float[Tensor, "*shape"], concentration: Float[Tensor, "*shape"], dimension: int
) -> Float[Tensor, "*shape"]:
    """``da/dkappa = -(dH/dkappa) / h``, H the distribution function and h the density of the angle.

    ``dH/dkappa = int_0^a (cos s - A) h(s) ds`` with A the mean of cos a, or minus the integral
    over [a, pi]: on the side where cos s - A has one sign, by Gauss-Legendre quadrature.

    Args:
        angle: a, within (0, pi).
        concentration: kappa.
        dimension: m.

    References:
        Figurnov, Mohamed and Mnih, 2018, Implicit reparameterization gradients.
    """
    a, kappa = in_double(angle), in_double(concentration)
    a = a.clamp(1e-30, math.pi - 4 * torch.finfo(a.dtype).eps)
    ratio = sphere_cumulants(kappa, dimension)[1]
    below = torch.cos(a) > ratio
    end = _far_end(a, kappa, dimension, below)
    half = (end - a).abs().unsqueeze(-1) / 2
    middle = ((end + a) / 2).unsqueeze(-1)
    points, weights = _gauss_legendre(a.device, a.dtype)
    s = middle + half * points
    a, kappa, ratio = a.unsqueeze(-1), kappa.unsqueeze(-1), ratio.unsqueeze(-1)
    log_density = kappa * (torch.cos(s) - torch.cos(a))
    log_density = log_density + (dimension - 2) * torch.log(torch.sin(s) / torch.sin(a))
    integrand = (torch.cos(s) - ratio).abs() * torch.exp(log_density)
    return -(half * integrand * weights).sum(-1).to(angle.dtype)


def _far_end(a: Tensor, kappa: Tensor, dimension: int, below: Tensor) -> Tensor:
    """Where the integral from a ends: at 0 or pi, or where the density has vanished before."""
    half = (dimension - 2) / 2
    curvature = half + torch.sqrt(half**2 + kappa.square())
    mode = torch.acos((kappa / curvature).nan_to_num(nan=0.0).clamp(max=1))
    reach = _REACH * curvature.rsqrt()
    low = (torch.minimum(a, mode) - reach).clamp(min=0)
    high = (torch.maximum(a, mode) + reach).clamp(max=math.pi)
    return torch.where(below, low, high)


@functools.cache
def _gauss_legendre(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy(points).to(device, dtype), torch.from_numpy(weights).to(device, dtype)
