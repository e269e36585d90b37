"""The terms of an ELBO's Kullback-Leibler divergence, per latent site and per dimension."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ppl_vae.particles import Particles, side_by_side


def site_kl(particles: Particles, name: str) -> Float[Tensor, "particles batch"]:
    """A term whose mean over particles estimates the site's KL: exact where it can be, in nats.

    The closed form, where torch registers one and where :func:`closed_form_is_exact`; otherwise
    ``log q - log p``.
    """
    monte_carlo = particles.log_guide[name] - particles.log_prior[name]
    if not closed_form_is_exact(particles, name):
        return monte_carlo
    try:
        kl: Tensor = kl_divergence(particles.guide[name], particles.prior[name])
    except NotImplementedError:
        return monte_carlo
    between = tuple(range(1, kl.dim() - 1))
    return kl.sum(between) if between else kl


def dimension_kl(particles: Particles, name: str) -> Float[Tensor, "particles batch latent"] | None:
    """The KL of each dimension in closed form, or None if it has none that is exact."""
    guide, prior = particles.guide[name], particles.prior[name]
    if not (closed_form_is_exact(particles, name) and factorises(guide) and factorises(prior)):
        return None
    try:
        kl: Tensor = kl_divergence(guide.base_dist, prior.base_dist)
    except NotImplementedError:
        return None
    return side_by_side(kl, 1)


def dimension_log_densities(
    particles: Particles, name: str
) -> tuple[Float[Tensor, "particles batch latent"], Float[Tensor, "particles batch latent"]]:
    """Log q and log p of each dimension of the draws.

    Raises:
        ValueError: If the site's guide or prior does not factorise over its dimensions.
    """
    guide, prior = particles.guide[name], particles.prior[name]
    if name in particles.masked or not (factorises(guide) and factorises(prior)):
        raise ValueError(
            f"latent site {name!r} has no KL per dimension: its guide ({type(guide).__name__}) and "
            f"prior ({type(prior).__name__}) must both factorise, such as Normal(...).to_event(1); "
            "take the whole site as one group instead."
        )
    z = particles.latents[name]
    log_guide, log_prior = guide.base_dist.log_prob(z), prior.base_dist.log_prob(z)
    return side_by_side(log_guide, 1), side_by_side(log_prior, 1)


def closed_form_is_exact(particles: Particles, name: str) -> bool:
    """Whether ``KL(q(z_i|.) || p(z_i|.))`` of two distributions is the mean of ``log q - log p``.

    Given the latents drawn before it, the KL of the site is that of its two distributions. That
    holds only while p(z_i|.) does not depend on z_i itself through a latent that the guide drew
    later, so every latent that precedes the site in the model must precede it in the guide too.
    A mask must be absent as well: a closed form would ignore it.
    """
    before_in_model = _before(name, list(particles.log_prior))
    before_in_guide = _before(name, list(particles.log_guide))
    return name not in particles.masked and before_in_model <= before_in_guide


def factorises(distribution: Any) -> bool:
    """Whether the event is one dimension of independent scalars."""
    return (
        isinstance(distribution, Independent)
        and distribution.reinterpreted_batch_ndims == 1
        and distribution.base_dist.event_shape == torch.Size()
    )


def _before(name: str, order: list[str]) -> set[str]:
    return set(order[: order.index(name)])
