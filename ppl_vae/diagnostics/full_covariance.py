"""The best normal with a full covariance for each datum by itself."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from ppl_vae.objectives import STL
from ppl_vae.particles import Program, draw_particles
from ppl_vae.refinement import Refinement


def refine_full_covariance(
    model: Program,
    guide: Program,
    x: Float[Tensor, "batch *event"],
    refinement: Refinement,
    max_plate_nesting: int = 1,
) -> Program:
    """``argmax_(m, L) L_i[Normal(m_i, L_i L_i')]``, started at a guide of independent dimensions.

    ``L = diag(s) (I + C)`` with the guide's scales s stretched, and C strictly lower triangular,
    from 0. As for :func:`~ppl_vae.refinement.refine` the bound is ascended by Adam at a falling
    rate. Draws from the caller's random state.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide of one Normal vector site.
        x: The batch.
        refinement: How far to go.
        max_plate_nesting: Plate dimensions the programs use.

    Returns:
        A Pyro guide for this batch, and no other.

    Raises:
        ValueError: If the guide has another form.
    """
    name, loc, scale = _only_normal(model, guide, x, max_plate_nesting)
    values = [torch.zeros_like(loc), torch.zeros_like(loc), torch.zeros_like(loc.diag_embed())]
    values = [value.requires_grad_() for value in values]

    def full(x: Tensor) -> None:
        shift, stretch, lower = values
        identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        factor = (scale * stretch.exp()).unsqueeze(-1) * (identity + lower.tril(-1))
        with pyro.plate("data", len(x)):
            mean = loc + shift * scale
            pyro.sample(name, dist.MultivariateNormal(mean, scale_tril=factor, validate_args=False))

    objective = STL(refinement.num_particles, max_plate_nesting=max_plate_nesting)
    optimizer = torch.optim.Adam(values)
    with torch.enable_grad():
        for step in range(refinement.steps):
            rate = refinement.learning_rate * (1 - step / refinement.steps)
            optimizer.param_groups[0]["lr"] = rate
            loss = objective.differentiable_loss(model, full, x)
            for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
                value.grad = gradient
            optimizer.step()
    for value in values:
        value.requires_grad_(False)
    return full


def _only_normal(
    model: Program, guide: Program, x: Tensor, max_plate_nesting: int
) -> tuple[str, Tensor, Tensor]:
    """Name, loc and scale, (batch, latent), of the guide's one site."""
    with torch.no_grad():
        particles = draw_particles(model, guide, x, max_plate_nesting=max_plate_nesting)
    (name, site), *others = particles.guide.items()
    base = site.base_dist if isinstance(site, Independent) else None
    if others or not isinstance(base, Normal) or base.loc.shape[-1] < 2 or site.event_dim != 1:
        raise ValueError(
            "a full covariance needs a guide of one site, Normal(...).to_event(1) of 2 dimensions "
            f"or more, got {', '.join(particles.guide)}: leave out full_covariance."
        )
    shape = (len(x), base.loc.shape[-1])
    return name, base.loc.reshape(shape), base.scale.expand_as(base.loc).reshape(shape)
