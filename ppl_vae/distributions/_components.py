"""Densities and draws of a mixture's components, by what kind of distribution they are."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ppl_vae.distributions._precision import in_double

Density = Callable[[Float[Tensor, "points *event"]], Float[Tensor, "points components"]]


def log_joint(components: Any, log_weights: Float[Tensor, "*components"]) -> Density:
    """The function ``z -> log pi_c + log p_c(z)``, of all points under all components."""
    normal = _diagonal_normal(components)
    if normal is None:
        return lambda points: components.log_prob(points.unsqueeze(1)) + log_weights
    return _quadratic(normal.loc, normal.scale, log_weights)


def densities_at_once(components: Any) -> int:
    """Numbers that a density of one point under one component makes on the way."""
    return 1 if _diagonal_normal(components) is not None else components.event_shape.numel()


def _diagonal_normal(components: Any) -> Normal | None:
    """The normal of which the components are ``to_event(1)``, where doubles can be had."""
    if not isinstance(components, Independent) or components.reinterpreted_batch_ndims != 1:
        return None
    normal = components.base_dist
    if not isinstance(normal, Normal) or len(components.batch_shape) != 1:
        return None
    # Apple's GPUs have no double precision.
    return None if normal.loc.device.type == "mps" else normal


def _quadratic(
    loc: Float[Tensor, "components latent"],
    scale: Float[Tensor, "components latent"],
    log_weights: Float[Tensor, "*components"],
) -> Density:
    """``- 0.5 sum_d (z_d - m_cd)^2 / s_cd^2`` as a product of matrices, (z^2, z) by (1/s^2, m/s^2).

    The squares cancel where s is small against z: hence doubles, about the mean of all m.
    """
    centre = in_double(loc.detach()).mean(0)
    mean, precision = in_double(loc) - centre, in_double(scale).square().reciprocal()
    coefficients = torch.cat([-0.5 * precision, mean * precision], -1).mT
    log_norm = 0.5 * (math.log(2 * math.pi) - precision.log() + mean.square() * precision)
    constant = log_weights - log_norm.sum(-1)

    def density(points: Tensor) -> Tensor:
        centred = in_double(points) - centre
        return torch.addmm(constant, torch.cat([centred.square(), centred], -1), coefficients)

    return density


def draw_each(components: Any, index: Int[Tensor, " draws"]) -> Float[Tensor, "draws *event"]:
    """One draw of each named component, differentiable where the components' draws are."""
    if isinstance(components, MultivariateNormal):
        noise = torch.randn_like(loc := components.loc[index])
        return loc + (components.scale_tril[index] @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(components, Independent) and isinstance(components.base_dist, Normal):
        loc, scale = components.base_dist.loc[index], components.base_dist.scale[index]
        return loc + scale * torch.randn_like(loc)
    return _pick(components, index)


def _pick(components: Any, index: Int[Tensor, " draws"]) -> Float[Tensor, "draws *event"]:
    """From as many draws of every component as the most frequent one needs."""
    order = index.argsort()
    counts = index.bincount(minlength=components.batch_shape[0])
    firsts = counts.cumsum(0) - counts
    number = torch.empty_like(index)
    number[order] = torch.arange(len(index), device=index.device) - firsts[index[order]]
    shape = (int(counts.max()),)
    draws = components.rsample(shape) if components.has_rsample else components.sample(shape)
    picked: Tensor = draws[number, index]
    return picked
