"""Target distributions: a sampler and a log-density that should belong together."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppl_vae.likelihoods import feature_log_prob
from ppl_vae.testing.distributions._cubature import FittedCoordinates
from ppl_vae.testing.distributions._module_case import ModuleCase, unvalidated

_ON_SPHERE = 1e-6
_OF_A_MIXTURE = "MixtureSameFamilyConstraint"
"""The support of a mixture stands for that of its components."""
_FITTED = 4000
_SEEN = 400
"""Draws that show whether a distribution is discrete, where its support does not say so."""
_DIGITS = 0.5
"""Digits that an unconstrained coordinate may lose on its way to the support and back."""
Space = Literal["discrete", "free", "sphere", "unknown"]


def _nowhere(vectors: Float[Tensor, "points size"]) -> Bool[Tensor, " points"]:
    return torch.zeros(len(vectors), dtype=torch.bool)


@final
@dataclass(frozen=True)
class TargetDistribution:
    """Distribution of vectors, known by its sampler and its density.

    Attributes:
        name: Name for messages.
        draw: Number to so many draws, shape (draws, size).
        log_prob: Vectors, shape (points, size), to their log-density, shape (points,), in nats.
        support: Constraint on vectors that it declares.
        log_error: Standard error of a constant in ``log_prob``, in nats.
        rounded: Vectors to whether they stand for others that rounding takes for the same.
    """

    name: str
    draw: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    support: Any
    log_error: float = 0.0
    rounded: Callable[[Tensor], Tensor] = _nowhere

    @property
    def space(self) -> Space:
        """Kind of space of the vectors, on which the way to examine them depends."""
        draws = self.draw(_SEEN)
        # A support may not say that it is discrete, but repeated values do; a point has only one.
        most = max(len(column.unique()) for column in draws.unbind(-1))
        if self.support.is_discrete or 1 < most <= len(draws) // 2:
            return "discrete"
        lengths = draws[:16].norm(dim=-1)
        if bool(((lengths - 1).abs() < _ON_SPHERE).all()):
            return "sphere"
        try:
            biject_to(self.support)
        except NotImplementedError:
            return "unknown"
        return "free"

    def unconstrained(self) -> "TargetDistribution":
        """Transform to w, where vectors are ``T(w)`` and T maps the space to the support.

        ``log p(w) = log p(T(w)) + log |dT/dw|``; the tails of w are light.
        """
        transform = biject_to(self.support)
        coordinates = FittedCoordinates.of(transform.inv(self.draw(_FITTED)))

        def log_prob(w: Float[Tensor, "points free"]) -> Float[Tensor, " points"]:
            u, log_volume = coordinates(w)
            value = transform(u)
            log_volume = log_volume + transform.log_abs_det_jacobian(u, value)
            total: Tensor = self.log_prob(value) + log_volume
            # Where rounding leaves the support, or the arithmetic its range, there is no mass.
            return total.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)

        def rounded(w: Float[Tensor, "points free"]) -> Bool[Tensor, " points"]:
            u = coordinates(w)[0]
            # NaN counts as lost: every comparison with it is false.
            lost: Tensor = ~((transform.inv(transform(u)) - u).abs() < _DIGITS).all(-1)
            return lost

        def draw(count: int) -> Float[Tensor, "count free"]:
            return coordinates.inverse(transform.inv(self.draw(count)))

        return TargetDistribution(
            self.name, draw, log_prob, constraints.real_vector, self.log_error, rounded
        )


def target_of(case: ModuleCase, number: int) -> TargetDistribution:
    """Make the target distribution of a row's vector."""
    with unvalidated():
        distribution = case.row(number)

    def draw(count: int) -> Tensor:
        with unvalidated():
            draws: Tensor = distribution.sample((count,))
        return draws.reshape(count, -1)

    def log_prob(value: Tensor) -> Tensor:
        with unvalidated():
            lead = (len(value), *distribution.batch_shape)
            total: Tensor = distribution.log_prob(value.reshape(*lead, -1))
        return total.reshape(len(value))

    support = distribution.support
    if type(support).__name__ == _OF_A_MIXTURE:
        support = support.base_constraint
    return TargetDistribution(case.symbol(number), draw, log_prob, support, case.log_error)


def density_by_feature(distribution: Any, x: Tensor) -> Tensor | None:
    """Compute ``log p(x_d|z)``, shape ``(..., features)``; None if it is not offered."""
    try:
        return feature_log_prob(distribution, x)
    except TypeError:
        return None


def targets_of_features(
    case: ModuleCase, number: int, features: Sequence[int]
) -> list[TargetDistribution]:
    """Make targets of single features of a row; none if its density is no sum of theirs."""
    with unvalidated():
        distribution = case.row(number)
        x = distribution.sample()
        densities = density_by_feature(distribution, x)
        total = distribution.log_prob(x)
        if densities is None or not torch.allclose(densities.sum(-1), total, rtol=1e-6, atol=1e-6):
            return []
        return [_target_of_feature(distribution, x, j, case.symbol(number)) for j in features]


def _target_of_feature(distribution: Any, x: Tensor, j: int, symbol: str) -> TargetDistribution:
    def draw(count: int) -> Tensor:
        with unvalidated():
            draws: Tensor = distribution.sample((count,))
        return draws.reshape(count, -1)[:, j : j + 1]

    def rows(value: Tensor) -> Tensor:
        many = x.expand(len(value), *x.shape).clone()
        many[..., j] = value.reshape(-1, *[1] * (x.dim() - 1)).to(x)
        return many

    def log_prob(value: Tensor) -> Tensor:
        with unvalidated():
            densities = feature_log_prob(distribution, rows(value))
        return densities.reshape(len(value), -1)[:, j]

    support = distribution.support
    if isinstance(support, constraints.independent):
        support = _column(support, j)
    else:
        # One constraint of the row as a vector: what a column takes is found by trying values.
        def check(value: Tensor) -> Tensor:
            taken: Tensor = distribution.support.check(rows(value)).reshape(len(value))
            return taken

        draws = draw(1000)
        if bool((draws == draws.round()).all()):
            support = _InRow(check)
        else:
            everywhere = bool(check(-1 - draws[:1].abs()))
            base = constraints.real if everywhere else constraints.positive
            support = constraints.independent(base, 1)
    return TargetDistribution(f"{symbol[:3]}_{j}{symbol[3:]}", draw, log_prob, support)


@final
class _InRow(constraints.Constraint):  # type: ignore[misc, unused-ignore]
    """Vectors of one number, which can stand at a place of a row."""

    event_dim = 1
    is_discrete = True

    def __init__(self, holds: Callable[[Tensor], Tensor]) -> None:
        self._holds = holds
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self._holds(value)


def _column(support: Any, j: int) -> Any:
    """Make the constraint of one feature, as one of vectors of length 1."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    for name in ("lower_bound", "upper_bound"):
        bound = getattr(support, name, None)
        if isinstance(bound, Tensor) and bound.dim() > 0:
            # Not in place, and only where it differs: a constraint is known by its identity.
            support = copy.copy(support)
            setattr(support, name, bound.reshape(-1, bound.shape[-1])[0, j : j + 1])
    return constraints.independent(support, 1)
