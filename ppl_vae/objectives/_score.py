"""Score-function objectives: latents of any kind, discrete ones too."""

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._elbo import KLObjective
from ppl_vae.particles import Graph, Particles
from ppl_vae.weights import leave_one_out_log_mean_exp, log_mean_exp, normalized_weights


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

    graph: ClassVar[Graph] = "score"
    least_particles: ClassVar[int] = 2
    claims = Claims(
        name="reinforce:K",
        formula="mean_k log w_k",
        gradient="unbiased for theta and phi; phi by the score function",
        bias="none; the bound is low by KL(q, posterior)",
        use="the ELBO with discrete latents",
        reference="Kool, van Hoof and Welling, 2019, Buy 4 REINFORCE samples",
        zero_at_posterior=True,
    )

    def elbo_terms(self, particles: Particles) -> Float[Tensor, "particles batch"]:
        """Log-weights log w_k."""
        return particles.log_weight

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of log p(x, z), and the score of q times what the draw gained."""
        log_guide, log_prior = self.shaped_densities(particles)
        log_joint = particles.log_likelihood + log_prior
        value = (log_joint - log_guide).detach()
        count = particles.num_particles
        gain = (value - value.mean(0)) * count / (count - 1)
        return (log_joint + gain * particles.log_proposal).mean(0)


@final
class VIMCO(Objective):
    """``L_K``; phi: ``sum_k (L_K - L_K^(-k)) grad log q(z_k) + sum_k v_k grad log w_k``.

    L_K^(-k) has the geometric mean of the other weights in place of w_k; it does not depend on z_k,
    so that the gradients are unbiased for L_K. Any latents. Costs K >= 2 decoder evaluations per
    datum, none differentiated to z.

    References:
        Mnih and Rezende, 2016, Variational inference for Monte Carlo objectives.
    """

    graph: ClassVar[Graph] = "score"
    least_particles: ClassVar[int] = 2
    claims = Claims(
        name="vimco:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; phi by the score function",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="the importance-weighted bound with discrete latents",
        reference="Mnih and Rezende, 2016, Variational inference for Monte Carlo objectives",
    )

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight, in nats."""
        return log_mean_exp(particles.log_weight)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The score times each draw's own contribution, and the bound at fixed draws."""
        log_weight = particles.log_weight.detach()
        gain = bound.detach() - leave_one_out_log_mean_exp(log_weight)
        direct = normalized_weights(log_weight) * particles.log_weight
        return (gain * particles.log_proposal + direct).sum(0)
