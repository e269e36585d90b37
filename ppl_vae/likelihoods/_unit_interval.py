"""Data between 0 and 1: independent beta and continuous Bernoulli features."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.data import RowTensor
from ppl_vae.distributions import InDouble, in_double
from ppl_vae.likelihoods._features import NORMAL, FeatureVector, Values
from ppl_vae.likelihoods._outputs import (
    ParameterSource,
    Positive,
    column_means,
    column_spreads,
    count_blocks,
    read_blocks,
    start_blocks,
)

_MEAN_MARGIN = 1e-2
"""Distance of means from 0 and 1 at the start, so that no output bias starts saturated."""


def _into_the_open_interval(x: Tensor) -> Tensor:
    kind = torch.finfo(x.dtype)
    # A draw may round to 0 or 1, where a beta has no finite density; eps / 2 is the step below 1.
    return x.clamp(kind.tiny, 1 - kind.eps / 2)


_BETA_VALUES = Values(
    "a beta",
    "data strictly between 0 and 1",
    "rescale them into the open interval, or take another likelihood "
    'that takes 0 and 1 (ContinuousBernoulliDecoder; of a run, likelihood="continuous-bernoulli")',
    lambda x: (x > 0) & (x < 1),
    _into_the_open_interval,
)


@final
class BetaDecoder(nn.Module):
    """p(x|z) = prod_d Beta(x_d; m_d nu_d, (1 - m_d) nu_d), m = sigmoid(network(z)) the mean.

    For fractions and rates that are never 0 or 1. The precision nu sets the variance,
    m (1 - m) / (1 + nu); below 1/m or 1/(1 - m) the density is infinite at 0 or 1.

    Args:
        network: Maps (..., latent) to (..., 2 * features), logits of the means, then unconstrained
            precisions; to the logits alone with another precision than ``network``.
        precision: A number, or ``network`` (a function of z), ``shared`` (one learned for all
            features), ``feature`` (one for each).
        data: Training data; when given, means start at theirs, a learned precision at that of their
            variances.

    Raises:
        ValueError: If the precision is not positive, or ``feature`` is asked for without data.

    References:
        Ferrari and Cribari-Neto, 2004, Beta regression for modelling rates and proportions.
    """

    def __init__(
        self,
        network: nn.Module,
        precision: float | ParameterSource = "network",
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.precision = Positive("precision", precision, _precisions(data))
        if data is not None:
            mean = column_means(data).clamp(_MEAN_MARGIN, 1 - _MEAN_MARGIN)
            start_blocks(network, [mean.logit()], self.precision)

    @classmethod
    def num_outputs(cls, features: int, precision: float | ParameterSource = "network") -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, precision)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        logits, precision = read_blocks(self.network(z), 1, self.precision)
        mean, total = in_double(logits), in_double(precision)
        # Not 1 - mean, which is 0 long before the other shape is.
        shapes = torch.sigmoid(mean) * total, torch.sigmoid(-mean) * total
        base = InDouble(dist.Beta(*shapes, validate_args=False), logits.dtype)
        return FeatureVector(base, _BETA_VALUES)


def _precisions(data: RowTensor | None) -> Tensor:
    """Precisions by the method of moments, ``m (1 - m) / v - 1``, within sane bounds."""
    if data is None:
        return torch.tensor(2.0)
    mean = column_means(data).clamp(_MEAN_MARGIN, 1 - _MEAN_MARGIN)
    return (mean * (1 - mean) / column_spreads(data).square() - 1).clamp(0.5, 1000.0)


_SMALL = 0.1
"""Half-logits below which series replace differences that cancel."""

_MOST_LOGIT, _BISECTIONS = 200.0, 60
"""Bracket of the logit of a mean, and how often it is halved."""

_CONTINUOUS_BERNOULLI_VALUES = Values(
    "a continuous Bernoulli",
    "data in [0, 1]",
    f"divide by the largest value, or take another likelihood {NORMAL}",
    lambda x: (x >= 0) & (x <= 1),
)


def _where_small(
    y: Tensor, series: Callable[[Tensor], Tensor], formula: Callable[[Tensor], Tensor]
) -> Tensor:
    """``series(y)`` for y of at most 0.1, else ``formula(y)``; y is not negative."""
    small = y <= _SMALL
    # Each branch gets values it can take: a NaN would pass through the gradient of torch.where.
    return torch.where(
        small, series(torch.where(small, y, 0.0)), formula(torch.where(small, 1.0, y))
    )


def _log_sinhc_less_y(y: Tensor) -> Tensor:
    """``log(sinh(y) / y) - y``, y not negative."""
    return _where_small(
        y,
        lambda y: y**2 * (1 / 6 + y**2 * (-1 / 180 + y**2 * (1 / 2835 - y**2 / 37800))) - y,
        # Without sinh itself, which overflows.
        lambda y: torch.log1p(-torch.exp(-2 * y)) - torch.log(2 * y),
    )


def _langevin(y: Tensor) -> Tensor:
    """``coth(y) - 1/y``, y not negative: the derivative of ``log(sinh(y) / y)``."""
    return _where_small(
        y,
        lambda y: y * (1 / 3 + y**2 * (-1 / 45 + y**2 * (2 / 945 - y**2 / 4725))),
        lambda y: 1 / torch.tanh(y) - 1 / y,
    )


def _langevin_slope(y: Tensor) -> Tensor:
    """``1/y^2 - 1/sinh(y)^2``, y not negative: the derivative of :func:`_langevin`."""
    return _where_small(
        y,
        lambda y: 1 / 3 + y**2 * (-1 / 15 + y**2 * (2 / 189 - y**2 / 675)),
        # 1 / sinh(y)^2 from exponentials that cannot overflow.
        lambda y: 1 / y**2 - 4 * torch.exp(-2 * y) / torch.expm1(-2 * y) ** 2,
    )


@final
class ContinuousBernoulli(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``p(x) = l exp(l x) / (exp(l) - 1)`` for x in [0, 1], l the logit; uniform at l = 0.

    ``log p(x) = l (x - 1/2) - log(sinh(l/2) / (l/2))``: right to rounding for every logit. The
    distribution of the same name in torch takes its normalising constant from probabilities that
    are clamped, and is no density for logits beyond about 15 in single precision: at 30 its mass
    is 0.53.

    Args:
        logits: l, any shape.
        validate_args: Whether values are checked; None: as Pyro has it.

    References:
        Loaiza-Ganem and Cunningham, 2019, The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.unit_interval

    def __init__(self, logits: Float[Tensor, "*shape"], validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "ContinuousBernoulli":
        """Broadcast the distribution to a batch shape."""
        logits = self.logits.expand(torch.Size(batch_shape))
        return ContinuousBernoulli(logits, validate_args=self._validate_args)

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        """``1/2 + (coth(l/2) - 2/l) / 2``; not sigmoid(l)."""
        return (1 + self.logits.sign() * _langevin(self.logits.abs() / 2)) / 2

    @property
    def variance(self) -> Float[Tensor, "*shape"]:
        """``1/l^2 - 1 / (4 sinh(l/2)^2)``."""
        return _langevin_slope(self.logits.abs() / 2) / 4

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draws by the inverse of the distribution function."""
        with torch.no_grad():
            # At a logit of 0 the inverse is 0 / 0; at eps it is uniform but for rounding.
            size = self.logits.abs().clamp(min=torch.finfo(self.logits.dtype).eps)
            u = torch.rand(
                self._extended_shape(torch.Size(sample_shape)), dtype=size.dtype, device=size.device
            )
            # The distance from the end where the density is highest is an exponential cut off at 1,
            # whose inverse has no difference of large numbers.
            distance = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)
            return torch.where(self.logits > 0, 1 - distance, distance)

    def log_prob(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "*shape"]:
        """Log-density in nats."""
        size = self.logits.abs()
        # l (x - 1/2) - |l| / 2, a difference of large numbers where |l| is large: there it is minus
        # |l| times the distance from the end where the density is highest.
        distance = torch.where(self.logits > 0, 1 - value, value)
        near = self.logits * (value - 0.5) - size / 2
        exponent = torch.where(size <= 2 * _SMALL, near, -size * distance)
        return exponent - _log_sinhc_less_y(size / 2)


