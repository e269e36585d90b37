"""Normal priors."""

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppl_vae.priors._values import register, require_sizes


@final
class StandardNormalPrior(nn.Module):
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
        require_sizes(latent=latent)
        register(self, learned=False, loc=torch.zeros(latent), scale=torch.ones(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Normal(self.loc, self.scale, validate_args=False).to_event(1)


@final
class LearnedNormalPrior(nn.Module):
    """p(z) = Normal(loc, diag(scale^2)), both learned; starts at the standard normal.

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        require_sizes(latent=latent)
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Normal(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)


@final
class FullCovarianceNormalPrior(nn.Module):
    """p(z) = Normal(loc, R R'), both learned; starts at the standard normal.

    R is a Cholesky factor: lower triangular, its diagonal the exponential of what is learned. A
    decoder whose first layer is linear can turn and stretch z itself, and then needs no more than
    :class:`StandardNormalPrior`; what this prior adds is a guide's freedom to be diagonal in other
    axes. A density costs latent^2 operations.

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        require_sizes(latent=latent)
        self.loc = nn.Parameter(torch.zeros(latent))
        self.root = nn.Parameter(torch.zeros(latent, latent))

    @property
    def scale_tril(self) -> Tensor:
        """R, shape (latent, latent)."""
        root: Tensor = transform_to(constraints.lower_cholesky)(self.root)
        return root

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)
