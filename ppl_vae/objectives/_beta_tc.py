"""The ELBO's KL taken apart into information, total correlation and dimensions."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._kl import factorises
from ppl_vae.particles import Particles


@final
class BetaTC(Objective):
    """ELBO reported; ascends ``E log p(x|z) - alpha I(x; z) - beta TC(z) - gamma sum_d KL_d``.

    With q(z) the guide averaged over the data: I = E log q(z|x)/q(z), TC = E log q(z)/prod_d
    q(z_d), the rest E log prod_d q(z_d)/p(z); with all factors 1 they add up to the KL. log q(z) is
    estimated from the batch with minibatch-stratified weights: 1/N for the datum that z was drawn
    from, (N - 1)/(N (B - 1)) for each of the others. They make the estimate of q(z) unbiased; its
    logarithm is low by O(1/B). Costs K decoder evaluations per datum and K B^2 evaluations of log
    q.

    Args:
        num_particles: K.
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

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean log-weight: the true ELBO, in nats."""
        return particles.log_weight.mean(0)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The log-likelihood minus the three weighted terms."""
        num_data = self.context.num_data or particles.batch_size
        joint, product = aggregate_log_densities(particles, num_data)
        log_guide, log_prior = particles.log_proposal, particles.log_latent_prior
        information, correlation = log_guide - joint, joint - product
        shaped = self.alpha * information + self.beta * correlation
        shaped = shaped + self.gamma * (product - log_prior)
        return (particles.log_likelihood - shaped).mean(0)

    def ascended(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The surrogate itself."""
        return self.surrogate(particles, bound)


def aggregate_log_densities(
    particles: Particles, num_data: int
) -> tuple[Float[Tensor, "particles batch"], Float[Tensor, "particles batch"]]:
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
    log_weight = _stratified_log_weights(particles.batch_size, num_data).to(z)
    log_weight = log_weight.unsqueeze(1)
    joint = torch.logsumexp(per_dimension.sum(-1) + log_weight, -1)
    product = torch.logsumexp(per_dimension + log_weight.unsqueeze(-1), -2).sum(-1)
    return joint.mT, product.mT


def _stratified_log_weights(batch: int, num_data: int) -> Float[Tensor, "batch batch"]:
    """Log of 1/N on the diagonal and (N - 1)/(N (B - 1)) elsewhere; rows sum to 1."""
    num_data = max(num_data, batch)
    others = (num_data - 1) / (num_data * (batch - 1))
    weights = torch.full((batch, batch), others, dtype=torch.float64)
    return weights.fill_diagonal_(1 / num_data).log()
