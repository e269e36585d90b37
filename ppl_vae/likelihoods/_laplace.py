"""Real-valued data: independent Laplace features."""

import math
from typing import final

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.likelihoods._outputs import (
    ParameterSource,
    Positive,
    count_blocks,
    read_blocks,
    start_blocks,
)
from ppl_vae.likelihoods._starts import column_means, column_spreads


@final
class LaplaceDecoder(nn.Module):
    """``p(x|z) = prod_d exp(-|x_d - loc(z)_d| / scale_d) / (2 scale_d)``.

    For real-valued data with tails heavier than a normal's: locations are medians.

    Args:
        network: Maps (..., latent) to the locations, shape (..., features); with scale ``network``
            to (..., 2 * features), locations, then unconstrained scales.
        scale: Mean absolute deviation in the units of the data, or ``shared`` (one learned for all
            features), ``feature`` (one for each), ``network`` (a function of z).
        data: Training data; when given, locations start at their means, a learned scale at theirs.

    Raises:
        ValueError: If the scale is not positive, or ``feature`` is asked for without data.
    """

    def __init__(
        self,
        network: nn.Module,
        scale: float | ParameterSource = "shared",
        *,
        data: Float[Tensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.scale = Positive("scale", scale, column_spreads(data) / math.sqrt(2))
        if data is not None:
            start_blocks(network, [column_means(data)], self.scale)

    @classmethod
    def num_outputs(cls, features: int, scale: float | ParameterSource = "shared") -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, scale)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> dist.Distribution:
        """The distribution of x, event shape (features,)."""
        loc, scale = read_blocks(self.network(z), 1, self.scale)
        return dist.Laplace(loc, scale, validate_args=False).to_event(1)
