"""Importance-weighted bounds by score functions, for latents of any kind: VIMCO, wake-sleep."""

from typing import Literal, final

from ppl_vae.objectives._base import Claims, ImportanceWeighted, PerDatum
from ppl_vae.particles import Particles
from ppl_vae.weights import leave_one_out_log_mean_exp, normalized_weights


@final
class VIMCO(ImportanceWeighted):
    """``L_K``; phi: ``sum_k (L_K - L_K^(-k)) grad log q(z_k) + sum_k v_k grad log w_k``.

    L_K^(-k) has the geometric mean of the other weights in place of w_k; it does not depend on z_k,
    so that the gradients are unbiased for L_K. Any latents. Costs K >= 2 decoder evaluations per
    datum, none differentiated to z.

    References:
        Mnih and Rezende, 2016, Variational inference for Monte Carlo objectives.
    """

    graph = "score"
    least_particles = 2
    claims = Claims(
        name="vimco:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; phi by the score function",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="the importance-weighted bound with discrete latents",
        reference="Mnih and Rezende, 2016, Variational inference for Monte Carlo objectives",
    )

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The score times each draw's own contribution, and the bound at fixed draws."""
        log_weight = particles.log_weight.detach()
        gain = bound.detach() - leave_one_out_log_mean_exp(log_weight)
        # The gradient of L_K at fixed draws has the guide's density in log w as well.
        direct = normalized_weights(log_weight) * particles.log_weight
        return (gain * particles.log_proposal + direct).sum(0)


@final
class RWS(ImportanceWeighted):
    """``L_K`` reported; theta follows it, phi the inclusive divergence KL(posterior, q).

    wake-theta: ``sum_k v_k grad log p(x, z_k)``, unbiased for L_K. wake-phi: ascend
    ``sum_k v_k grad log q(z_k|x)``, draws and weights held fixed: biased by O(1/K) for
    -grad KL(p(z|x), q). sleep-phi: ascend ``grad log q(z|x)`` on (z, x) drawn from the model:
    unbiased for its own objective, blind to the data. Weights are per datum. Any latents. Costs K
    decoder evaluations per datum, none differentiated to z; sleep K more and K encoder evaluations.

    Args:
        num_particles: Number of particles K.
        phi: ``wake``, ``sleep``, or ``both``: the mean of the two.

    References:
        Bornschein and Bengio, 2015, Reweighted wake-sleep.
        Le et al., 2020, Revisiting reweighted wake-sleep for models with stochastic control flow.
    """

    graph = "score"
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
        self, num_particles: int, *, phi: Literal["wake", "sleep", "both"] = "wake"
    ) -> None:
        super().__init__(num_particles)
        if phi not in ("wake", "sleep", "both"):
            raise ValueError(f"RWS trains phi by 'wake', 'sleep' or 'both', got {phi!r}.")
        self.phi = phi
        self.simulates = "nothing" if phi == "wake" else "data"

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """wake-theta plus the chosen phi updates."""
        weight = normalized_weights(particles.log_weight.detach())
        # Draws are constants with graph="score": the densities have direct parts only.
        total = (weight * particles.log_joint).sum(0)
        share = 0.5 if self.phi == "both" else 1.0
        if self.phi != "sleep":
            total = total + share * (weight * particles.log_proposal).sum(0)
        if self.phi != "wake":
            # log q at latents and data from the model, which carry no gradient.
            simulation = particles.simulation
            if simulation is None or simulation.log_guide is None:
                raise ValueError("sleep-phi needs simulated data: take particles from RWS.draw.")
            total = total + share * simulation.log_guide.mean(0)
        return total
