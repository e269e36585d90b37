"""Gradients put together from a density's direct part, its score and its path.

With densities taken at leaf copies z' of the draws z(phi) (``graph="split"``), a density's gradient
splits into its direct part at fixed z', and the path ``d/dz' . dz/dphi``. It is the autograd graph
that tells them apart, so that parameters shared by model and guide, learned priors and guides with
several sites all get each part once.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import Particles


def leaf_gradients(
    particles: Particles, log_density: Float[Tensor, "particles batch"]
) -> dict[str, Tensor]:
    """``d log_density_k / dz'_k`` by site, detached, of the shape of the latents."""
    leaves = {name: z for name, z in particles.latents.items() if z.requires_grad}
    if not log_density.requires_grad or not leaves:
        return {name: torch.zeros_like(z) for name, z in particles.latents.items()}
    # A density of particle k and datum i depends on no other draw: the sum keeps them apart.
    found = torch.autograd.grad(
        log_density.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
    )
    gradients = {name: torch.zeros_like(z) for name, z in particles.latents.items()}
    gradients.update({n: g for n, g in zip(leaves, found, strict=True) if g is not None})
    return gradients


def path_term(
    particles: Particles,
    log_density: Float[Tensor, "particles batch"],
    weight: Float[Tensor, "particles batch"],
) -> Float[Tensor, " batch"]:
    """A term whose gradient is ``sum_k weight_k (d log_density_k / dz_k) (dz_k / dphi)``."""
    if particles.paths is None:
        raise ValueError("a path term needs particles drawn with graph='split'.")
    gradients = leaf_gradients(particles, log_density)
    total = torch.zeros_like(particles.log_likelihood[0])
    for name, z in particles.paths.items():
        total = total + _dot(particles, name, weight, gradients[name], z)
    return total


def _dot(
    particles: Particles, name: str, weight: Tensor, gradient: Tensor, z: Tensor
) -> Float[Tensor, " batch"]:
    """``sum_k weight_k <gradient_k, z_k>`` for every datum."""
    event = particles.guide[name].event_dim
    between = z.dim() - event - 2
    shape = weight.shape[:1] + (1,) * between + weight.shape[1:] + (1,) * event
    product = weight.detach().reshape(shape) * gradient * z
    batch = 1 + between
    return product.sum([d for d in range(product.dim()) if d != batch])
