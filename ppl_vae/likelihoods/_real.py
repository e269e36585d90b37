"""Real-valued data: independent normal, Laplace and Student-t features."""

import math
from functools import partial
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.data import RowTensor
from ppl_vae.distributions import InDouble, Normal, in_double
from ppl_vae.likelihoods._features import FeatureVector
from ppl_vae.likelihoods._outputs import (
    ParameterSource,
    Positive,
    column_means,
    column_spreads,
    count_blocks,
    read_blocks,
    start_blocks,
)


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
        data: Float[RowTensor, "num_data features"] | None = None,
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
        return Normal(loc, scale, validate_args=False).to_event(1)


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
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        # The standard deviation of a Laplace is sqrt(2) times its scale.
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
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        spreads = column_spreads(data)
        # The variance of a Student-t is scale^2 df / (df - 2).
        self.scale = Positive("scale", scale, spreads * math.sqrt(1 - 2 / _START))
        if not isinstance(df, str):
            if not (df > 1 and math.isfinite(df)):
                raise ValueError(f"df must be finite and greater than 1, got {df}.")
            # What is positive is df - 1: below 1 there is no mean, and a picture needs one.
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
        df = 1 + in_double(more)
        base = dist.StudentT(df, in_double(loc), in_double(scale), validate_args=False)
        return FeatureVector(InDouble(base, loc.dtype))


_FLOOR = 1e-3
"""Least scale, in units of the one at the start."""


@final
class OptimalSigmaDecoder(nn.Module):
    """p(x|z) = prod_d Normal(x_d; network(z)_d, sigma), sigma^2 the mean squared residual.

    For given locations the ELBO has its maximum over sigma at ``sigma^2 = E (x_d - loc(z)_d)^2``,
    the mean over data, features and draws z ~ q(z|x). Rybkin et al. put the mean of a batch into
    the density of that same batch; as a function of x this is no density (its integral is
    infinite), so that no log p(x) follows from it. Here sigma is a number that never depends on the
    x whose density is taken: in training mode, with gradients on, each batch is scored with the
    sigma of those before it and then moves a running mean, as in batch normalisation; in evaluation
    mode sigma is frozen, and log p(x) is that of an ordinary normal likelihood. The bound that
    training reports is one for the sigma of that moment. Under objectives other than the ELBO the
    maximum lies elsewhere: NormalDecoder with scale ``shared`` follows every objective.

    Args:
        network: Maps (..., latent) to the locations, shape (..., features).
        momentum: Weight of a batch in the running mean of squared residuals.
        data: Training data; when given, locations start at their means, sigma at their pooled
            standard deviation; else at 1.

    Raises:
        ValueError: If momentum is not in (0, 1].

    References:
        Rybkin, Daniilidis and Levine, 2021, Simple and effective VAE training with calibrated
        decoders.
    """

    variance: Tensor
    least: Tensor

    def __init__(
        self,
        network: nn.Module,
        momentum: float = 0.1,
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be above 0 and at most 1, got {momentum}.")
        self.network, self.momentum = network, momentum
        variance = column_spreads(data).square().mean()
        self.register_buffer("variance", variance)
        self.register_buffer("least", variance * _FLOOR**2)
        if data is not None:
            start_blocks(network, [column_means(data)])

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Sigma, in the units of the data."""
        return torch.maximum(self.variance, self.least).sqrt()

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        loc = self.network(z)
        follows = self.training and torch.is_grad_enabled()
        observe = partial(self._follow, loc.detach()) if follows else None
        # The scale is read here, before this batch moves it: no x enters its own density.
        return FeatureVector(dist.Normal(loc, self.scale, validate_args=False), observe=observe)

    @torch.no_grad()
    def _follow(self, loc: Tensor, x: Tensor) -> None:
        residual = (x - loc).square().nanmean()
        # A batch of missing cells alone says nothing. Without a branch, no device waits.
        residual = torch.where(residual.isnan(), self.variance, residual)
        self.variance.lerp_(residual, self.momentum)
