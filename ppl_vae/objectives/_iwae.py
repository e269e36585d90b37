"""The importance-weighted bound and its mixtures with the ELBO."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.names import describe
from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.particles import Particles
from ppl_vae.weights import group_log_mean_exp, log_mean_exp


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

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
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
        total = whole_product(type(self).__name__, num_bounds, particles_each)
        super().__init__(total)
        self.num_bounds, self.particles_each = num_bounds, particles_each

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean of the bounds, in nats."""
        return group_log_mean_exp(particles.log_weight, self.num_bounds).mean(0)


@final
class CIWAE(Objective):
    """``beta ELBO + (1 - beta) L_K`` on the same draws.

    A lower bound between the ELBO (beta = 1) and L_K (beta = 0). Gradients for theta and phi are
    unbiased. Costs K decoder evaluations.

    Args:
        num_particles: K.
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

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The convex combination, in nats."""
        log_weight = particles.log_weight
        return self.beta * log_weight.mean(0) + (1 - self.beta) * log_mean_exp(log_weight)


def whole_product(name: str, groups: int, each: int) -> int:
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
