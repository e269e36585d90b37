"""Reweighted wake-sleep."""

from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.particles import Graph, Particles
from ppl_vae.weights import log_mean_exp, normalized_weights


@final
class RWS(Objective):
    """``L_K`` reported; theta follows it, phi the inclusive divergence KL(posterior, q).

    wake-theta: ``sum_k v_k grad log p(x, z_k)``, unbiased for L_K. wake-phi: ascend
    ``sum_k v_k grad log q(z_k|x)``, draws and weights held fixed: biased by O(1/K) for
    -grad KL(p(z|x), q). sleep-phi: ascend ``grad log q(z|x)`` on (z, x) drawn from the model:
    unbiased for its own objective, blind to the data. Weights are per datum. Any latents. Costs K
    decoder evaluations per datum, none differentiated to z; sleep K more and K encoder evaluations.

    Args:
        num_particles: K.
        phi: ``wake``, ``sleep``, or ``both``: the mean of the two.

    References:
        Bornschein and Bengio, 2015, Reweighted wake-sleep.
        Le et al., 2020, Revisiting reweighted wake-sleep for models with stochastic control flow.
    """

    graph: ClassVar[Graph] = "score"
    claims = Claims(
        name="rws:K,phi=PHI",
        formula="log mean_k w_k",
        gradient="theta unbiased; phi for KL(posterior, q): wake, sleep or both",
        bias="wake-phi O(1/K); sleep-phi none, on simulated data",
        cost="K; with sleep 2 K",
        use="discrete latents; a guide that covers the posterior",
        reference="Bornschein and Bengio, 2015, Reweighted wake-sleep",
        unbiased=frozenset({"theta"}),
    )

    def __init__(
        self,
        num_particles: int,
        *,
        phi: Literal["wake", "sleep", "both"] = "wake",
    ) -> None:
        super().__init__(num_particles)
        if phi not in ("wake", "sleep", "both"):
            raise ValueError(f"RWS trains phi by 'wake', 'sleep' or 'both', got {phi!r}.")
        self.phi = phi
        self.simulates = "nothing" if phi == "wake" else "data"

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight, in nats."""
        return log_mean_exp(particles.log_weight)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """wake-theta plus the chosen phi updates."""
        weight = normalized_weights(particles.log_weight.detach())
        total = (weight * particles.log_joint).sum(0)
        share = 0.5 if self.phi == "both" else 1.0
        if self.phi != "sleep":
            total = total + share * (weight * particles.log_proposal).sum(0)
        if self.phi != "wake":
            total = total + share * self._sleep(particles)
        return total

    def _sleep(self, particles: Particles) -> Float[Tensor, " batch"]:
        simulation = particles.simulation
        if simulation is None or simulation.log_guide is None:
            raise ValueError("sleep-phi needs simulated data: take particles from RWS.draw.")
        return simulation.log_guide.mean(0)
