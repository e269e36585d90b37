"""The importance-weighted bound."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives.base import Objective
from ppl_vae.particles import Particles
from ppl_vae.weights import log_mean_exp


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

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Log mean weight over the particles, in nats."""
        return log_mean_exp(particles.log_weight)
