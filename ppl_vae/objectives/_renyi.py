"""Renyi bounds."""

import math
from dataclasses import replace
from typing import final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.particles import Particles
from ppl_vae.weights import log_mean_exp

_NEAR_ONE = 1e-6
"""Closer to 1 than this, 1 / (1 - alpha) only amplifies rounding."""


@final
class Renyi(Objective):
    """``1/(1 - alpha) log mean_k w_k^(1 - alpha)``.

    alpha = 1 is the ELBO (the limit), 0 the importance-weighted bound, negative alpha goes past it
    and -inf is :class:`VRMax`. The exact bound is lower for alpha >= 0 and upper for alpha < 0; the
    estimate from K particles is biased for it, towards the ELBO, so that for alpha >= 0 its
    expectation is a lower bound for every K and for alpha < 0 neither. Gradients are unbiased for
    that expectation. Costs K decoder evaluations per datum.

    Args:
        num_particles: K.
        alpha: Order, any finite number.

    References:
        Li and Turner, 2016, Renyi divergence variational inference.
    """

    claims = Claims(
        name="renyi:K,alpha=A",
        formula="1/(1 - alpha) log mean_k w_k^(1 - alpha)",
        gradient="unbiased for theta and phi, of the K-particle value",
        bias="O(1/K) towards the ELBO; no bound for alpha < 0",
        use="between mass-covering (alpha < 1) and mode-seeking (alpha > 1) guides",
        reference="Li and Turner, 2016, Renyi divergence variational inference",
    )

    def __init__(self, num_particles: int, *, alpha: float) -> None:
        super().__init__(num_particles)
        if not math.isfinite(alpha):
            raise ValueError(f"Renyi needs a finite alpha, got {alpha}; -inf is vr-max:K.")
        self.alpha = alpha
        if alpha < 0:
            self.claims = replace(self.claims, direction="neither")
        if alpha > 1:
            self.claims = replace(self.claims, grows=False)

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The K-particle estimate, in nats."""
        order = 1 - self.alpha
        mean = particles.log_weight.mean(0)
        if abs(order) < _NEAR_ONE:
            return mean
        # Centred, so that what is divided by a small order has no large common part.
        return mean + log_mean_exp(order * (particles.log_weight - mean)) / order


@final
class VRMax(Objective):
    """``max_k log w_k``: the Renyi bound at alpha = -inf.

    Its expectation can lie on either side of log p(x). The gradient is that of the largest weight
    alone. Costs K decoder evaluations per datum.

    References:
        Li and Turner, 2016, Renyi divergence variational inference.
    """

    claims = Claims(
        name="vr-max:K",
        formula="max_k log w_k",
        direction="neither",
        gradient="unbiased for theta and phi, of the K-particle value",
        bias="no bound on log p(x)",
        use="a fast approximation of iwae; for comparison",
        reference="Li and Turner, 2016, Renyi divergence variational inference",
    )

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The largest log-weight, in nats."""
        return particles.log_weight.amax(0)
