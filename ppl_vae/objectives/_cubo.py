"""The chi upper bound."""

import math
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._splitting import path_term
from ppl_vae.particles import Graph, Particles
from ppl_vae.weights import log_mean_exp, normalized_weights


@final
class CUBO(Objective):
    """``1/n log mean_k w_k^n``; phi descends it, theta ascends ``log mean_k w_k``.

    With the exact expectation of w^n it is an upper bound on log p(x), n >= 1; the estimate from K
    particles is biased down and is no bound. An upper bound is to be made small by the guide, and
    says nothing about how to move the model, so theta follows L_K, unbiased. phi descends the
    estimate: the gradient of exp(n CUBO), divided by the estimate of exp(n CUBO), whose bias is
    O(1/K). Given ``log_reference``, phi descends ``exp(n (CUBO - log_reference)) / n`` instead,
    without bias. Costs K decoder evaluations per datum, and one more backward pass.

    Args:
        num_particles: K.
        order: n, at least 1.
        log_reference: A rough log p(x) in nats, the same for all data, or None.

    References:
        Dieng et al., 2017, Variational inference via chi upper bound minimization.
    """

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="cubo:K,order=N",
        formula="1/n log mean_k w_k^n",
        direction="neither",
        gradient="phi descends it, bias O(1/K); theta ascends log mean_k w_k, unbiased",
        bias="an upper bound only as K grows: the estimate is low",
        use="an overdispersed guide, good as a proposal",
        reference="Dieng et al., 2017, Variational inference via chi upper bound minimization",
        unbiased=frozenset(),
    )

    def __init__(
        self,
        num_particles: int,
        *,
        order: float,
        log_reference: float | None = None,
    ) -> None:
        super().__init__(num_particles)
        if not (order >= 1 and math.isfinite(order)):
            raise ValueError(f"CUBO needs an order n >= 1, got {order}.")
        self.order, self.log_reference = order, log_reference

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The K-particle estimate, in nats."""
        return log_mean_exp(self.order * particles.log_weight) / self.order

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Theta up the importance-weighted bound, phi down this one."""
        log_weight = particles.log_weight.detach()
        down = normalized_weights(self.order * log_weight)
        if self.log_reference is not None:
            down = down * (self.order * (bound.detach() - self.log_reference)).exp()
        direct = normalized_weights(log_weight) * particles.log_joint
        score = down * particles.log_proposal
        return (direct + score).sum(0) - path_term(particles, particles.log_weight, down)
