"""Every datum's draw under every datum's guide."""

from jaxtyping import Float, Shaped
from torch import Tensor

from ppl_vae.particles.sites import Program, log_densities, run


def cross_log_guide(
    guide: Program, x: Shaped[Tensor, "batch *event"], *, max_plate_nesting: int = 1
) -> Float[Tensor, "draws batch"]:
    """``log q(z_j|x_i)`` for one draw z_j ~ q(.|x_j) of each datum: row j, column i, in nats.

    The guide runs once more, on B particles: no decoder evaluation, and B^2 densities.

    Args:
        guide: Pyro guide with its data plate at dim -1.
        x: A batch, shape ``(batch, *event)``.
        max_plate_nesting: Plate dimensions the guide uses, the data plate included.
    """
    drawn = run(guide, x, 1, max_plate_nesting)
    latents = {name: _as_particles(z, max_plate_nesting) for name, z in drawn.latents.items()}
    crossed = run(guide, x, len(x), max_plate_nesting, latents, drawn.subsamples)
    first, *others = log_densities(crossed, max_plate_nesting + 1).values()
    return sum(others, first)


def _as_particles(z: Tensor, data_dim: int) -> Tensor:
    """``(1, *plates, batch, *event)`` -> ``(batch, *plates, batch, *event)``, alike in all data."""
    shape = list(z.shape)
    shape[0] = shape[data_dim]
    return z.transpose(0, data_dim).expand(shape)
