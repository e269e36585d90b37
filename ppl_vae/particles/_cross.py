"""Every datum's draw under every datum's guide."""

from jaxtyping import Float, Shaped
from torch import Tensor

from ppl_vae.particles._programs import Programs
from ppl_vae.particles._sites import log_densities


def cross_log_guide(
    programs: Programs, x: Shaped[Tensor, "batch *event"]
) -> Float[Tensor, "draws batch"]:
    """``log q(z_j|x_i)`` for one draw z_j ~ q(.|x_j) of each datum: row j, column i, in nats.

    The guide runs once more, on B particles: no decoder evaluation, and B^2 densities.

    Args:
        programs: With the guide; the model plays no part.
        x: A batch, shape ``(batch, *event)``.
    """
    drawn, dim = programs.run_guide(x, 1), programs.max_plate_nesting
    latents = {name: _as_particles(z, dim) for name, z in drawn.latents.items()}
    crossed = programs.run_guide(x, len(x), latents, drawn.subsamples)
    first, *others = log_densities(crossed, programs.num_dims).values()
    return sum(others, first)


def _as_particles(z: Tensor, data_dim: int) -> Tensor:
    """``(1, *plates, batch, *event)`` -> ``(batch, *plates, batch, *event)``, alike in all data."""
    shape = list(z.shape)
    shape[0] = shape[data_dim]
    return z.transpose(0, data_dim).expand(shape)
