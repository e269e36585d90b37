"""The importance-weighted bound L_K, its mixtures with the ELBO, and the ways to follow it."""

from typing import Any, final

import torch
from pyro.distributions import Logistic
from torch import Tensor

# Torch's classes, which Pyro's inherit: a LogNormal of Pyro is no TransformedDistribution of Pyro.
from torch.distributions import (
    Cauchy,
    Gumbel,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from ppl_vae.names import describe
from ppl_vae.objectives._base import Claims, ImportanceWeighted, Objective, PerDatum, PerDraw
from ppl_vae.objectives._paths import leaf_gradients, path_term
from ppl_vae.particles import Particles
from ppl_vae.weights import (
    group_log_mean_exp,
    group_normalized_weights,
    log_mean_exp,
    normalized_weights,
)


@final
class IWAE(Objective):
    """``L_K = log (1/K) sum_k w_k`` per datum.

    A lower bound on log p(x) in expectation that grows with K; K = 1 is the ELBO. Gradients for
    theta and phi are unbiased for L_K; phi's signal-to-noise ratio falls as K^(-1/2). Costs K
    decoder evaluations per datum.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better.
    """

    claims = Claims(
        name="iwae:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; signal-to-noise of phi falls as K^(-1/2)",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="a tighter bound for theta with few to 50 particles",
        reference="Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders",
    )

    def bound(self, particles: Particles) -> PerDatum:
        """Log mean weight over the particles, in nats."""
        return log_mean_exp(particles.log_weight)


@final
class MIWAE(Objective):
    """``mean_m L_K^(m)``: the mean of M independent importance-weighted bounds of K particles each.

    The expectation is that of L_K; the mean brings back phi's signal-to-noise ratio. M = 1 is
    IWAE, K = 1 the ELBO. Gradients for theta and phi are unbiased. Costs M K decoder evaluations.

    Args:
        particles_each: K.
        num_bounds: M.

    References:
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better.
    """

    claims = Claims(
        name="miwae:K,num_bounds=M",
        formula="mean_m log mean_k w_mk",
        gradient="unbiased for theta and phi",
        bias="none; the bound is low as that of iwae:K",
        cost="M K",
        use="trades tightness for phi's signal at a given cost",
        reference="Rainforth et al., 2018, Tighter variational bounds are not necessarily better",
    )

    def __init__(self, particles_each: int, *, num_bounds: int) -> None:
        super().__init__(_whole_product(type(self).__name__, num_bounds, particles_each))
        self.num_bounds, self.particles_each = num_bounds, particles_each

    def bound(self, particles: Particles) -> PerDatum:
        """Mean of the bounds, in nats."""
        return group_log_mean_exp(particles.log_weight, self.num_bounds).mean(0)


@final
class CIWAE(Objective):
    """``beta ELBO + (1 - beta) L_K`` on the same draws.

    A lower bound between the ELBO (beta = 1) and L_K (beta = 0). Gradients for theta and phi are
    unbiased. Costs K decoder evaluations.

    Args:
        num_particles: Number of particles K.
        beta: Share of the ELBO, from 0 to 1.

    References:
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better.
    """

    claims = Claims(
        name="ciwae:K,beta=B",
        formula="beta mean_k log w_k + (1 - beta) log mean_k w_k",
        gradient="unbiased for theta and phi",
        bias="none; the bound lies between those of elbo and iwae:K",
        use="a little of the ELBO steadies phi under many particles",
        reference="Rainforth et al., 2018, Tighter variational bounds are not necessarily better",
    )

    def __init__(self, num_particles: int, *, beta: float) -> None:
        super().__init__(num_particles)
        if not 0 <= beta <= 1:
            raise ValueError(f"CIWAE needs beta from 0 to 1, got {beta}.")
        self.beta = beta

    def bound(self, particles: Particles) -> PerDatum:
        """The convex combination, in nats."""
        log_weight = particles.log_weight
        return self.beta * log_weight.mean(0) + (1 - self.beta) * log_mean_exp(log_weight)


def _whole_product(name: str, groups: int, each: int) -> int:
    """M K, both whole numbers of 1 or more.

    Raises:
        ValueError: If they are not.
    """
    for value in (groups, each):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name} needs M >= 1 and K >= 1 (whole numbers), got {describe(value)}."
            )
    return groups * each


@final
class PIWAE(ImportanceWeighted):
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

    graph = "split"
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
        super().__init__(_whole_product(type(self).__name__, num_bounds, particles_each))
        self.num_bounds, self.particles_each = num_bounds, particles_each

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of log p by the weights of L_MK; path and score by those of MIWAE."""
        log_weight = particles.log_weight.detach()
        tight = normalized_weights(log_weight)
        grouped = group_normalized_weights(log_weight, self.num_bounds) / self.num_bounds
        # theta has the weights of all M K particles; path and score of phi those of its group.
        direct = tight * particles.log_joint - grouped * particles.log_proposal
        return direct.sum(0) + path_term(particles, particles.log_weight, grouped)


@final
class IWAESTL(ImportanceWeighted):
    """``L_K = log mean_k w_k``, phi's gradient ``sum_k v_k`` path: biased for K > 1.

    Under normalised weights the score's expectation is not 0, so that leaving it out biases phi's
    gradient; theta's is unbiased. Here to be compared with :class:`DReG`, which
    mends it. Costs as :class:`DReG`.

    References:
        Tucker, Lawson, Gu and Maddison, 2019, Doubly reparameterized gradient estimators for Monte
        Carlo objectives, section 3.
    """

    graph = "split"
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

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of log p(x, z) and path of log w, both by normalised weights."""
        weight = normalized_weights(particles.log_weight.detach())
        direct = (weight * particles.log_joint).sum(0)
        return direct + path_term(particles, particles.log_weight, weight)


