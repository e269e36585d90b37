"""Guides of larger families for each datum by itself: a normal with full covariance, a flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from ppl_vae.flows import RowFlows
from ppl_vae.particles import Program, Programs
from ppl_vae.randomness import Stream, seeded
from ppl_vae.refinement import Refinement

_LONGER = 3
"""Factor on the steps of a normal: a shape is harder to find than a place and a width."""
_JUDGED = 200
"""Draws per datum by which a larger family's guide is told from where it started."""


def refine_full_covariance(
    programs: Programs, x: Float[Tensor, "batch *event"], refinement: Refinement
) -> Program:
    """``argmax_(m, L) L_i[Normal(m_i, L_i L_i')]``, started at a guide of independent dimensions.

    ``L = diag(s) (I + C)`` with the guide's scales s stretched, and C strictly lower triangular,
    from 0. As for :func:`~ppl_vae.refinement.refine` the bound is ascended by Adam at a falling
    rate. Draws from the caller's random state.

    Args:
        programs: Model, and a guide of one Normal vector site.
        x: The batch.
        refinement: How far to go.

    Returns:
        A Pyro guide for this batch, and no other.

    Raises:
        ValueError: If the guide has another form.
    """
    name, loc, scale = only_normal("a full covariance", programs, x)
    if loc.shape[-1] < 2:
        raise ValueError(
            "a full covariance needs a guide of 2 dimensions or more, got 1: leave out "
            "full_covariance."
        )
    affine = _RowAffine(loc, scale)

    def full(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            mean, factor = affine()
            pyro.sample(name, dist.MultivariateNormal(mean, scale_tril=factor, validate_args=False))

    _ascend_or_stay(refinement, programs.with_guide(full), x, affine.values)
    return full


def refine_flow(
    programs: Programs, x: Float[Tensor, "batch *event"], refinement: Refinement
) -> Program:
    """``argmax_T L_i[law of m_i + L_i T_i(noise)]``, started at a guide of independent dimensions.

    T of each datum is a flow of its own (:class:`~ppl_vae.flows.RowFlows`), from the identity, and
    m and L are those of a normal with a full covariance, from the guide's: without a step the
    result is the guide. As for :func:`~ppl_vae.refinement.refine` the bound is ascended by Adam at
    a falling rate. Draws from the caller's random state.

    Args:
        programs: Model, and a guide of one Normal vector site.
        x: The batch.
        refinement: How far to go; the flow takes three times the steps.

    Returns:
        A Pyro guide for this batch, and no other.

    Raises:
        ImportError: If zuko is not installed.
        ValueError: If the guide has another form.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """
    name, loc, scale = only_normal("a flow", programs, x)
    flows, affine = RowFlows(*loc.shape).to(loc), _RowAffine(loc, scale)

    def flow(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(name, flows(*affine()))

    longer = replace(refinement, steps=_LONGER * refinement.steps)
    values = [*affine.values, *flows.parameters()]
    _ascend_or_stay(longer, programs.with_guide(flow), x, values)
    return flow


def _ascend_or_stay(
    refinement: Refinement,
    programs: Programs,
    x: Float[Tensor, "batch *event"],
    values: Sequence[Tensor],
) -> None:
    """Climb the ELBO, and go back to the start for each datum whose ELBO fell.

    Adam comes to rest near an optimum, not at it: a larger family, started at the best of a smaller
    one, would otherwise end below it where it has nothing to gain. The two ends are judged by draws
    of their own, the same for both. Draws from the caller's random state.

    Args:
        refinement: How to climb.
        programs: Model, and the guide that the values are tensors of.
        x: The batch.
        values: Leaf tensors, each with an entry for every datum; changed in place.
    """
    start = [value.detach().clone() for value in values]
    refinement.ascend(programs, x, values)
    # Copies, as values are overwritten in place while both ends are judged.
    found = [value.detach().clone() for value in values]
    # One seed for both ends, whose difference then has little noise.
    seed = int(torch.randint(2**31, ()))

    def bound() -> Float[Tensor, " batch"]:
        with seeded(seed, Stream.TRAINING), torch.no_grad():
            return programs.draw(x, _JUDGED).log_weight.mean(0)

    after = bound()
    _assign(values, start)
    better = after > bound()
    _assign(
        values,
        [
            torch.where(better.reshape(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(found, start, strict=True)
        ],
    )


@torch.no_grad()
def _assign(values: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for value, other in zip(values, others, strict=True):
        value.copy_(other)


@final
class _RowAffine:
    """``m + s d`` and ``diag(s exp(r)) (I + C)`` for every datum, C strictly lower triangular.

    Args:
        loc: m, shape (batch, latent).
        scale: s, of the same shape.

    Attributes:
        values: d, r and C, from 0.
    """

    def __init__(
        self, loc: Float[Tensor, "batch latent"], scale: Float[Tensor, "batch latent"]
    ) -> None:
        self._loc, self._scale = loc, scale
        self._identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        self.values = [torch.zeros_like(v) for v in (loc, loc, loc.diag_embed())]

    def __call__(
        self,
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent latent"]]:
        """The mean and the Cholesky factor."""
        shift, stretch, lower = self.values
        # exp keeps the diagonal positive, so that every step leaves a Cholesky factor.
        factor = (self._scale * stretch.exp()).unsqueeze(-1) * (self._identity + lower.tril(-1))
        return self._loc + shift * self._scale, factor


def only_normal(
    family: str, programs: Programs, x: Float[Tensor, "batch *event"]
) -> tuple[str, Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
    """Name, loc and scale of the guide's one site.

    Raises:
        ValueError: If the guide has another form; says that ``family`` needs it.
    """
    with torch.no_grad():
        particles = programs.draw(x)
    (name, site), *others = particles.guide.items()
    base = site.base_dist if isinstance(site, Independent) else None
    if others or not isinstance(base, Normal) or site.event_dim != 1:
        raise ValueError(
            f"{family} needs a guide of one site, Normal(...).to_event(1), got "
            f"{', '.join(particles.guide)}: leave it out."
        )
    shape = (len(x), base.loc.shape[-1])
    return name, base.loc.reshape(shape), base.scale.expand_as(base.loc).reshape(shape)
