"""Amortised normal guides."""

from typing import final

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_MIN_SCALE = 1e-6
"""Keeps log q finite where softplus underflows."""


@final
class DiagonalNormalEncoder(nn.Module):
    """q(z|x) = Normal(loc(x), diag(scale(x)^2)), the scale by softplus.

    Args:
        network: Maps ``(batch, *event)`` to (batch, 2 * latent): loc, then the unconstrained scale.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a location and a scale for each latent dimension."""
        return 2 * latent

    def forward(self, x: Float[Tensor, "batch *event"]) -> dist.Distribution:
        """The guide's distribution, event shape (latent,)."""
        output = self.network(x)
        if output.shape[-1] % 2:
            raise ValueError(
                f"a diagonal normal guide needs 2 outputs of its network for each latent "
                f"dimension, got {output.shape[-1]}."
            )
        loc, unconstrained = output.chunk(2, dim=-1)
        return dist.Normal(loc, positive(unconstrained), validate_args=False).to_event(1)


def positive(unconstrained: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``log(1 + exp(u))``, and a little more."""
    return functional.softplus(unconstrained) + _MIN_SCALE