# Families with T(eps) = loc + scale * eps.
_LOCATION_SCALE = (Normal, Laplace, Cauchy, Gumbel, Logistic)


@final
class DReG(ImportanceWeighted):
    r"""``L_K = log mean_k w_k``; phi: ``sum_k v_k^2 (d log w_k/dz_k) (dz_k/dphi)``.

    Reparameterising the score a second time gives a phi gradient that is unbiased for L_K, vanishes
    where q is the posterior, and whose signal-to-noise ratio grows with K instead of falling.
    theta: ``sum_k v_k grad_theta log p(x, z_k)``, unbiased. The parts are split by the autograd
    graph, so that guides with several sites, learned and hierarchical priors, and parameters shared
    by model and guide are handled. Costs K decoder evaluations per datum, and one more backward
    pass.

    References:
        Tucker, Lawson, Gu and Maddison, 2019, Doubly reparameterized gradient estimators for Monte
        Carlo objectives.
    """

    graph = "split"
    claims = Claims(
        name="dreg:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; signal-to-noise of phi grows as K^(1/2)",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="the importance-weighted bound with many particles",
        reference="Tucker et al., 2019, Doubly reparameterized gradient estimators",
        zero_at_posterior=True,
    )

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of log p(x, z) by v, path of log w by v^2."""
        weight = normalized_weights(particles.log_weight.detach())
        direct = (weight * particles.log_joint).sum(0)
        # v_k^2 in place of v_k: the score under normalised weights, reparameterised once more.
        return direct + path_term(particles, particles.log_weight, weight.square())


@final
class GeneralizedDReG(ImportanceWeighted):
    r"""DReG, with the prior's own parameters reparameterised as well.

    For a prior site z_i = T(eps; theta) (possibly given other latents), with g = v_k,

        E_q [g grad_theta log p(z_i)] =
            E_q [(g d/dz_i log (q / p_i) + dg/dz_i) grad_theta T(T^-1(z_i))],

    q the density of all latents and p_i that of the site. So the prior's gradient too uses what the
    decoder's derivative knows. It applies to location-scale and multivariate normal priors and to
    flows over them; other prior sites keep the gradient of :class:`DReG`. The likelihood's
    parameters and phi have the gradients of :class:`DReG`. Unbiased for L_K. Costs as
    :class:`DReG`.

    References:
        Bauer and Mnih, 2021, Generalized doubly reparameterized gradient estimators.
    """

    graph = "split"
    claims = Claims(
        name="gdreg:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; learned priors reparameterised too",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="as dreg, with a learned or hierarchical prior",
        reference="Bauer and Mnih, 2021, Generalized doubly reparameterized gradient estimators",
        zero_at_posterior=True,
    )

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of the likelihood by v, path of log w by v^2, the prior reparameterised."""
        weight = normalized_weights(particles.log_weight.detach())
        total = (weight * particles.log_likelihood).sum(0)
        total = total + path_term(particles, particles.log_weight, weight.square())
        for name in particles.log_prior:
            total = total + _prior_term(particles, name, weight)
        return total


def _prior_term(particles: Particles, name: str, weight: PerDraw) -> PerDatum:
    """A term with the gradient of ``sum_k v_k grad_theta log p(z_i)``, in expectation."""
    prior, z = particles.prior[name], particles.latents[name]
    log_prior = particles.log_prior[name]
    again = reparameterized(prior, z.detach())
    # A fixed prior has no gradient; of an unknown T or inside inner plates the term is DReG's.
    if not log_prior.requires_grad or again is None or z.dim() != 2 + prior.event_dim:
        return (weight * log_prior).sum(0)
    score = leaf_gradients(particles, particles.log_proposal - log_prior)[name]
    gain = leaf_gradients(particles, particles.log_weight)[name]
    v = weight.reshape(weight.shape + (1,) * prior.event_dim)
    # dv_k/dz_k = v_k (1 - v_k) dlog w_k/dz_k.
    product = (v * score + v * (1 - v) * gain) * again
    return product.flatten(2).sum((0, 2)) if product.dim() > 2 else product.sum(0)


def reparameterized(distribution: Any, z: Tensor) -> Tensor | None:
    """``T(T^-1(z))``: equal to z, with the gradient of T's parameters at fixed noise.

    None for a distribution whose T is not known here.
    """
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    # Noise is detached: otherwise T and its inverse cancel, and no gradient is left.
    again: Tensor | None = None
    if isinstance(base, _LOCATION_SCALE):
        again = base.loc + base.scale * ((z - base.loc) / base.scale).detach()
    elif isinstance(base, MultivariateNormal):
        root = base.scale_tril
        noise = torch.linalg.solve_triangular(root, (z - base.loc).unsqueeze(-1), upper=False)
        again = base.loc + (root @ noise.detach()).squeeze(-1)
    elif isinstance(base, TransformedDistribution):
        noise = z
        for transform in reversed(base.transforms):
            noise = transform.inv(noise)
        again = reparameterized(base.base_dist, noise.detach())
        for transform in base.transforms if again is not None else ():
            again = transform(again)
    return again
