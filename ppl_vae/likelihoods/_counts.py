"""Counts: independent Poisson and negative binomial features, and with extra zeros."""

from typing import ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.data import RowTensor, converted
from ppl_vae.distributions import InDouble, in_double
from ppl_vae.likelihoods._features import NORMAL, FeatureVector, Values
from ppl_vae.likelihoods._outputs import (
    ParameterSource,
    Positive,
    column_means,
    column_variances,
    count_blocks,
    read_blocks,
    start_blocks,
)

_LEAST_MEAN = 1e-3
"""Means of the data are kept this far from 0, so that no output bias starts at minus infinity."""


def _count_values(likelihood: str) -> Values:
    """Whole numbers from 0 up."""
    return Values(
        likelihood,
        "counts 0, 1, 2, ...",
        f"take a likelihood of measurements {NORMAL}",
        lambda x: (x >= 0) & (x == x.floor()) & x.isfinite(),
    )


_POISSON = _count_values("a Poisson")
_NEGATIVE_BINOMIAL = _count_values("a negative binomial")


def _log_means(data: Float[RowTensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Logarithms of the means of the columns."""
    return column_means(data).clamp(min=_LEAST_MEAN).log()


def _dispersions(
    data: Float[RowTensor, "num_data features"] | None,
) -> Float[Tensor, " features"] | Float[Tensor, ""]:
    """Inverse dispersions by the method of moments, ``m^2 / (v - m)``, within sane bounds."""
    if data is None:
        return torch.tensor(1.0)
    mean = column_means(data)
    # A variance below the mean, which no negative binomial has, would make it negative.
    excess = (column_variances(data) - mean).clamp(min=_LEAST_MEAN)
    return (mean.square() / excess).clamp(0.1, 100.0)


def _poisson(log_rate: Float[Tensor, "*shape"]) -> InDouble:
    """Poisson distribution by the logarithm of its rate, evaluated in double precision."""
    base = dist.Poisson(in_double(log_rate).exp(), validate_args=False)
    return InDouble(base, log_rate.dtype)


def negative_binomial(
    log_mean: Float[Tensor, "*shape"], inverse_dispersion: Float[Tensor, "..."]
) -> InDouble:
    """Negative binomial of mean m and variance ``m + m^2 / t``, evaluated in double precision."""
    total = in_double(inverse_dispersion)
    # torch counts successes before t failures, with odds m / t.
    logits = in_double(log_mean) - total.log()
    base = dist.NegativeBinomial(total, logits=logits, validate_args=False)
    return InDouble(base, log_mean.dtype)


@final
class PoissonDecoder(nn.Module):
    """p(x|z) = prod_d Poisson(x_d; exp(network(z)_d)).

    For counts whose variance given z is their mean.

    Args:
        network: Maps (..., latent) to log-rates of shape (..., features).
        data: Training data; when given, the rates start at their means.
    """

    whole_numbers: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        if data is not None:
            start_blocks(network, [_log_means(data)])

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        return FeatureVector(_poisson(self.network(z)), _POISSON)


@final
class NegativeBinomialDecoder(nn.Module):
    """p(x|z) = prod_d NegativeBinomial(x_d; mean m_d = exp(network(z)_d), inverse dispersion t_d).

    ``p(x) = Gamma(t + x) / (Gamma(t) x!) (t / (t + m))^t (m / (t + m))^x``, of variance
    ``m + m^2 / t``. For counts that vary more, given z, than a Poisson, such as expression counts.

    Args:
        network: Maps (..., latent) to the log-means, shape (..., features); with inverse_dispersion
            ``network`` to (..., 2 * features), log-means, then unconstrained inverse dispersions.
        inverse_dispersion: A number, or ``feature`` (one learned for each feature), ``shared`` (one
            for all), ``network`` (a function of z).
        data: Training data; when given, means start at theirs, a learned dispersion at that of
            their variances.

    Raises:
        ValueError: If the inverse dispersion is not positive, or ``feature`` is asked for without
            data.

    References:
        Lopez et al., 2018, Deep generative modeling for single-cell transcriptomics.
    """

    whole_numbers: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        inverse_dispersion: float | ParameterSource = "feature",
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        start = _dispersions(data)
        self.inverse_dispersion = Positive("inverse_dispersion", inverse_dispersion, start)
        if data is not None:
            start_blocks(network, [_log_means(data)], self.inverse_dispersion)

    @classmethod
    def num_outputs(
        cls, features: int, inverse_dispersion: float | ParameterSource = "feature"
    ) -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, inverse_dispersion)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        log_mean, inverse_dispersion = read_blocks(self.network(z), 1, self.inverse_dispersion)
        return FeatureVector(negative_binomial(log_mean, inverse_dispersion), _NEGATIVE_BINOMIAL)


_ZERO_INFLATED = _count_values("a zero-inflated")

_GATE_MARGIN = 1e-2
"""Gates start at least this far from 0, so that they are not saturated."""


def _is_zero(counts: Tensor) -> Tensor:
    """1 for a zero, 0 for other counts."""
    return torch.where(counts.isnan(), counts, (counts == 0).to(counts.dtype))


def _starts(data: RowTensor) -> list[Tensor]:
    """Log-means and gate logits: half of the zeros are extra ones, the mean is that of the data."""
    # NaN is kept: a missing cell is no zero.
    zeros = column_means(converted(data, _is_zero))
    gate = (zeros / 2).clamp(min=_GATE_MARGIN)
    # Divided by the share of counts that are no extra zeros: these make up the mean alone.
    return [_log_means(data) - torch.log1p(-gate), gate.logit()]


def _with_zeros(counts: InDouble, gate: Tensor) -> InDouble:
    """Counts with extra zeros, by the logits of their probabilities."""
    # Around the base, so that the zeros are mixed in double precision too.
    base = dist.ZeroInflatedDistribution(
        counts.base, gate_logits=in_double(gate), validate_args=False
    )
    return InDouble(base, counts.dtype)


@final
class ZeroInflatedPoissonDecoder(nn.Module):
    """p(x|z) = prod_d g_d [x_d = 0] + (1 - g_d) Poisson(x_d; m_d), the gate g = sigmoid(.).

    For counts with more zeros, given z, than a Poisson has.

    Args:
        network: Maps (..., latent) to (..., 2 * features): log-means, then logits of the gates.
        data: Training data; when given, the mean of p(x|z) starts at theirs, with half of the zeros
            extra ones.

    References:
        Lambert, 1992, Zero-inflated Poisson regression.
    """

    whole_numbers: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        if data is not None:
            start_blocks(network, _starts(data))

    @classmethod
    def num_outputs(cls, features: int) -> int:
        """Outputs that the network must have."""
        return features * count_blocks(2)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        log_mean, gate = read_blocks(self.network(z), 2)
        return FeatureVector(_with_zeros(_poisson(log_mean), gate), _ZERO_INFLATED)


@final
class ZeroInflatedNegativeBinomialDecoder(nn.Module):
    """p(x|z) = prod_d g_d [x_d = 0] + (1 - g_d) NegativeBinomial(x_d; mean m_d, dispersion 1/t_d).

    For counts with more zeros, given z, than a negative binomial has, as scVI has it, without
    library sizes.

    Args:
        network: Maps (..., latent) to (..., 2 * features), log-means, then logits of the gates;
            with inverse_dispersion ``network`` to (..., 3 * features), those of t last.
        inverse_dispersion: A number t, or ``feature`` (one learned for each feature), ``shared``
            (one for all), ``network`` (a function of z).
        data: Training data; when given, the mean of p(x|z) starts at theirs, with half of the zeros
            extra ones, and a learned dispersion at that of their variances.

    Raises:
        ValueError: If the inverse dispersion is not positive, or ``feature`` is asked for without
            data.

    References:
        Lopez et al., 2018, Deep generative modeling for single-cell transcriptomics.
    """

    whole_numbers: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        inverse_dispersion: float | ParameterSource = "feature",
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        start = _dispersions(data)
        self.inverse_dispersion = Positive("inverse_dispersion", inverse_dispersion, start)
        if data is not None:
            start_blocks(network, _starts(data), self.inverse_dispersion)

    @classmethod
    def num_outputs(
        cls, features: int, inverse_dispersion: float | ParameterSource = "feature"
    ) -> int:
        """Outputs that the network must have."""
        return features * count_blocks(2, inverse_dispersion)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        log_mean, gate, dispersion = read_blocks(self.network(z), 2, self.inverse_dispersion)
        return FeatureVector(
            _with_zeros(negative_binomial(log_mean, dispersion), gate), _ZERO_INFLATED
        )
