"""Sticking the landing: the guide's gradient through the draws alone."""

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._elbo import KLObjective
from ppl_vae.objectives._splitting import path_term
from ppl_vae.particles import Graph, Particles
from ppl_vae.weights import log_mean_exp, normalized_weights


@final
class STL(KLObjective):
    """``mean_k log w_k``, phi's gradient through the draws only: the score of q is left out.

    The score has expectation 0, so the gradients are unbiased for the ELBO; without it phi's
    vanishes, draw by draw, where q is the posterior. Costs K decoder evaluations per datum, and one
    more backward pass through them than :class:`~ppl_vae.objectives.ELBO`.

    References:
        Roeder, Wu and Duvenaud, 2017, Sticking the landing: simple, lower-variance gradient
        estimators for variational inference.
    """

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="stl:K",
        formula="mean_k log w_k",
        gradient="unbiased for theta and phi; phi through the draws alone",
        bias="none; the bound is low by KL(q, posterior)",
        use="the ELBO with a guide that can come close to the posterior",
        reference="Roeder, Wu and Duvenaud, 2017, Sticking the landing",
        zero_at_posterior=True,
    )

    def elbo_terms(self, particles: Particles) -> Float[Tensor, "particles batch"]:
        """Log-weights log w_k."""
        return particles.log_weight

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of log p(x, z), path of log w."""
        log_guide, log_prior = self.shaped_densities(particles)
        log_joint = particles.log_likelihood + log_prior
        weight = log_joint.new_full(log_joint.shape, 1 / particles.num_particles)
        return log_joint.mean(0) + path_term(particles, log_joint - log_guide, weight)


@final
class IWAESTL(Objective):
    """``L_K = log mean_k w_k``, phi's gradient ``sum_k v_k`` path: biased for K > 1.

    Under normalised weights the score's expectation is not 0, so that leaving it out biases phi's
    gradient; theta's is unbiased. Here to be compared with :class:`~ppl_vae.objectives.DReG`, which
    mends it. Costs as :class:`STL`.

    References:
        Tucker, Lawson, Gu and Maddison, 2019, Doubly reparameterized gradient estimators for Monte
        Carlo objectives, section 3.
    """

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="iwae-stl:K",
        formula="log mean_k w_k",
        gradient="theta unbiased; phi biased for K > 1",
        bias="of phi's gradient, and it does not vanish with K",
        use="for comparison; take dreg",
        reference="Tucker et al., 2019, Doubly reparameterized gradient estimators",
        unbiased=frozenset({"theta"}),
        unbiased_at_one=frozenset({"theta", "phi"}),
        zero_at_posterior=True,
    )

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight, in nats."""
        return log_mean_exp(particles.log_weight)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of log p(x, z) and path of log w, both by normalised weights."""
        weight = normalized_weights(particles.log_weight.detach())
        direct = (weight * particles.log_joint).sum(0)
        return direct + path_term(particles, particles.log_weight, weight)
