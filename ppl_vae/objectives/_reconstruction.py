"""Objectives of autoencoders: reconstruction of x from its code, and the density of both."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Claims, Objective, PerDatum
from ppl_vae.particles import Particles, side_by_side

_LEAST_ACTIVATION = 1e-6
"""Least mean activation: a unit that is never active has a finite penalty, and a way back."""


@final
class Reconstruction(Objective):
    """``mean_k log p(x|z_k)``: what is left of the ELBO without its KL.

    Under a point guide z = f(x) and a normal likelihood of fixed scale s it is ``-|x - g(f(x))|^2 /
    (2 s^2)`` and a constant: minus the squared error of an autoencoder, whose gradient it has up to
    that factor. It is no bound on log p(x), neither below it nor above.

    Penalties keep the codes sparse; the reported value is without them:

    - ``l1 sum_j |z_j|``, minus the log-density of a Laplace prior but for a constant;
    - ``activation_kl sum_j KL(Bernoulli(rate) || Bernoulli(m_j))``, m_j the mean of code j over the
      batch, for codes in (0, 1).

    A decoder that scales a code up lets the encoder scale it down, and the penalty with it: hold
    the norms of its columns, see :func:`ppl_vae.networks.hold_columns`.

    Args:
        num_particles: Number of particles K; of a point guide all are the same.
        l1: Weight of the sum of absolute codes, in nats.
        activation_kl: Weight of the divergences of mean activations, in nats.
        rate: Mean activation that these aim at.

    Raises:
        ValueError: If a weight is negative, or the rate is not in (0, 1).

    References:
        Hinton and Salakhutdinov, 2006, Reducing the dimensionality of data with neural networks.
        Ng, 2011, Sparse autoencoder.
    """

    claims = Claims(
        name="reconstruction:K,l1=W",
        formula="mean_k log p(x|z_k)",
        direction="neither",
        gradient="unbiased for theta and phi; with a penalty, that of the penalised value",
        bias="no bound on log p(x): the KL is missing",
        use="an autoencoder: squared error under a normal likelihood",
        reference="Hinton and Salakhutdinov, 2006, Reducing the dimensionality of data",
        exact_at_posterior=False,
    )

    def __init__(
        self,
        num_particles: int = 1,
        *,
        l1: float = 0.0,
        activation_kl: float = 0.0,
        rate: float = 0.05,
    ) -> None:
        super().__init__(num_particles)
        for name, weight in (("l1", l1), ("activation_kl", activation_kl)):
            if not (weight >= 0 and math.isfinite(weight)):
                raise ValueError(f"Reconstruction needs {name} of 0 or more, got {weight}.")
        if not 0 < rate < 1:
            raise ValueError(f"Reconstruction needs a rate between 0 and 1, got {rate}.")
        self.l1, self.activation_kl, self.rate = l1, activation_kl, rate
        if activation_kl:
            self.couples = "mean activations over a batch"

    def bound(self, particles: Particles) -> PerDatum:
        """Mean log-likelihood, in nats."""
        return particles.log_likelihood.mean(0)

    def ascended(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The mean log-likelihood minus the penalties."""
        value = bound
        codes = [
            side_by_side(draws, particles.guide[name].event_dim)
            for name, draws in particles.latents.items()
        ]
        if self.l1:
            value = value - self.l1 * sum(each.abs().sum(-1).mean(0) for each in codes)
        if self.activation_kl:
            value = value - self.activation_kl * sum(self._divergence(each) for each in codes)
        return value

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """The value that is ascended."""
        return self.ascended(particles, bound)

    def _divergence(self, codes: Float[Tensor, "particles batch codes"]) -> Float[Tensor, ""]:
        """Sum over codes of KL(rate || mean activation), shared by all data of the batch."""
        mean = codes.mean((0, 1)).clamp(min=_LEAST_ACTIVATION)
        rate = self.rate
        on = rate * (math.log(rate) - mean.log())
        # Above 1 it is no mean of activations, and the logarithm says so.
        off = (1 - rate) * (math.log(1 - rate) - torch.log1p(-mean))
        return (on + off).sum()


@final
class JointDensity(Objective):
    """``mean_k log p(x, z_k)``: the log-density of x and its code together.

    Under a point guide z = f(x) this is reconstruction with the codes' prior as a penalty, and
    training looks for the most likely z of each x; an :class:`ELBO` of a point reports the same
    number. It is no bound on log p(x). Under a guide with a density nothing keeps that from closing
    in on a point.

    Args:
        num_particles: Number of particles K; of a point guide all are the same.

    References:
        Ghosh, Sajjadi, Vergari, Black and Schoelkopf, 2020, From variational to deterministic
        autoencoders.
    """

    claims = Claims(
        name="joint-density:K",
        formula="mean_k (log p(x|z_k) + log p(z_k))",
        direction="neither",
        gradient="unbiased for theta and phi",
        bias="no bound on log p(x): the guide's entropy is missing",
        use="an autoencoder whose codes have a prior",
        reference="Ghosh et al., 2020, From variational to deterministic autoencoders",
        exact_at_posterior=False,
    )

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)

    def bound(self, particles: Particles) -> PerDatum:
        """Mean log-joint, in nats."""
        return particles.log_joint.mean(0)
