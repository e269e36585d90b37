"""Objectives that match the aggregate posterior to the prior by maximum mean discrepancy."""

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.particles import Particles, side_by_side

_KERNEL_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@final
class MMD(Objective):
    """ELBO reported; ascends ``E log p(x|z) - weight MMD^2(q(z), p(z))``.

    q(z) is the guide averaged over the data, so that single data keep freedom that a KL would take
    from them. MMD^2 is the unbiased U-statistic over pairs of different data of the batch, with
    inverse multiquadratic kernels; it needs batches of 2 or more. Costs K decoder evaluations per
    datum.

    Args:
        num_particles: K.
        weight: Of MMD^2, in nats.

    References:
        Tolstikhin et al., 2018, Wasserstein auto-encoders.
    """

    claims = Claims(
        name="mmd:K,weight=W",
        formula="mean_k log w_k",
        gradient="of E log p(x|z) - weight MMD^2(q(z), p(z)), unbiased for it",
        bias="the gradient follows no bound",
        use="a Wasserstein autoencoder",
        reference="Tolstikhin et al., 2018, Wasserstein auto-encoders",
        unbiased=frozenset(),
    )

    simulates: Literal["nothing", "latents", "data"] = "latents"

    def __init__(self, num_particles: int = 1, *, weight: float = 100.0) -> None:
        super().__init__(num_particles)
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"MMD needs a weight of 0 or more, got {weight}.")
        self.weight = weight

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean log-weight: the true ELBO, in nats."""
        return particles.log_weight.mean(0)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Log-likelihood minus the weighted discrepancy, which every datum shares."""
        return particles.log_likelihood.mean(0) - self.weight * discrepancy(particles)

    def ascended(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The surrogate itself."""
        return self.surrogate(particles, bound)


@final
class InfoVAE(Objective):
    """ELBO reported; ascends ``E log p(x|z) - (1 - alpha) KL - (alpha + weight - 1) MMD^2``.

    alpha is the weight of the mutual information of x and z that the guide is allowed: alpha = 0
    and weight = 1 is the ELBO, alpha = 1 is :class:`MMD`. Costs K decoder evaluations per datum.

    Args:
        num_particles: K.
        alpha: At most 1.
        weight: lambda, at least 1 - alpha.

    References:
        Zhao, Song and Ermon, 2019, InfoVAE: balancing learning and inference in variational
        autoencoders.
    """

    claims = Claims(
        name="info-vae:K,alpha=A,weight=W",
        formula="mean_k log w_k",
        gradient="of E log p(x|z) - (1 - alpha) KL - (alpha + weight - 1) MMD^2, unbiased for it",
        bias="the gradient follows no bound",
        use="keeps information in z under a strong decoder",
        reference="Zhao, Song and Ermon, 2019, InfoVAE",
        unbiased=frozenset(),
    )

    simulates: Literal["nothing", "latents", "data"] = "latents"

    def __init__(
        self,
        num_particles: int = 1,
        *,
        alpha: float = 0.0,
        weight: float = 100.0,
    ) -> None:
        super().__init__(num_particles)
        if not alpha <= 1:
            raise ValueError(f"InfoVAE needs alpha <= 1, got {alpha}.")
        if not (alpha + weight >= 1 and math.isfinite(weight)):
            raise ValueError(f"InfoVAE needs a weight of 1 - alpha or more, got {weight}.")
        self.alpha, self.weight = alpha, weight

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean log-weight: the true ELBO, in nats."""
        return particles.log_weight.mean(0)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The weighted ELBO minus the weighted discrepancy, which every datum shares."""
        kl = (particles.log_likelihood - particles.log_weight).mean(0)
        fit = particles.log_likelihood.mean(0) - (1 - self.alpha) * kl
        factor = self.alpha + self.weight - 1
        return fit - factor * discrepancy(particles) if factor else fit

    def ascended(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The surrogate itself."""
        return self.surrogate(particles, bound)


def discrepancy(particles: Particles) -> Float[Tensor, ""]:
    """Unbiased MMD^2 between the aggregate posterior and the prior, from one batch.

    Raises:
        ValueError: If the batch has one datum, the particles come without prior draws, or a learned
            prior has no reparameterised sampler.
    """
    if particles.simulation is None:
        raise ValueError("MMD needs draws of the prior: take particles from the objective's draw.")
    if particles.batch_size < 2:
        raise ValueError("MMD needs batches of 2 data or more: pairs within a datum are excluded.")
    for name in particles.simulation.untrained:
        raise ValueError(
            f"the prior of latent site {name!r} ({type(particles.prior[name]).__name__}) has no "
            "reparameterised sampler, so MMD would not train its parameters: fix them with "
            "requires_grad_(False), or use another prior or objective."
        )
    q = _flat(particles.latents, particles)
    p = _flat(particles.simulation.latents, particles)
    scale = 2.0 * q.shape[-1]
    same = _kernel(q, q, scale)
    # Draws of one datum are not independent draws of the aggregate posterior.
    owner = torch.arange(len(q), device=q.device) % particles.batch_size
    other = (owner.unsqueeze(0) != owner.unsqueeze(1)).to(same.dtype)
    within_q = (same * other).sum() / other.sum()
    prior = _kernel(p, p, scale)
    pairs = len(p) * (len(p) - 1)
    within_p = (prior.sum() - prior.diagonal().sum()) / pairs
    return within_q + within_p - 2 * _kernel(q, p, scale).mean()


def _flat(latents: dict[str, Tensor], particles: Particles) -> Float[Tensor, "draws latent"]:
    """All sites side by side, one row a draw, particle by particle."""
    sites = [side_by_side(latents[name], q.event_dim) for name, q in particles.guide.items()]
    return torch.cat(sites, -1).flatten(0, 1)


def _kernel(a: Tensor, b: Tensor, scale: float) -> Float[Tensor, "left right"]:
    """``sum_c c scale / (c scale + |a - b|^2)``; the scale is 2 d for a prior of unit variance."""
    squared = (a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * a @ b.mT).clamp(min=0)
    total = torch.zeros_like(squared)
    for factor in _KERNEL_SCALES:
        total = total + factor * scale / (factor * scale + squared)
    return total
