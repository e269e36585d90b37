"""Score-function objectives, for latents of any kind: REINFORCE, VIMCO, wake-sleep."""

from typing import Literal, final

from ppl_vae.objectives._base import Claims, ImportanceWeighted, PerDatum, PerDraw
from ppl_vae.objectives._elbo import KLObjective
from ppl_vae.particles import Particles
from ppl_vae.weights import leave_one_out_log_mean_exp, normalized_weights


@final
class Reinforce(KLObjective):
    """``mean_k log w_k``; phi: ``mean_k (log w_k - mean of the others) grad log q(z_k)``.

    The leave-one-out mean is a baseline that does not depend on z_k, so that the gradient is
    unbiased for the ELBO, and it vanishes draw by draw where q is the posterior. theta: ``mean_k
    grad log p(x, z_k)``. The term -grad log q of log w itself has expectation 0 and is left out.
    Any latents. Costs K >= 2 decoder evaluations per datum, none differentiated to z.

    References:
        Kool, van Hoof and Welling, 2019, Buy 4 REINFORCE samples, get a baseline for free!
        Williams, 1992, Simple statistical gradient-following algorithms for connectionist
        reinforcement learning.
    """

    graph = "score"
    # The baseline is made of the other draws: there must be one.
    least_particles = 2
    claims = Claims(
        name="reinforce:K",
        formula="mean_k log w_k",
        gradient="unbiased for theta and phi; phi by the score function",
        bias="none; the bound is low by KL(q, posterior)",
        use="the ELBO with discrete latents",
        reference="Kool, van Hoof and Welling, 2019, Buy 4 REINFORCE samples",
        zero_at_posterior=True,
    )

    def elbo_terms(self, particles: Particles) -> PerDraw:
        """Log-weights log w_k."""
        return particles.log_weight

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of log p(x, z), and the score of q times what the draw gained."""
        log_guide, log_prior = self.shaped_densities(particles)
        log_joint = particles.log_likelihood + log_prior
        value = (log_joint - log_guide).detach()
        count = particles.num_particles
        # A value less the mean of the others is its distance from the mean of all by K / (K - 1).
        gain = (value - value.mean(0)) * count / (count - 1)
        return (log_joint + gain * particles.log_proposal).mean(0)


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
