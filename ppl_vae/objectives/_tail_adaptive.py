"""Variational inference by a tail-adaptive f-divergence."""

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._splitting import path_term
from ppl_vae.particles import Graph, Particles


@final
class TailAdaptive(Objective):
    """ELBO reported and followed by theta; phi: ``sum_k g_k (d log w_k/dz_k)(dz_k/dphi)``.

    g_k is 1 over the fraction of particles whose weight is at least w_k, normalised: it depends on
    the rank of w_k alone, so that it has all moments however heavy the tail of w, and leans the
    guide towards covering mass. theta is unbiased for the ELBO; phi follows a divergence that
    adapts to the tail, and no bound. Costs K decoder evaluations per datum, and one more backward
    pass.

    References:
        Wang, Liu and Liu, 2018, Variational inference with tail-adaptive f-divergence.
    """

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="tail-adaptive:K",
        formula="mean_k log w_k",
        gradient="theta unbiased; phi for an f-divergence that adapts to the tail of w",
        bias="phi follows no bound",
        use="a guide that covers mass, with bounded weights",
        reference="Wang, Liu and Liu, 2018, Variational inference with tail-adaptive f-divergence",
        unbiased=frozenset({"theta"}),
        zero_at_posterior=True,
    )

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean log-weight, in nats."""
        return particles.log_weight.mean(0)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of log p(x, z), path of log w by rank weights."""
        weight = rank_weights(particles.log_weight.detach())
        return particles.log_joint.mean(0) + path_term(particles, particles.log_weight, weight)


def rank_weights(
    log_weight: Float[Tensor, "particles batch"],
) -> Float[Tensor, "particles batch"]:
    """``1 / #{j: w_j >= w_k}``, normalised over the particles; ties share one weight."""
    descending = torch.sort(-log_weight, dim=0).values.mT.contiguous()
    at_least = torch.searchsorted(descending, -log_weight.mT.contiguous(), right=True).mT
    weight = 1 / at_least.to(log_weight.dtype)
    return weight / weight.sum(0)
