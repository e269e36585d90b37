"""Amortised guides of independent binary latents."""

from typing import final

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn


@final
class BernoulliEncoder(nn.Module):
    """``q(z|x) = prod_d Bernoulli(z_d; sigmoid(network(x)_d))`` over {0, 1}.

    Its draws have no pathwise gradient: train it by VIMCO, RWS, Reinforce or TVO.

    Args:
        network: Maps ``(batch, *event)`` to logits of shape (batch, latent).

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a logit for each latent."""
        return latent

    def forward(self, x: Float[Tensor, "batch *event"]) -> dist.Distribution:
        """The guide's distribution, event shape (latent,)."""
        return dist.Bernoulli(logits=self.network(x)).to_event(1)
