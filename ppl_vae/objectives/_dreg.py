"""Doubly reparameterised gradients of the importance-weighted bound."""

from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
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

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.objectives._splitting import leaf_gradients, path_term
from ppl_vae.particles import Graph, Particles
from ppl_vae.weights import log_mean_exp, normalized_weights

_LOCATION_SCALE = (Normal, Laplace, Cauchy, Gumbel, Logistic)


@final
class DReG(Objective):
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

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="dreg:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; signal-to-noise of phi grows as K^(1/2)",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="the importance-weighted bound with many particles",
        reference="Tucker et al., 2019, Doubly reparameterized gradient estimators",
        zero_at_posterior=True,
    )

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight, in nats."""
        return log_mean_exp(particles.log_weight)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of log p(x, z) by v, path of log w by v^2."""
        weight = normalized_weights(particles.log_weight.detach())
        direct = (weight * particles.log_joint).sum(0)
        return direct + path_term(particles, particles.log_weight, weight.square())


@final
class GeneralizedDReG(Objective):
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

    graph: ClassVar[Graph] = "split"
    claims = Claims(
        name="gdreg:K",
        formula="log mean_k w_k",
        gradient="unbiased for theta and phi; learned priors reparameterised too",
        bias="none; the bound is low by about Var(w) / (2 K p(x)^2)",
        use="as dreg, with a learned or hierarchical prior",
        reference="Bauer and Mnih, 2021, Generalized doubly reparameterized gradient estimators",
        zero_at_posterior=True,
    )

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight, in nats."""
        return log_mean_exp(particles.log_weight)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of the likelihood by v, path of log w by v^2, the prior reparameterised."""
        weight = normalized_weights(particles.log_weight.detach())
        total = (weight * particles.log_likelihood).sum(0)
        total = total + path_term(particles, particles.log_weight, weight.square())
        for name in particles.log_prior:
            total = total + _prior_term(particles, name, weight)
        return total


def _prior_term(
    particles: Particles, name: str, weight: Float[Tensor, "particles batch"]
) -> Float[Tensor, " batch"]:
    """A term with the gradient of ``sum_k v_k grad_theta log p(z_i)``, in expectation."""
    prior, z = particles.prior[name], particles.latents[name]
    log_prior = particles.log_prior[name]
    again = reparameterized(prior, z.detach())
    if not log_prior.requires_grad or again is None or z.dim() != 2 + prior.event_dim:
        return (weight * log_prior).sum(0)
    score = leaf_gradients(particles, particles.log_proposal - log_prior)[name]
    gain = leaf_gradients(particles, particles.log_weight)[name]
    v = weight.reshape(weight.shape + (1,) * prior.event_dim)
    product = (v * score + v * (1 - v) * gain) * again
    return product.flatten(2).sum((0, 2)) if product.dim() > 2 else product.sum(0)


def reparameterized(distribution: Any, z: Tensor) -> Tensor | None:
    """``T(T^-1(z))``: equal to z, with the gradient of T's parameters at fixed noise.

    None for a distribution whose T is not known here.
    """
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
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
