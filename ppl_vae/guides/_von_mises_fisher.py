"""Amortised guides on a sphere."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.distributions import VonMisesFisher

_SHORTEST = 1e-10
"""Outputs that are shorter, such as those of a network that starts at 0, have no direction."""


@final
class VonMisesFisherEncoder(nn.Module):
    """``q(z|x) = vMF(z; mu(x), kappa(x))`` on the unit sphere of R^m, m = latent.

    mu is the direction of the network's first m outputs, kappa = m softplus(last output): on the
    scale of m the distribution goes from uniform to concentrated. Draws are reparameterised, and
    the KL to :class:`~ppl_vae.priors.UniformSpherePrior` is closed form.

    Args:
        network: Maps ``(batch, *event)`` to (batch, m + 1).

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak, 2018, Hyperspherical variational auto-encoders.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a direction, and one number for the concentration."""
        return latent + 1

    def forward(self, x: Float[Tensor, "batch *event"]) -> VonMisesFisher:
        """The guide's distribution, event shape (latent,)."""
        output = self.network(x)
        direction, unconstrained = output[..., :-1], output[..., -1]
        concentration = direction.shape[-1] * functional.softplus(unconstrained)
        return VonMisesFisher(_unit(direction), concentration)


def _unit(direction: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
    """The direction at length 1; of none, the first axis, with a gradient that leads away."""
    none = torch.linalg.vector_norm(direction, dim=-1, keepdim=True) < _SHORTEST
    shifted = torch.cat([direction[..., :1] + none, direction[..., 1:]], -1)
    return functional.normalize(shifted, dim=-1)
