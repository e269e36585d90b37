"""Independent binary latents."""

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.priors._values import register, require_sizes


@final
class BernoulliPrior(nn.Module):
    """``p(z) = prod_d Bernoulli(z_d; sigmoid(l_d))`` over {0, 1}; starts uniform.

    For latents that are to be read as switches. The draws have no pathwise gradient: train by
    VIMCO, RWS, Reinforce or TVO; up to some 20 latents, Enumeration gives log p(x) exactly.

    Args:
        latent: Number of latents.
        learned: Whether the logits l are parameters; else they stay 0.

    Raises:
        ValueError: If latent is less than 1.

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.
    """

    logits: Tensor

    def __init__(self, latent: int, learned: bool = True) -> None:
        super().__init__()
        require_sizes(latent=latent)
        register(self, learned, logits=torch.zeros(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Bernoulli(logits=self.logits).to_event(1)
