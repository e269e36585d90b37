"""Integrals over one or two dimensions of densities that may have corners."""

import torch
from significance import Estimate, mean_of

ROUNDING = 1e-9


def grid(latent, points, shift=0.0):
    """Points over the whole space, dense at 0, and the volume of each."""
    t = torch.linspace(-4.5, 4.5, points, dtype=torch.float64)
    spacing = t[1] - t[0]
    t = t + shift * spacing
    z = torch.cartesian_prod(*[t.sinh()] * latent).reshape(-1, latent)
    volume = torch.cartesian_prod(*[t.cosh() * spacing] * latent).reshape(-1, latent).prod(-1)
    return z, volume


def integrals(log_density, latent, function, shifts=20):
    """Of a density times functions, over grids moved by a random part of their spacing.

    The mean over all such grids is the integral, whatever corners the density has.
    """
    sums = []
    for _ in range(shifts):
        z, volume = grid(latent, 101, torch.rand(()).double())
        with torch.no_grad():
            sums.append((log_density(z).exp() * volume) @ function(z))
    return torch.stack(sums)


def integral_of(sums):
    value, error = mean_of(sums)
    return Estimate(value, max(error, ROUNDING))


def bounded(z):
    """1, and bounded functions of z."""
    one = torch.ones_like(z[:, :1])
    return torch.cat([one, z.tanh(), z.cos(), (2 * z).sin().prod(-1, keepdim=True)], 1)


def require_density_of_draws(log_density, draws, significance):
    """Fail unless a density of 1 or 2 dimensions integrates to 1 and is that of the draws."""
    found, values = integrals(log_density, draws.shape[1], bounded), bounded(draws)
    significance = significance.split(found.shape[1])
    significance.require_equal(integral_of(found[:, 0]), 1.0)
    for sums, drawn in zip(found[:, 1:].T, values[:, 1:].T, strict=True):
        significance.require_equal(mean_of(drawn), integral_of(sums))
