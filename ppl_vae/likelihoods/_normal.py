"""Real-valued data: independent normal features."""

from typing import final

import pyro.distributions as dist
import torch
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
class NormalDecoder(nn.Module):
    """p(x|z) = prod_d Normal(x_d; loc(z)_d, scale_d).

    For real-valued data without heavy tails. The scale is a number, a learned one for all features
    or for each, or a function of z (heteroscedastic); a learned one stays above 1/1000 of where it
    starts, since a density that reproduces its data has no upper bound.

    Args:
        network: Maps (..., latent) to the locations, shape (..., features); with scale ``network``
            to (..., 2 * features), locations, then unconstrained scales.
        scale: Standard deviation in the units of the data, or ``shared``, ``feature``, ``network``.
        learn_scale: Whether a number is only where one learned scale for all features starts.
        data: Training data; when given, locations start at their means, a learned scale at their
            standard deviations.
        data_mean: The means alone.

    Raises:
        ValueError: If the scale is not positive, or ``feature`` is asked for without data.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.
        Mattei and Frellsen, 2018, Leveraging the exact likelihood of deep latent variable models.
    """

    def __init__(
        self,
        network: nn.Module,
        scale: float | ParameterSource = "shared",
        *,
        learn_scale: bool = False,
        data: Float[Tensor, "num_data features"] | None = None,
        data_mean: Float[Tensor, " features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.scale = Positive("scale", scale, column_spreads(data))
        if learn_scale and not isinstance(scale, str):
            self.scale = Positive("scale", "shared", torch.tensor(float(scale)))
        if data is not None:
            data_mean = column_means(data)
        if data_mean is not None:
            start_blocks(network, [data_mean], self.scale)

    @classmethod
    def num_outputs(cls, features: int, scale: float | ParameterSource = "shared") -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, scale)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> dist.Distribution:
        """The distribution of x, event shape (features,)."""
        loc, scale = read_blocks(self.network(z), 1, self.scale)
        return dist.Normal(loc, scale, validate_args=False).to_event(1)
