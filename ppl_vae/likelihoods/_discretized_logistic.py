"""Data in equal steps, such as 8-bit pixels: discretised logistic features and mixtures of them."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions.constraints import Constraint
from torch.nn.functional import logsigmoid

from ppl_vae.data import RowTensor
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
from ppl_vae.names import require_least

_ROUNDING = 1e-2
"""Largest distance of a value from its level, in steps: k / (levels - 1) is rounded."""

_PER_SPREAD = math.sqrt(3) / math.pi
"""Scale of a logistic distribution with standard deviation 1."""


class _Levels(Constraint):
    """0, 1/(levels - 1), ..., 1."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        near = (steps - steps.round()).abs() <= _ROUNDING
        return near & (value >= -_ROUNDING / self.levels) & (value <= 1 + _ROUNDING / self.levels)


@final
class DiscretizedLogistic(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """Mass of a logistic distribution in the bins around k / (levels - 1), k = 0, ..., levels - 1.

    With a the upper and b the lower end of a bin, in units of the scale from the location,
    ``log p = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))``; the first bin reaches down
    to minus infinity (``log sigmoid(a)``) and the last one up (``log sigmoid(-b)``), so that the
    masses have sum 1. No difference of near-equal numbers is taken, wherever x lies.

    Args:
        loc: Locations on the scale of the data, [0, 1].
        scale: Scales of the logistic distribution, on the same scale.
        levels: Number of values, 2 or more.
        validate_args: Whether values are checked; None: as Pyro has it.

    References:
        Salimans, Karpathy, Chen and Kingma, 2017, PixelCNN++: improving the PixelCNN with
        discretized logistic mixture likelihood and other modifications.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        loc: Float[Tensor, "..."],
        scale: Float[Tensor, "..."],
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiscretizedLogistic":
        """Broadcast the distribution to a batch shape."""
        loc, scale = (x.expand(torch.Size(batch_shape)) for x in (self.loc, self.scale))
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=self._validate_args)

    @property
    def support(self) -> Constraint:
        """The levels."""
        return _Levels(self.levels)

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        """``sum_k P(K >= k) / (levels - 1)``; takes a pass over the levels."""
        return self._moments()[0]

    @property
    def variance(self) -> Float[Tensor, "*shape"]:
        """``sum_k (2k - 1) P(K >= k) / (levels - 1)^2 - mean^2``; takes a pass over the levels."""
        mean, second = self._moments()
        return second - mean.square()

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Logistic draws, rounded to the nearest level."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            steps = (self.loc + self.scale * torch.logit(u)) * (self.levels - 1)
            # A u of 0 gives minus infinity, which the clamp makes the first level.
            draws: Tensor = steps.round().clamp(0, self.levels - 1) / (self.levels - 1)
            return draws

    def log_prob(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "..."]:
        """Log-probability in nats, of the level nearest to each value."""
        last = self.levels - 1
        k = (value * last).round()
        # Not sigmoid(a) - sigmoid(b): far from the location both
        # are near 0 or 1, and their difference has no digits.
        below_end = logsigmoid(((k + 0.5) / last - self.loc) / self.scale)
        above_start = logsigmoid((self.loc - (k - 0.5) / last) / self.scale)
        # By expm1: 1 - exp(-t) has no digits where a bin is narrow against the scale.
        within = torch.log(-torch.expm1(-1 / (last * self.scale)))
        inner = below_end + above_start + within
        return torch.where(k <= 0, below_end, torch.where(k >= last, above_start, inner))

    def _moments(self) -> tuple[Tensor, Tensor]:
        last = self.levels - 1
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        # Level by level: all at once would take as many times the memory.
        for k in range(1, self.levels):
            reached = torch.sigmoid((self.loc - (k - 0.5) / last) / self.scale)
            first = first + reached / last
            second = second + (2 * k - 1) * reached / last**2
        return first, second


def _values(levels: int) -> Values:
    return Values(
        "a discretised logistic",
        f"the {levels} values 0, 1/{levels - 1}, ..., 1",
        f"divide whole numbers 0 to {levels - 1} by {levels - 1}, give the likelihood their number "
        f"of levels, or take another one {NORMAL}",
        _Levels(levels).check,
    )


def _scales(data: RowTensor | None, levels: int) -> Tensor:
    """Scales at the start, shape (features,), or () without data; not below a bin's width."""
    spreads = torch.tensor(0.25) if data is None else column_spreads(data)
    return _PER_SPREAD * spreads.clamp(min=1 / levels)


@final
class DiscretizedLogisticDecoder(nn.Module):
    """p(x|z) = prod_d mass of Logistic(loc(z)_d, scale_d) in the bin of x_d.

    For data in steps: 8-bit pixels as values k/255, as data sets of type uint8 are. Its log p(x) is
    a log-probability of the pixels themselves, comparable in bits per dimension.

    Args:
        network: Maps (..., latent) to (..., 2 * features), locations on the scale of the data, then
            unconstrained scales; to the locations alone with another scale than ``network``.
        levels: Number of values, 0, 1/(levels - 1), ..., 1.
        scale: Scale of the logistic distribution, on the scale of the data, or ``network`` (a
            function of z), ``shared`` (one learned for all features), ``feature`` (one for each).
        data: Training data; when given, locations start at their means, a learned scale at theirs.

    Raises:
        ValueError: If there are under 2 levels, the scale is not positive, or ``feature`` is asked
            for without data.

    References:
        Salimans, Karpathy, Chen and Kingma, 2017, PixelCNN++: improving the PixelCNN with
        discretized logistic mixture likelihood and other modifications.
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow.
    """

    def __init__(
        self,
        network: nn.Module,
        levels: int = 256,
        scale: float | ParameterSource = "network",
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        require_least(2, levels=levels)
        self.network, self.levels = network, levels
        self.scale = Positive("scale", scale, _scales(data, levels))
        if data is not None:
            start_blocks(network, [column_means(data)], self.scale)

    @classmethod
    def num_outputs(cls, features: int, scale: float | ParameterSource = "network") -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, scale)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        loc, scale = read_blocks(self.network(z), 1, self.scale)
        return FeatureVector(DiscretizedLogistic(loc, scale, self.levels), _values(self.levels))


@final
class DiscretizedLogisticMixtureDecoder(nn.Module):
    """p(x|z) = prod_d sum_c pi_c(z)_d mass of Logistic(loc_c(z)_d, scale_c(z)_d) in the bin of x_d.

    For pixels whose distribution given z has several modes, such as 0 and 255. Features are
    independent given z: PixelCNN++ also lets the colours of a pixel depend on each other.

    Args:
        network: Maps (..., latent) to (..., 3 * components * features): the components' logits,
            then their locations, then their unconstrained scales.
        components: Components of each feature's mixture.
        levels: Number of values, 0, 1/(levels - 1), ..., 1.
        data: Training data; when given, the locations start spread over theirs.

    Raises:
        ValueError: If there are under 2 levels or no components.

    References:
        Salimans, Karpathy, Chen and Kingma, 2017, PixelCNN++: improving the PixelCNN with
        discretized logistic mixture likelihood and other modifications.
    """

    def __init__(
        self,
        network: nn.Module,
        components: int = 5,
        levels: int = 256,
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        require_least(2, levels=levels)
        require_least(1, components=components)
        self.network, self.components, self.levels = network, components, levels
        # Narrower than the data, since each component covers a part of them.
        scale = _scales(data, levels) / components
        scale = scale.repeat(components) if scale.dim() else scale
        self.scale = Positive("scale", "network", scale)
        if data is not None:
            # At quantiles of a normal with the data's moments: components start apart.
            places = torch.special.ndtri((torch.arange(components) + 0.5) / components)
            locs = column_means(data) + places.unsqueeze(-1) * column_spreads(data)
            start_blocks(network, [torch.zeros(locs.numel()), locs.flatten()], self.scale)

    @classmethod
    def num_outputs(cls, features: int, components: int = 5) -> int:
        """Outputs that the network must have."""
        return features * components * count_blocks(2, "network")

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        blocks = read_blocks(self.network(z), 2, self.scale)
        logits, loc, scale = (
            block.unflatten(-1, (self.components, -1)).transpose(-1, -2) for block in blocks
        )
        mixture = dist.MixtureSameFamily(
            dist.Categorical(logits=logits, validate_args=False),
            DiscretizedLogistic(loc, scale, self.levels, validate_args=False),
            validate_args=False,
        )
        return FeatureVector(mixture, _values(self.levels))
