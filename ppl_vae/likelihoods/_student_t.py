"""Real-valued data: independent Student-t features."""

import math
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import InDouble, in_double
from ppl_vae.likelihoods._features import FeatureVector
from ppl_vae.likelihoods._outputs import (
    ParameterSource,
    Positive,
    count_blocks,
    read_blocks,
    start_blocks,
)
from ppl_vae.likelihoods._starts import column_means, column_spreads

_START = 5.0
"""Degrees of freedom at the start."""


@final
class StudentTDecoder(nn.Module):
    """p(x|z) = prod_d StudentT(x_d; df_d, loc(z)_d, scale_d).

    ``log p(x_d|z) = log Gamma((df + 1) / 2) - log Gamma(df / 2) - log(pi df scale^2) / 2
    - (df + 1) / 2 log(1 + (x_d - loc)^2 / (df scale^2))``. For real-valued data with outliers: they
    pull at the locations less, the farther out they are. Variances are finite for df > 2.

    Args:
        network: Maps (..., latent) to the locations, shape (..., features), then a block of as many
            unconstrained scales where ``scale`` is ``network``, then one of df likewise.
        scale: Scale in the units of the data, or ``shared`` (one learned for all features),
            ``feature`` (one for each), ``network`` (a function of z).
        df: Degrees of freedom, greater than 1, so that there is a mean; or as for the scale.
        data: Training data; when given, locations start at their means, a learned scale at theirs.

    Raises:
        ValueError: If the scale is not positive or df not greater than 1, or ``feature`` is asked
            for without data.

    References:
        Takahashi et al., 2018, Student-t variational autoencoder for robust density estimation.
    """

    def __init__(
        self,
        network: nn.Module,
        scale: float | ParameterSource = "shared",
        df: float | ParameterSource = "shared",
        *,
        data: Float[Tensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        spreads = column_spreads(data)
        self.scale = Positive("scale", scale, spreads * math.sqrt(1 - 2 / _START))
        if not isinstance(df, str):
            if not (df > 1 and math.isfinite(df)):
                raise ValueError(f"df must be finite and greater than 1, got {df}.")
            df = df - 1
        self.more_than_one = Positive("df", df, torch.full_like(spreads, _START - 1))
        if data is not None:
            start_blocks(network, [column_means(data)], self.scale, self.more_than_one)

    @classmethod
    def num_outputs(
        cls,
        features: int,
        scale: float | ParameterSource = "shared",
        df: float | ParameterSource = "shared",
    ) -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, scale, df)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        loc, scale, more = read_blocks(self.network(z), 1, self.scale, self.more_than_one)
        return FeatureVector(_student_t(1 + in_double(more), loc, scale))


def _student_t(df: Tensor, loc: Tensor, scale: Tensor) -> InDouble:
    base = dist.StudentT(in_double(df), in_double(loc), in_double(scale), validate_args=False)
    return InDouble(base, loc.dtype)
