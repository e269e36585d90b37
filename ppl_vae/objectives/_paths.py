"""Gradients put together from a density's direct part, its score and its path.

With densities taken at leaf copies z' of the draws z(phi) (``graph="split"``), a density's gradient
splits into its direct part at fixed z', and the path ``d/dz' . dz/dphi``. It is the autograd graph
that tells them apart, so that parameters shared by model and guide, learned priors and guides with
several sites all get each part once.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import Particles, Programs
from ppl_vae.randomness import seeded


def leaf_gradients(
    particles: Particles, log_density: Float[Tensor, "particles batch"]
) -> dict[str, Tensor]:
    """``d log_density_k / dz'_k`` by site, detached, of the shape of the latents."""
    leaves = {name: z for name, z in particles.latents.items() if z.requires_grad}
    if not log_density.requires_grad or not leaves:
        return {name: torch.zeros_like(z) for name, z in particles.latents.items()}
    # A density of particle k and datum i depends on no other draw: the sum keeps them apart.
    # The loss goes through the same graph later on; a density may not depend on every site.
    per_leaf = torch.autograd.grad(
        log_density.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
    )
    gradients = {name: torch.zeros_like(z) for name, z in particles.latents.items()}
    gradients.update({n: g for n, g in zip(leaves, per_leaf, strict=True) if g is not None})
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
        # Shape of z: particles, inner plates, batch, event.
        event = particles.guide[name].event_dim
        inner = z.dim() - event - 2
        shape = weight.shape[:1] + (1,) * inner + weight.shape[1:] + (1,) * event
        # Weight and gradient are constants: the term has a gradient through z alone.
        product = weight.detach().reshape(shape) * gradients[name] * z
        total = total + product.sum([d for d in range(product.dim()) if d != 1 + inner])
    return total


def split_parameters(
    programs: Programs, x: Float[Tensor, "batch *event"], parameters: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split parameters into theta (of the model) and phi (of the guide).

    theta: those that log p(x, z) depends on at fixed z. phi: those that the draws, or log q(z|x) at
    fixed z, depend on. The autograd graph decides, so that a parameter that both programs use is
    in both, and one that neither uses in none. Two draws are made, in a random state of their own.

    Args:
        programs: Model and guide.
        x: A few data, shape ``(batch, *event)``.
        parameters: Name to leaf tensor that requires a gradient.
    """
    with seeded(0), torch.enable_grad():
        particles = programs.draw(x, 2, graph="split")
    # Discrete draws carry no gradient.
    paths = [z for z in (particles.paths or {}).values() if z.is_floating_point()]
    model_side = [particles.log_joint]
    guide_side = [particles.log_proposal, *paths]
    return (
        {n: p for n, p in parameters.items() if _depends(model_side, p)},
        {n: p for n, p in parameters.items() if _depends(guide_side, p)},
    )


def _depends(outputs: list[Tensor], parameter: Tensor) -> bool:
    reachable = [output.sum() for output in outputs if output.requires_grad]
    if not reachable:
        return False
    # One sum, one backward pass. A gradient of 0 is a dependence; None alone is not.
    total = torch.stack(reachable).sum()
    (gradient,) = torch.autograd.grad(total, [parameter], retain_graph=True, allow_unused=True)
    return gradient is not None
