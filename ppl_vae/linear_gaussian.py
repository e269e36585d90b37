"""The linear-Gaussian model, in which everything the package estimates is known exactly."""

import math
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.names import require_positive
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.randomness import Stream, seeded
from ppl_vae.vae import VAE

_WEIGHT_ROUNDING = 1e-4
"""Largest difference from 1 of the sum of mixture weights in single precision."""


@final
class LinearGaussian(nn.Module):
    """z ~ Normal(0, I), x|z ~ Normal(W z + b, s^2 I), or diag(s)^2 in the place of s^2 I.

    Then x ~ Normal(b, W W' + s^2 I), and the posterior is Normal(M^-1 W'(x - b)/s^2, M^-1) with
    M = I + W'W/s^2. At the exact posterior every importance weight equals p(x).

    Args:
        weight: W, shape (features, latent).
        bias: b, shape (features,); zeros if not given.
        noise_scale: s, the standard deviation of the noise, in the units of x: a number stays as
            it is, a tensor is learned, by its logarithm. Shape () or, a value for each feature,
            (features,).

    Raises:
        ValueError: If noise_scale is not positive, or of another shape.

    References:
        Tipping and Bishop, 1999, Probabilistic principal component analysis.
        Rubin and Thayer, 1982, EM algorithms for ML factor analysis.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Float[Tensor, "features latent"],
        bias: Float[Tensor, " features"] | None = None,
        noise_scale: float | Float[Tensor, "*features"] = 1.0,
    ) -> None:
        super().__init__()
        learned = isinstance(noise_scale, Tensor)
        least = noise_scale.min().item() if isinstance(noise_scale, Tensor) else noise_scale
        require_positive(noise_scale=least)
        weight = torch.as_tensor(weight)
        bias = weight.new_zeros(len(weight)) if bias is None else torch.as_tensor(bias)
        if weight.dim() != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                "weight is of shape (features, latent) and bias of shape (features,), got "
                f"{tuple(weight.shape)} and {tuple(bias.shape)}."
            )
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self._noise_scale = noise_scale
        self.log_noise: nn.Parameter | None = None
        if learned:
            noise = torch.as_tensor(noise_scale)
            if noise.shape not in ((), bias.shape):
                raise ValueError(
                    f"noise_scale is of shape () or (features,), got {tuple(noise.shape)} with "
                    f"{len(weight)} features."
                )
            self.log_noise = nn.Parameter(noise.detach().to(weight).log())
        self.prior = StandardNormalPrior(weight.shape[1]).to(weight.dtype)

    @classmethod
    def random(
        cls, features: int, latent: int, noise_scale: float = 1.0, *, seed: int = 0
    ) -> "LinearGaussian":
        """A model in double precision whose weights are Normal(0, 1/latent) draws."""
        with seeded(seed, Stream.INITIALIZATION):
            # So that W z has variance 1 in expectation, however many latents there are.
            weight = torch.randn(features, latent, dtype=torch.float64) / math.sqrt(latent)
            bias = torch.randn(features, dtype=torch.float64)
        return cls(weight, bias, noise_scale)

    @property
    def noise_scale(self) -> Any:
        """The number s that was given, or the tensor that is learned."""
        return self._noise_scale if self.log_noise is None else self.log_noise.exp()

    def decoder(self, z: Float[Tensor, "*shape latent"]) -> dist.Distribution:
        """p(x|z), event shape (features,)."""
        loc = functional.linear(z, self.weight, self.bias)
        return dist.Normal(loc, self.noise_scale, validate_args=False).to_event(1)

    @property
    def posterior_precision(self) -> Float[Tensor, "latent latent"]:
        """M = I + W'W/s^2, the same for every x."""
        identity = torch.eye(self.weight.shape[1], dtype=self.weight.dtype)
        return identity.to(self.weight.device) + self.weight.T @ self._weight_by_variance

    @property
    def _weight_by_variance(self) -> Float[Tensor, "features latent"]:
        # Rows by the variance of their feature; a number divides them all.
        weighed: Tensor = (self.weight.T / self.noise_scale**2).T
        return weighed

    @property
    def gain(self) -> Float[Tensor, "latent features"]:
        """B of the posterior mean, ``E[z|x] = B (x - b)``, the same for every x."""
        gain: Tensor = torch.linalg.solve(self.posterior_precision, self._weight_by_variance.T)
        return gain

    def _posterior_mean(self, x: Tensor) -> Tensor:
        projected = (x - self.bias) @ self._weight_by_variance
        mean: Tensor = torch.linalg.solve(self.posterior_precision, projected.mT).mT
        return mean

    def posterior(self, x: Float[Tensor, "batch features"]) -> dist.Distribution:
        """p(z|x), event shape (latent,)."""
        # An explicit covariance batch: a shared precision matrix does not expand in every torch.
        covariance = torch.linalg.inv(self.posterior_precision).expand(len(x), -1, -1)
        mean = self._posterior_mean(x)
        return dist.MultivariateNormal(mean, covariance_matrix=covariance, validate_args=False)

    def mean_field_posterior(self, x: Float[Tensor, "batch features"]) -> dist.Distribution:
        """The diagonal normal that maximises the ELBO: posterior mean, precision diag(M)."""
        scale = self.posterior_precision.diagonal().rsqrt()
        return dist.Normal(self._posterior_mean(x), scale, validate_args=False).to_event(1)

    def log_evidence(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """Exact log p(x) per datum, in nats."""
        return _log_marginal(x - self.bias, self.weight, self.noise_scale)

    def mixture_log_evidence(
        self,
        x: Float[Tensor, "batch features"],
        weights: Float[Tensor, " components"],
        means: Float[Tensor, "components latent"],
        covariances: Float[Tensor, "components latent *square"],
    ) -> Float[Tensor, " batch"]:
        """Exact log p(x) per datum, in nats, under a mixture of Gaussians as the prior.

        ``log sum_c pi_c Normal(x; W m_c + b, W C_c W' + s^2 I)``. A VampPrior is such a mixture,
        with the encoder's means and variances at the pseudo-inputs.

        Args:
            x: The data.
            weights: pi, positive, with sum 1.
            means: m_c, in latent space.
            covariances: C_c as matrices, or the variances of diagonal ones.

        Raises:
            ValueError: If the weights are no probabilities.

        References:
            Tomczak and Welling, 2018, VAE with a VampPrior.
        """
        if bool((weights < 0).any()) or abs(weights.sum().item() - 1) > _WEIGHT_ROUNDING:
            raise ValueError(
                f"mixture weights must be 0 or more with sum 1, got sum {weights.sum().item():.6g}."
            )
        diagonal = covariances.dim() == means.dim()
        # A component is the standard normal prior of a decoder that stretches and shifts first.
        factor = covariances.sqrt().diag_embed() if diagonal else torch.linalg.cholesky(covariances)
        centred = x - self.bias - functional.linear(means, self.weight).unsqueeze(1)
        by_component = _log_marginal(centred, self.weight @ factor, self.noise_scale)
        # A weight of 0 is -inf here and adds nothing.
        return torch.logsumexp(weights.log().unsqueeze(-1) + by_component, 0)

    def mean_field_gap(self) -> Float[Tensor, ""]:
        """Gap log p(x) - ELBO of the best diagonal guide: 0.5 (log det diag(M) - log det M)."""
        precision = self.posterior_precision
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    def vae(self) -> VAE:
        """The model with its exact posterior as the guide."""
        return VAE(self.prior, self.decoder, self.posterior)

    def mean_field_vae(self) -> VAE:
        """The model with its best diagonal guide."""
        return VAE(self.prior, self.decoder, self.mean_field_posterior)

    def simulate(self, num_data: int, *, seed: int = 0) -> Float[Tensor, "num_data features"]:
        """Draws of x from the model."""
        with seeded(seed, Stream.SAMPLING), torch.no_grad():
            x: Tensor = self.decoder(self.prior().sample((num_data,))).sample()
        return x


def _log_marginal(
    centred: Float[Tensor, "*components batch features"],
    weight: Float[Tensor, "*components features latent"],
    noise_scale: float | Tensor,
) -> Float[Tensor, "*components batch"]:
    """``log Normal(x; 0, W W' + s^2 I)``."""
    # Woodbury and the determinant lemma: features^2 never appears.
    scale = torch.as_tensor(noise_scale, dtype=weight.dtype, device=weight.device)
    scaled, weight = centred / scale, weight / scale.expand(weight.shape[-2]).unsqueeze(-1)
    identity = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    precision, projected = identity + weight.mT @ weight, scaled @ weight
    explained = (torch.linalg.solve(precision, projected.mT).mT * projected).sum(-1)
    quadratic: Tensor = scaled.square().sum(-1) - explained
    # Division by s took the factor s^(2 features) out of the determinant.
    log_norm = weight.shape[-2] * (math.log(2 * math.pi) + 2 * scale.log().mean())
    return -0.5 * (quadratic + torch.logdet(precision).unsqueeze(-1) + log_norm)
