"""Normal priors with diagonal covariance."""

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn


def _require_latent(latent: int) -> None:
    if latent < 1:
        raise ValueError(f"latent must be 1 or more, got {latent}.")


@final
class StandardNormal(nn.Module):
    """p(z) = Normal(0, I).

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        _require_latent(latent)
        # Buffers follow the module to its device and dtype, and are the same in every model.
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.ones(latent), persistent=False)

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Normal(self.loc, self.scale, validate_args=False).to_event(1)


@final
class LearnedNormal(nn.Module):
    """p(z) = Normal(loc, diag(scale^2)), both learned; starts at the standard normal.

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        _require_latent(latent)
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Normal(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)
