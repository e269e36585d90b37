"""Independent features as one event, each with a log-density of its own."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.distributions import sum_features
from ppl_vae.likelihoods._values import Values


@final
class FeatureVector(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``log p(x) = sum_d log p(x_d)``: univariate distributions side by side as one event.

    As ``base.to_event(1)``, with an error on impossible values that says what to do about them.

    Args:
        base: Univariate distributions, batch shape ``(*shape, features)``.
        values: Which values they take; None: unchecked.
        watch: Called with the values whose density is asked for.
        validate_args: Whether values are checked; None: as Pyro has it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        base: Any,
        values: Values | None = None,
        *,
        watch: Callable[[Tensor], None] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.base, self._values, self._watch = base, values, watch
        shape = base.batch_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "FeatureVector":
        """The same distribution with its batch shape broadcast."""
        return FeatureVector(
            self.base.expand((*batch_shape, *self.event_shape)),
            self._values,
            watch=self._watch,
            validate_args=self._validate_args,
        )

    @property
    def support(self) -> constraints.Constraint:
        """That of the base, feature by feature."""
        return constraints.independent(self.base.support, 1)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a pathwise gradient."""
        return bool(self.base.has_rsample)

    @property
    def mean(self) -> Float[Tensor, "*shape features"]:
        """Means of the features."""
        mean: Tensor = self.base.mean
        return mean

    @property
    def variance(self) -> Float[Tensor, "*shape features"]:
        """Variances of the features; infinite where they do not exist."""
        variance: Tensor = self.base.variance
        return variance

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draws, shape ``(*sample_shape, *batch_shape, features)``."""
        with torch.no_grad():
            return self._draws(self.base.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draws with a pathwise gradient, where the base has one."""
        return self._draws(self.base.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Float[Tensor, "*batch features"]) -> Float[Tensor, "*shape"]:
        """Log-density, or log-probability, in nats.

        Raises:
            ValueError: If validation is on (the default) and a value is impossible.
        """
        self.watch(value)
        return sum_features(self._log_prob(value))

    def feature_log_prob(
        self, value: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*shape features"]:
        """The terms of :meth:`log_prob`."""
        return self._log_prob(value)

    def watch(self, value: Tensor) -> None:
        """Show values to whoever watches them."""
        if self._watch is not None:
            self._watch(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args and self._values is not None:
            self._values.require(value)
        log_prob: Tensor = self.base.log_prob(value)
        return log_prob

    def _draws(self, x: Tensor) -> Tensor:
        return x if self._values is None else self._values.rounded(x)


def feature_log_prob(
    distribution: Any, value: Float[Tensor, "*batch features"]
) -> Float[Tensor, "*shape features"]:
    """``log p(x_d)`` of each feature, in nats.

    Args:
        distribution: ``base.to_event(1)`` with a univariate base, or one with a method of this
            name.
        value: x.

    Raises:
        TypeError: If the distribution is neither.
    """
    take: Callable[[Tensor], Tensor] | None = getattr(distribution, "feature_log_prob", None)
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        take = None if distribution.base_dist.event_shape else distribution.base_dist.log_prob
    if take is not None:
        return take(value)
    raise TypeError(
        f"{type(distribution).__name__} has no log-density for each feature: end a univariate "
        "distribution with .to_event(1), or give it a method feature_log_prob(x)."
    )
