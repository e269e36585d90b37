"""Priors with heavier tails than a normal, independent over the dimensions."""

import math
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.priors._values import register, require_positive, require_sizes


@final
class LaplacePrior(nn.Module):
    """``p(z) = prod_d Laplace(z_d; loc_d, scale_d)``, with standard deviation ``sqrt(2) scale``.

    Most latents near 0 and a few far off, with tails ``exp(-|z| / scale)``. The locations start at
    0. A decoder whose first layer is linear can move and stretch z itself, so that nothing is lost
    by leaving them as they are.

    Args:
        latent: Number of latent dimensions.
        scale: In units of z; where it is learned, the start.
        learned: Whether the location and scale of each dimension are parameters.

    Raises:
        ValueError: If latent is less than 1 or the scale is not positive.
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(self, latent: int, scale: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        require_sizes(latent=latent)
        require_positive(scale=scale)
        zeros = torch.zeros(latent)
        register(self, learned, loc=zeros, log_scale=zeros + math.log(scale))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Laplace(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)


@final
class StudentTPrior(nn.Module):
    """``p(z) = prod_d StudentT(z_d; df_d, loc_d, scale_d)``: tails ``|z|^-(df + 1)``.

    A datum may lie far from all others at little cost. The variance is ``scale^2 df / (df - 2)``
    for df above 2, and infinite below. The locations start at 0. A decoder whose first layer is
    linear can move and stretch z itself, so that nothing but the tails is lost by leaving all three
    as they are.

    Args:
        latent: Number of latent dimensions.
        df: Degrees of freedom; where they are learned, the start.
        scale: In units of z; where it is learned, the start.
        learned: Whether degrees of freedom, location and scale of each dimension are parameters.

    Raises:
        ValueError: If latent is less than 1, or df or scale are not positive.
    """

    log_df: Tensor
    loc: Tensor
    log_scale: Tensor

    def __init__(
        self, latent: int, df: float = 5.0, scale: float = 1.0, learned: bool = False
    ) -> None:
        super().__init__()
        require_sizes(latent=latent)
        require_positive(df=df, scale=scale)
        zeros = torch.zeros(latent)
        start = {"log_df": zeros + math.log(df), "log_scale": zeros + math.log(scale)}
        register(self, learned, loc=zeros, **start)

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        df, scale = self.log_df.exp(), self.log_scale.exp()
        return dist.StudentT(df, self.loc, scale, validate_args=False).to_event(1)