def _logits_of(mean: Float[Tensor, " features"]) -> Float[Tensor, " features"]:
    """Logits with these means, by bisection."""
    low = torch.full_like(mean, -_MOST_LOGIT)
    high = -low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = ContinuousBernoulli(middle).mean < mean
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@final
class ContinuousBernoulliDecoder(nn.Module):
    """p(x|z) = prod_d l_d exp(l_d x_d) / (exp(l_d) - 1), l = network(z), for x_d in [0, 1].

    For grey values of pixels near black and white. Its log-density may be positive, and is not
    comparable with that of binarised data or of 256 levels.

    Args:
        network: Maps (..., latent) to logits of shape (..., features).
        data_mean: Mean of the training data, shape (features,); when given, the network's last bias
            starts where the mean of p(x|z) is that.

    References:
        Loaiza-Ganem and Cunningham, 2019, The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders.
    """

    def __init__(
        self, network: nn.Module, data_mean: Float[Tensor, " features"] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        if data_mean is not None:
            mean = data_mean.nan_to_num(0.5).clamp(_MEAN_MARGIN, 1 - _MEAN_MARGIN)
            start_blocks(network, [_logits_of(mean)])

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        return FeatureVector(ContinuousBernoulli(self.network(z)), _CONTINUOUS_BERNOULLI_VALUES)
