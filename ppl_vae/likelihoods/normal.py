"""Real-valued data: independent normal features."""

import math
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks import set_output_bias


@final
class NormalDecoder(nn.Module):
    """p(x|z) = prod_d Normal(x_d; network(z)_d, scale), one scale for all features.

    Args:
        network: Maps (..., latent) to means of shape (..., features).
        scale: Standard deviation in the units of the data, or its starting value if learned.
        learn_scale: Whether the scale is a parameter.
        data_mean: Mean of the training data, shape (features,); when given, the network's last
            bias starts there.

    Raises:
        ValueError: If the scale is not positive.
    """

    log_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: float = 1.0,
        *,
        learn_scale: bool = False,
        data_mean: Float[Tensor, " features"] | None = None,
    ) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive and finite, got {scale}.")
        self.network = network
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            # Not a frozen parameter: at each of those, every step, pyro.module warns.
            self.register_buffer("log_scale", log_scale)
        if data_mean is not None:
            set_output_bias(network, data_mean)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> dist.Distribution:
        """The distribution of x, event shape (features,)."""
        loc = self.network(z)
        return dist.Normal(loc, self.log_scale.exp(), validate_args=False).to_event(1)
