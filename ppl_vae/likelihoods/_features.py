"""Independent features as one event, the values they take, and cells that are missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Independent

from ppl_vae.distributions import sum_features
from ppl_vae.names import ValuesError

_MISSING = "NaN is a missing cell; wrap the decoder in ObservedDecoder, which leaves them out"
NORMAL = '(NormalDecoder; of a run, likelihood="normal")'
"""Advice to take a likelihood of any number, as it is made and as it is named."""


def _unchanged(x: Tensor) -> Tensor:
    return x


@final
@dataclass(frozen=True)
class Values:
    """The values that a likelihood takes.

    Attributes:
        likelihood: Its name with an article, such as ``a Poisson``.
        expected: The values in words.
        remedy: Advice about others.
        possible: Whether each value of a tensor is one; false for NaN.
        rounded: Maps a draw that has been rounded to its type to the nearest such value.
    """

    likelihood: str
    expected: str
    remedy: str
    possible: Callable[[Tensor], Tensor]
    rounded: Callable[[Tensor], Tensor] = _unchanged

    def require(self, x: Tensor) -> None:
        """Check every value.

        Raises:
            ValueError: If one is not among them.
        """
        possible = self.possible(x)
        if possible.all():
            return
        example = x[~possible][0]
        remedy = _MISSING if example.isnan() else self.remedy
        raise ValuesError(
            f"{self.likelihood} likelihood takes {self.expected}, got {example.item():.6g}", remedy
        )


@final
class FeatureVector(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``log p(x) = sum_d log p(x_d)``: univariate distributions side by side as one event.

    As ``base.to_event(1)``, with an error on impossible values that says what to do about them.

    Args:
        base: Univariate distributions, batch shape ``(*shape, features)``.
        values: Which values they take; None: unchecked.
        observe: Called with the values whose density is asked for.
        validate_args: Whether values are checked; None: as Pyro has it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        base: Any,
        values: Values | None = None,
        *,
        observe: Callable[[Tensor], None] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.base, self._values, self._observe = base, values, observe
        shape = base.batch_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "FeatureVector":
        """Broadcast the distribution to a batch shape."""
        return FeatureVector(
            self.base.expand((*batch_shape, *self.event_shape)),
            self._values,
            observe=self._observe,
            validate_args=self._validate_args,
        )

    @property
    def support(self) -> constraints.Constraint:
        """Support of the base, feature by feature."""
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
        # Here and not in feature_log_prob, which Observed calls with values in place of NaN.
        self.observe(value)
        return sum_features(self.feature_log_prob(value))

    def feature_log_prob(
        self, value: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*shape features"]:
        """The terms of :meth:`log_prob`."""
        if self._validate_args and self._values is not None:
            self._values.require(value)
        log_prob: Tensor = self.base.log_prob(value)
        return log_prob

    def observe(self, value: Tensor) -> None:
        """Hand values to the decoder that learns from what it has seen, if there is one."""
        if self._observe is not None:
            self._observe(value)

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
        # A base with an event of its own has no density for each feature.
        take = None if distribution.base_dist.event_shape else distribution.base_dist.log_prob
    if take is not None:
        return take(value)
    raise TypeError(
        f"{type(distribution).__name__} has no log-density for each feature: end a univariate "
        "distribution with .to_event(1), or give it a method feature_log_prob(x)."
    )


_CANDIDATES = 0.5, 0.0, 1.0
"""Values in place of a missing cell, whose density is left out: the first one in the support."""


@final
class Observed(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``log p(x_observed) = sum over d with x_d not NaN of log p(x_d)``.

    With features independent given z, this is exactly the density with the missing cells integrated
    out: bounds and estimators of log p(x) become those of log p(x_observed), which is what can be
    known where cells are missing at random. Draws, mean and variance are of all features.

    Args:
        base: A distribution of event shape (features,) that has a log-density for each feature:
            ``univariate.to_event(1)``, or one with a method ``feature_log_prob``.
        validate_args: Not used: the base checks observed values.

    Raises:
        ValueError: If the base's event is no row of features.

    References:
        Mattei and Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete
        data sets.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    accepts_missing: ClassVar[bool] = True
    """Whether NaN in x is a missing cell, as the checks of a model's data ask."""

    def __init__(self, base: Any, validate_args: bool | None = None) -> None:
        if len(base.event_shape) != 1:
            raise ValueError(
                f"missing cells are features of a row, got event shape {tuple(base.event_shape)}: "
                "end the distribution with .to_event(1)."
            )
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Observed":
        """Broadcast the distribution to a batch shape."""
        return Observed(self.base.expand(torch.Size(batch_shape)))

    @property
    def support(self) -> constraints.Constraint:
        """Support of the base."""
        return self.base.support

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a pathwise gradient."""
        return bool(self.base.has_rsample)

    @property
    def mean(self) -> Float[Tensor, "*shape features"]:
        """Means of all features."""
        mean: Tensor = self.base.mean
        return mean

    @property
    def variance(self) -> Float[Tensor, "*shape features"]:
        """Variances of all features."""
        variance: Tensor = self.base.variance
        return variance

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Complete rows, shape ``(*sample_shape, *batch_shape, features)``."""
        draws: Tensor = self.base.sample(torch.Size(sample_shape))
        return draws

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Complete rows with a pathwise gradient, where the base has one."""
        draws: Tensor = self.base.rsample(torch.Size(sample_shape))
        return draws

    def log_prob(self, value: Float[Tensor, "*batch features"]) -> Float[Tensor, "*shape"]:
        """Log-density of the observed cells, in nats; 0 for a row without any.

        Raises:
            ValueError: If an observed value is outside the base's support, by the base's own check.
        """
        return sum_features(self.feature_log_prob(value))

    def feature_log_prob(
        self, value: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*shape features"]:
        """The terms of :meth:`log_prob`, 0 for missing cells."""
        # The value with its NaN, which what is learned from it leaves out.
        if isinstance(self.base, FeatureVector):
            self.base.observe(value)
        # A possible value in place of NaN: a NaN would pass through the gradient of torch.where.
        # The support is asked on the CPU, so that no device waits.
        for number in _CANDIDATES:
            if bool(self.base.support.check(torch.full(self.event_shape, number)).all()):
                observed = ~value.isnan()
                possible = torch.where(observed, value, number)
                return torch.where(observed, feature_log_prob(self.base, possible), 0.0)
        raise ValueError(
            f"no value in {_CANDIDATES} lies in the support of {type(self.base).__name__}: rescale "
            "the data so that one does."
        )


@final
class ObservedDecoder(nn.Module):
    """p(x_observed|z): a decoder whose missing cells, NaN in x, are left out.

    The missing-at-random bound of MIWAE for every objective and estimator. The encoder needs
    :class:`~ppl_vae.networks.ObservedInput` around its network.

    Args:
        decoder: Maps (..., latent) to a distribution of independent features.

    References:
        Mattei and Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete
        data sets.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Float[Tensor, "*shape latent"]) -> Observed:
        """The distribution of x, event shape (features,)."""
        return Observed(self.decoder(z))
