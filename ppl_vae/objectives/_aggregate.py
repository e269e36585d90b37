"""Objectives on the aggregate posterior q(z): MMD, InfoVAE and total correlation."""

import math
from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.objectives._base import Claims, Objective, PerDatum, PerDraw
from ppl_vae.objectives._kl import factorises
from ppl_vae.particles import Particles, side_by_side

_KERNEL_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class AggregateObjective(Objective):
    """An objective that reports the ELBO and ascends its surrogate, which is no bound."""

    def bound(self, particles: Particles) -> PerDatum:
        """Mean log-weight: the true ELBO, in nats."""
        return particles.log_weight.mean(0)

    def ascended(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The surrogate itself."""
        return self.surrogate(particles, bound)

    @abstractmethod
    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Term that is differentiated and ascended, per datum."""


@final
class MMD(AggregateObjective):
    """ELBO reported; ascends ``E log p(x|z) - weight MMD^2(q(z), p(z))``.

    q(z) is the guide averaged over the data, so that single data keep freedom that a KL would take
    from them. MMD^2 is the unbiased U-statistic over pairs of different data of the batch, with
    inverse multiquadratic kernels; it needs batches of 2 or more. Costs K decoder evaluations per
    datum.

    Args:
        num_particles: Number of particles K.
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

    simulates = "latents"
    couples = "MMD over pairs of data of a batch"

    def __init__(self, num_particles: int = 1, *, weight: float = 100.0) -> None:
        super().__init__(num_particles)
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"MMD needs a weight of 0 or more, got {weight}.")
        self.weight = weight

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Log-likelihood minus the weighted discrepancy, which every datum shares."""
        return particles.log_likelihood.mean(0) - self.weight * discrepancy(particles)


@final
class InfoVAE(AggregateObjective):
    """ELBO reported; ascends ``E log p(x|z) - (1 - alpha) KL - (alpha + weight - 1) MMD^2``.

    alpha is the weight of the mutual information of x and z that the guide is allowed: alpha = 0
    and weight = 1 is the ELBO, alpha = 1 is :class:`MMD`. Costs K decoder evaluations per datum.

    Args:
        num_particles: Number of particles K.
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

    simulates = "latents"

    def __init__(
        self, num_particles: int = 1, *, alpha: float = 0.0, weight: float = 100.0
    ) -> None:
        super().__init__(num_particles)
        if not alpha <= 1:
            raise ValueError(f"InfoVAE needs alpha <= 1, got {alpha}.")
        if not (alpha + weight >= 1 and math.isfinite(weight)):
            raise ValueError(f"InfoVAE needs a weight of 1 - alpha or more, got {weight}.")
        self.alpha, self.weight = alpha, weight
        if alpha + weight > 1:
            self.couples = "MMD over pairs of data of a batch"

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The weighted ELBO minus the weighted discrepancy, which every datum shares."""
        kl = (particles.log_likelihood - particles.log_weight).mean(0)
        fit = particles.log_likelihood.mean(0) - (1 - self.alpha) * kl
        # A factor of 0 is the weighted ELBO, which needs no pairs of data: a batch of 1 will do.
        factor = self.alpha + self.weight - 1
        return fit - factor * discrepancy(particles) if factor else fit


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
    # Draws of such a prior carry no gradient, which would go unnoticed.
    for name in particles.simulation.untrained:
        raise ValueError(
            f"the prior of latent site {name!r} ({type(particles.prior[name]).__name__}) has no "
            "reparameterised sampler, so MMD would not train its parameters: fix them with "
            "requires_grad_(False), or use another prior or objective."
        )
    q = _flat(particles.latents, particles)
    p = _flat(particles.simulation.latents, particles)
    # Draws of one datum are not independent draws of the aggregate posterior.
    owner = torch.arange(len(q), device=q.device) % particles.batch_size
    # E|a - b|^2 of two draws of a standard normal in d dimensions: kernels stand about this width.
    return squared_mmd(q, p, 2.0 * q.shape[-1], owner)


def squared_mmd(
    a: Float[Tensor, "left features"],
    b: Float[Tensor, "right features"],
    scale: float,
    owner: Int[Tensor, " left"] | None = None,
) -> Float[Tensor, ""]:
    """Unbiased MMD^2 between two distributions, from independent draws of each.

    ``E k(a, a') + E k(b, b') - 2 E k(a, b)`` with ``k(a, b) = sum_c c scale / (c scale +
    |a - b|^2)`` over seven factors c from 0.1 to 10.

    Args:
        a: Draws of the one.
        b: Draws of the other.
        scale: Squared distance that is typical of two draws.
        owner: Pairs of draws a with the same number are dependent, and left out; None: all draws
            are independent.

    References:
        Gretton, Borgwardt, Rasch, Scholkopf and Smola, 2012, A kernel two-sample test.
    """
    owner = torch.arange(len(a), device=a.device) if owner is None else owner
    same = _kernel(a, a, scale)
    other = (owner.unsqueeze(0) != owner.unsqueeze(1)).to(same.dtype)
    within_a = (same * other).sum() / other.sum()
    within = _kernel(b, b, scale)
    # These are independent: only pairs of a draw with itself are left out.
    pairs = len(b) * (len(b) - 1)
    within_b = (within.sum() - within.diagonal().sum()) / pairs
    return within_a + within_b - 2 * _kernel(a, b, scale).mean()


def _flat(latents: dict[str, Tensor], particles: Particles) -> Float[Tensor, "draws latent"]:
    """All sites side by side, one row a draw, particle by particle."""
    sites = [side_by_side(latents[name], q.event_dim) for name, q in particles.guide.items()]
    return torch.cat(sites, -1).flatten(0, 1)


def _kernel(a: Tensor, b: Tensor, scale: float) -> Float[Tensor, "left right"]:
    """``sum_c c scale / (c scale + |a - b|^2)``; the scale is 2 d for a prior of unit variance."""
    # The expanded square rounds to below 0 for equal points.
    squared = (a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * a @ b.mT).clamp(min=0)
    total = torch.zeros_like(squared)
    for factor in _KERNEL_SCALES:
        total = total + factor * scale / (factor * scale + squared)
    return total


@final
class BetaTC(AggregateObjective):
    """ELBO reported; ascends ``E log p(x|z) - alpha I(x; z) - beta TC(z) - gamma sum_d KL_d``.

    With q(z) the guide averaged over the data: I = E log q(z|x)/q(z), TC = E log q(z)/prod_d
    q(z_d), the rest E log prod_d q(z_d)/p(z); with all factors 1 they add up to the KL. log q(z) is
    estimated from the batch with minibatch-stratified weights: 1/N for the datum that z was drawn
    from, (N - 1)/(N (B - 1)) for each of the others. They make the estimate of q(z) unbiased; its
    logarithm is low by O(1/B). Costs K decoder evaluations per datum and K B^2 evaluations of log
    q.

    Args:
        num_particles: Number of particles K.
        beta: Of the total correlation.
        alpha: Of the index-code mutual information.
        gamma: Of the dimension-wise KL.

    References:
        Chen et al., 2018, Isolating sources of disentanglement in variational autoencoders,
        appendix C.2. The weights there give one of the other data the remainder; these are their
        average over which one it is, the same in expectation and less noisy.
    """

    claims = Claims(
        name="beta-tc:K,beta=B,alpha=A,gamma=G",
        formula="mean_k log w_k",
        gradient="of E log p(x|z) - alpha I - beta TC - gamma sum_d KL_d, bias O(1/B)",
        bias="the gradient follows no bound; O(1/B) from the logarithm of q(z)",
        use="latent dimensions that vary independently",
        reference="Chen et al., 2018, Isolating sources of disentanglement",
        unbiased=frozenset(),
    )
    couples = "log q(z) over the data of a batch"

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
    ) -> None:
        super().__init__(num_particles)
        for name, value in (("beta", beta), ("alpha", alpha), ("gamma", gamma)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"BetaTC needs {name} >= 0, got {value}.")
        self.beta, self.alpha, self.gamma = beta, alpha, gamma

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The log-likelihood minus the three weighted terms."""
        # Where the size of the training set is unknown, the batch stands for it.
        num_data = self.context.num_data or particles.batch_size
        joint, product = aggregate_log_densities(particles, num_data)
        log_guide, log_prior = particles.log_proposal, particles.log_latent_prior
        information, correlation = log_guide - joint, joint - product
        shaped = self.alpha * information + self.beta * correlation
        shaped = shaped + self.gamma * (product - log_prior)
        return (particles.log_likelihood - shaped).mean(0)


def aggregate_log_densities(particles: Particles, num_data: int) -> tuple[PerDraw, PerDraw]:
    """Compute log q(z) and ``sum_d log q(z_d)`` of every draw, q averaged over ``num_data`` data.

    Raises:
        ValueError: If the batch has one datum, or the guide is more than one site of independent
            dimensions in the data plate alone.
    """
    names = list(particles.guide)
    alone = len(names) == 1 and particles.latents[names[0]].dim() == 3
    if not alone or not factorises(particles.guide[names[0]]):
        raise ValueError(
            f"beta-tc needs a guide with one latent site of independent dimensions in the data "
            f"plate alone, got sites {', '.join(names)}: use Normal(...).to_event(1) for one site."
        )
    if particles.batch_size < 2:
        raise ValueError("beta-tc needs batches of 2 data or more.")
    z = particles.latents[names[0]]
    # (datum of z, particle, 1, latent) under (particle, datum of q, latent).
    per_dimension = particles.guide[names[0]].base_dist.log_prob(z.transpose(0, 1).unsqueeze(2))
    # The weights have one row for each datum that z was drawn from, whatever the particle.
    log_weight = _stratified_log_weights(particles.batch_size, num_data).to(z)
    log_weight = log_weight.unsqueeze(1)
    joint = torch.logsumexp(per_dimension.sum(-1) + log_weight, -1)
    product = torch.logsumexp(per_dimension + log_weight.unsqueeze(-1), -2).sum(-1)
    return joint.mT, product.mT


def _stratified_log_weights(batch: int, num_data: int) -> Float[Tensor, "batch batch"]:
    """Log of 1/N on the diagonal and (N - 1)/(N (B - 1)) elsewhere; rows sum to 1."""
    # With N = B all weights are 1/B; a smaller N would give the own datum more than its share.
    num_data = max(num_data, batch)
    others = (num_data - 1) / (num_data * (batch - 1))
    weights = torch.full((batch, batch), others, dtype=torch.float64)
    return weights.fill_diagonal_(1 / num_data).log()
