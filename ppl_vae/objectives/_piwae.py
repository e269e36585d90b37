"""Partially importance-weighted training: the model by one bound, the guide by another."""

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._iwae import whole_product
from ppl_vae.objectives._splitting import path_term
from ppl_vae.particles import Graph, Particles
from ppl_vae.weights import group_normalized_weights, log_mean_exp, normalized_weights


@final
class PIWAE(Objective):
    """``L_MK`` reported and followed by theta; phi follows ``MIWAE(K, num_bounds=M)``.

    theta: ``sum v grad_theta log p(x, z)`` with weights over all M K particles, unbiased for L_MK.
    phi: the whole gradient (path and score) of the mean of M bounds of K particles, unbiased for
    that. No parameter gets the sum of the two: direct effects on p follow the first, effects
    through q the second. Costs M K decoder evaluations per datum, and one more backward pass.

    Args:
        particles_each: K.
        num_bounds: M.

    References:
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better.
    """

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="piwae:K,num_bounds=M",
        formula="log mean_mk w_mk",
        gradient="theta unbiased for it; phi unbiased for that of miwae:K,num_bounds=M",
        bias="none of theta's; phi follows another bound on purpose",
        cost="M K",
        use="a tight bound for theta without losing phi's signal",
        reference="Rainforth et al., 2018, Tighter variational bounds are not necessarily better",
        unbiased=frozenset({"theta"}),
    )

    def __init__(self, particles_each: int, *, num_bounds: int) -> None:
        total = whole_product(type(self).__name__, num_bounds, particles_each)
        super().__init__(total)
        self.num_bounds, self.particles_each = num_bounds, particles_each

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight over all particles, in nats."""
        return log_mean_exp(particles.log_weight)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of log p by the weights of L_MK; path and score by those of MIWAE."""
        log_weight = particles.log_weight.detach()
        tight = normalized_weights(log_weight)
        grouped = group_normalized_weights(log_weight, self.num_bounds) / self.num_bounds
        direct = tight * particles.log_joint - grouped * particles.log_proposal
        return direct.sum(0) + path_term(particles, particles.log_weight, grouped)
