"""The ELBO: by Monte Carlo, with analytic KL terms, without the score of q, by it alone."""

from abc import abstractmethod
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from ppl_vae.objectives._base import Claims, Objective, PerDatum, PerDraw
from ppl_vae.objectives._kl import (
    GroupKL,
    KLShaping,
    dimension_kl,
    dimension_log_densities,
    site_kl,
)
from ppl_vae.objectives._paths import path_term
from ppl_vae.particles import Particles


class KLObjective(Objective):
    """An objective with KL terms of its own, which a shaping may weigh in the gradient.

    Args:
        num_particles: Number of particles K.
        kl: Shapes the KL terms of the gradient; the reported bound stays the ELBO.
    """

    def __init__(self, num_particles: int = 1, *, kl: KLShaping | None = None) -> None:
        super().__init__(num_particles)
        self.kl = kl
        self.anneals = kl is not None and kl.anneals
        if kl is not None and kl.measures_kl:
            self.couples = "the mean KL of a batch"
        if kl is not None:
            # The gradient of a shaped KL is that of no bound on log p(x).
            self.claims = replace(
                self.claims,
                gradient=f"of the ELBO with its KL terms shaped by {kl}",
                unbiased=frozenset(),
                zero_at_posterior=False,
            )

    def bound(self, particles: Particles) -> PerDatum:
        """Mean log-likelihood minus KL, in nats: the ELBO, however its gradient is shaped."""
        return self.elbo_terms(particles).mean(0)

    def ascended(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The ELBO with its KL terms shaped."""
        if self.kl is None:
            return bound
        log_guide, log_prior = self.shaped_densities(particles)
        return (particles.log_likelihood + log_prior - log_guide).mean(0)

    @abstractmethod
    def elbo_terms(self, particles: Particles) -> PerDraw:
        """Terms whose mean over particles estimates the ELBO."""

    def factors(self, kl: KLShaping, means: GroupKL) -> GroupKL:
        """Factors of the KL terms at this point of training."""
        return kl.factors(means, self.context.epochs if kl.in_epochs else self.context.progress)

    def shaped_densities(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Log q and log p of the latents, each group times its factor, both (particles, batch)."""
        if self.kl is None:
            return particles.log_proposal, particles.log_latent_prior
        densities = {
            name: dimension_log_densities(particles, name)
            if self.kl.per_dimension
            else (particles.log_guide[name], particles.log_prior[name])
            for name in particles.log_prior
        }
        # A factor that depends on the KL is a constant of the gradient, as in the papers.
        means = {name: (q - p).detach().mean((0, 1)) for name, (q, p) in densities.items()}
        factors = self.factors(self.kl, means)
        log_guide = [_over_dimensions(factors[n] * q) for n, (q, _) in densities.items()]
        log_prior = [_over_dimensions(factors[n] * p) for n, (_, p) in densities.items()]
        return torch.stack(log_guide).sum(0), torch.stack(log_prior).sum(0)


def _over_dimensions(terms: Tensor) -> PerDraw:
    """Sum terms over their third dimension, if they have one."""
    return terms.sum(-1) if terms.dim() > 2 else terms


@final
class ELBO(KLObjective):
    """``mean_k log w_k``, log w = log p(x|z) + log p(z) - log q(z|x).

    A lower bound on log p(x) in expectation. Gradients for theta and phi are unbiased, phi's
    through the draws and the density. Costs K decoder evaluations per datum.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.
        Rezende, Mohamed and Wierstra, 2014, Stochastic backpropagation.
    """

    claims = Claims(
        name="elbo:K",
        formula="mean_k log w_k",
        gradient="unbiased for theta and phi",
        bias="none; the bound is low by KL(q, posterior)",
        use="the default",
        reference="Kingma and Welling, 2014, Auto-encoding variational Bayes",
    )

    def elbo_terms(self, particles: Particles) -> PerDraw:
        """Log-weights log w_k."""
        return particles.log_weight

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The ELBO with its KL terms shaped."""
        return self.ascended(particles, bound)


@final
class AnalyticELBO(KLObjective):
    """``mean_k log p(x|z_k) - sum over sites of KL(q(z_site|.) || p(z_site|.))``.

    The ELBO with a closed-form KL at each site where torch registers one and where it is exact: the
    same expectation as :class:`ELBO`, another variance. Costs K decoder evaluations per datum.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes, appendix B.
    """

    claims = Claims(
        name="elbo-analytic:K",
        formula="mean_k log p(x|z_k) - sum_site KL(q, p)",
        gradient="unbiased for theta and phi",
        bias="none; the bound is low by KL(q, posterior)",
        use="the ELBO with less noise in the KL, far from the posterior",
        reference="Kingma and Welling, 2014, Auto-encoding variational Bayes, appendix B",
        # An exact KL does not cancel the noise of log p(x|z), as log q - log p(z) does.
        exact_at_posterior=False,
    )

    def elbo_terms(self, particles: Particles) -> PerDraw:
        """The log-likelihood of each draw minus the KL of each site."""
        total = particles.log_likelihood
        for name in particles.log_prior:
            total = total - site_kl(particles, name)
        return total

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The ELBO with its KL terms shaped, in closed form where it is exact."""
        if self.kl is None:
            return bound
        terms = {name: self._terms(particles, name) for name in particles.log_prior}
        means = {name: value.detach().mean((0, 1)) for name, value in terms.items()}
        factors = self.factors(self.kl, means)
        total = particles.log_likelihood
        for name, value in terms.items():
            total = total - _over_dimensions(factors[name] * value)
        return total.mean(0)

    def _terms(self, particles: Particles, name: str) -> Tensor:
        if self.kl is None or not self.kl.per_dimension:
            return site_kl(particles, name)
        closed = dimension_kl(particles, name)
        if closed is not None:
            return closed
        # A site without closed forms by dimension still has densities by dimension.
        log_guide, log_prior = dimension_log_densities(particles, name)
        return log_guide - log_prior


@final
class STL(KLObjective):
    """``mean_k log w_k``, phi's gradient through the draws only: the score of q is left out.

    The score has expectation 0, so the gradients are unbiased for the ELBO; without it phi's
    vanishes, draw by draw, where q is the posterior. Costs K decoder evaluations per datum, and one
    more backward pass through them than :class:`ELBO`.

    References:
        Roeder, Wu and Duvenaud, 2017, Sticking the landing: simple, lower-variance gradient
        estimators for variational inference.
    """

    graph = "split"
    claims = Claims(
        name="stl:K",
        formula="mean_k log w_k",
        gradient="unbiased for theta and phi; phi through the draws alone",
        bias="none; the bound is low by KL(q, posterior)",
        use="the ELBO with a guide that can come close to the posterior",
        reference="Roeder, Wu and Duvenaud, 2017, Sticking the landing",
        zero_at_posterior=True,
    )

    def elbo_terms(self, particles: Particles) -> PerDraw:
        """Log-weights log w_k."""
        return particles.log_weight

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of log p(x, z), path of log w."""
        log_guide, log_prior = self.shaped_densities(particles)
        log_joint = particles.log_likelihood + log_prior
        # log q enters the path alone: its score, of expectation 0, is the noise that is left out.
        weight = log_joint.new_full(log_joint.shape, 1 / particles.num_particles)
        return log_joint.mean(0) + path_term(particles, log_joint - log_guide, weight)


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
