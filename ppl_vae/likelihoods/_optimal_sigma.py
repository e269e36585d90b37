"""Real-valued data: normal features whose one scale is estimated in closed form."""

from functools import partial
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.likelihoods._features import FeatureVector
from ppl_vae.likelihoods._outputs import start_blocks
from ppl_vae.likelihoods._starts import column_means, column_spreads

_FLOOR = 1e-3
"""Least scale, in units of the one at the start."""


@final
class OptimalSigmaDecoder(nn.Module):
    """p(x|z) = prod_d Normal(x_d; network(z)_d, sigma), sigma^2 the mean squared residual.

    For given locations the ELBO has its maximum over sigma at ``sigma^2 = E (x_d - loc(z)_d)^2``,
    the mean over data, features and draws z ~ q(z|x). Rybkin et al. put the mean of a batch into
    the density of that same batch; as a function of x this is no density (its integral is
    infinite), so that no log p(x) follows from it. Here sigma is a number that never depends on the
    x whose density is taken: in training mode, with gradients on, each batch is scored with the
    sigma of those before it and then moves a running mean, as in batch normalisation; in evaluation
    mode sigma is frozen, and log p(x) is that of an ordinary normal likelihood. The bound that
    training reports is one for the sigma of that moment. Under objectives other than the ELBO the
    maximum lies elsewhere: NormalDecoder with scale ``shared`` follows every objective.

    Args:
        network: Maps (..., latent) to the locations, shape (..., features).
        momentum: Weight of a batch in the running mean of squared residuals.
        data: Training data; when given, locations start at their means, sigma at their pooled
            standard deviation; else at 1.

    Raises:
        ValueError: If momentum is not in (0, 1].

    References:
        Rybkin, Daniilidis and Levine, 2021, Simple and effective VAE training with calibrated
        decoders.
    """

    variance: Tensor
    least: Tensor

    def __init__(
        self,
        network: nn.Module,
        momentum: float = 0.1,
        *,
        data: Float[Tensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be above 0 and at most 1, got {momentum}.")
        self.network, self.momentum = network, momentum
        variance = column_spreads(data).square().mean()
        self.register_buffer("variance", variance)
        self.register_buffer("least", variance * _FLOOR**2)
        if data is not None:
            start_blocks(network, [column_means(data)])

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Sigma, in the units of the data."""
        return torch.maximum(self.variance, self.least).sqrt()

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        loc = self.network(z)
        follows = self.training and torch.is_grad_enabled()
        watch = partial(self._follow, loc.detach()) if follows else None
        return FeatureVector(dist.Normal(loc, self.scale, validate_args=False), watch=watch)

    @torch.no_grad()
    def _follow(self, loc: Tensor, x: Tensor) -> None:
        found = (x - loc).square().nanmean()
        # A batch of missing cells alone says nothing.
        moved = torch.where(found.isnan(), self.variance, found)
        self.variance.lerp_(moved, self.momentum)
