"""Double precision for formulas that need it, whatever the precision of the model is."""

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Size, Tensor


def in_double(x: Tensor) -> Tensor:
    """``x`` in double precision, where the device has it."""
    # Apple's GPUs have no double precision.
    return x if x.device.type == "mps" else x.double()


def sum_features(log_prob: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape"]:
    """Sum over the last dimension, added up in double precision, in the type of the terms."""
    return in_double(log_prob).sum(-1).to(log_prob.dtype)


@final
class InDouble(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """A univariate distribution whose formulas are evaluated in double precision.

    Differences of log-gamma functions lose all digits in single precision: at 10,000 degrees of
    freedom a Student-t log-density is off by 0.005 nats, at counts of ten millions a negative
    binomial one by 1. Values come in any type; draws, moments and log-densities have that of the
    model.

    Args:
        base: The distribution, with parameters in double precision.
        dtype: Type of draws, moments and log-densities.
        validate_args: Not used: the base checks, or the event that it is a part of.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: Any, dtype: torch.dtype, validate_args: bool | None = None) -> None:
        self.base, self.dtype = base, dtype
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "InDouble":
        """Broadcast the distribution to a batch shape."""
        return InDouble(self.base.expand(Size(batch_shape)), self.dtype)

    @property
    def support(self) -> constraints.Constraint:
        """Support of the base."""
        return self.base.support

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a pathwise gradient."""
        return bool(self.base.has_rsample)

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        """Mean of the base."""
        return self._typed(self.base.mean)

    @property
    def variance(self) -> Float[Tensor, "*shape"]:
        """Variance of the base; infinite where it does not exist."""
        return self._typed(self.base.variance)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draws, shape ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            return self._typed(self.base.sample(Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draws with a pathwise gradient, where the base has one."""
        return self._typed(self.base.rsample(Size(sample_shape)))

    def log_prob(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "..."]:
        """Log-density, or log-probability, in nats."""
        return self._typed(self.base.log_prob(in_double(value)))

    def _typed(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)
