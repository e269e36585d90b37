"""The law of one vector: a sampler and a log-density that should be of one distribution."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppl_vae.likelihoods import feature_log_prob
from ppl_vae.testing.distributions._stretch import Stretch
from ppl_vae.testing.distributions._subject import Subject, unvalidated

_ON_SPHERE = 1e-6
_OF_A_MIXTURE = "MixtureSameFamilyConstraint"
_FITTED = 4000
_SEEN = 400
"""Draws that tell a discrete law whose support does not say so."""
_DIGITS = 0.5
"""Digits that an unconstrained coordinate may lose on its way to the support and back."""
Space = Literal["discrete", "free", "sphere", "unknown"]


def _nowhere(vectors: Float[Tensor, "points size"]) -> Bool[Tensor, " points"]:
    return torch.zeros(len(vectors), dtype=torch.bool)


def _repeats(draws: Float[Tensor, "draws size"]) -> bool:
    """Whether each coordinate has values that come again and again; a point has but one."""
    counts = [len(column.unique()) for column in draws.unbind(-1)]
    return 1 < max(counts) <= len(draws) // 2


@final
@dataclass(frozen=True)
class Law:
    """A distribution of vectors, looked at through its sampler and its density.

    Attributes:
        name: For messages.
        draw: Number to so many draws, shape (draws, size).
        log_prob: Vectors, shape (points, size), to their log-density, shape (points,), in nats.
        support: The constraint that it declares, of a vector.
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
        """Where the vectors live: everything that can be said of them depends on it."""
        draws = self.draw(_SEEN)
        if self.support.is_discrete or _repeats(draws):
            return "discrete"
        lengths = draws[:16].norm(dim=-1)
        if bool(((lengths - 1).abs() < _ON_SPHERE).all()):
            return "sphere"
        try:
            biject_to(self.support)
        except NotImplementedError:
            return "unknown"
        return "free"

    def unconstrained(self) -> "Law":
        """The law of w, where the vectors are ``T(w)`` and T maps the whole space to the support.

        ``log p(w) = log p(T(w)) + log |dT/dw|``; the tails of w are light.
        """
        transform = biject_to(self.support)
        stretch = Stretch.of(transform.inv(self.draw(_FITTED)))

        def log_prob(w: Float[Tensor, "points free"]) -> Float[Tensor, " points"]:
            u, log_volume = stretch(w)
            value = transform(u)
            log_volume = log_volume + transform.log_abs_det_jacobian(u, value)
            total: Tensor = self.log_prob(value) + log_volume
            # Where rounding leaves the support, or the arithmetic its range, there is no mass.
            return total.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)

        def rounded(w: Float[Tensor, "points free"]) -> Bool[Tensor, " points"]:
            u = stretch(w)[0]
            lost: Tensor = ~((transform.inv(transform(u)) - u).abs() < _DIGITS).all(-1)
            return lost

        def draw(count: int) -> Float[Tensor, "count free"]:
            return stretch.inverse(transform.inv(self.draw(count)))

        return Law(self.name, draw, log_prob, constraints.real_vector, self.log_error, rounded)


def law_of(subject: Subject, number: int) -> Law:
    """The law of a row's whole vector."""
    with unvalidated():
        distribution = subject.row(number)

    def draw(count: int) -> Tensor:
        with unvalidated():
            draws: Tensor = distribution.sample((count,))
        return draws.reshape(count, -1)

    def log_prob(value: Tensor) -> Tensor:
        with unvalidated():
            lead = (len(value), *distribution.batch_shape)
            total: Tensor = distribution.log_prob(value.reshape(*lead, -1))
        return total.reshape(len(value))

    support = _of_components(distribution.support)
    return Law(subject.symbol(number), draw, log_prob, support, subject.log_error)


def _of_components(support: Any) -> Any:
    """A mixture's support is that of its components."""
    return support.base_constraint if type(support).__name__ == _OF_A_MIXTURE else support


def density_by_feature(distribution: Any, x: Tensor) -> Tensor | None:
    """``log p(x_d|z)`` of each feature, shape ``(..., features)``; None if it is not offered."""
    try:
        return feature_log_prob(distribution, x)
    except TypeError:
        return None


def laws_of_features(subject: Subject, number: int, features: Sequence[int]) -> list[Law]:
    """The laws of some features of a row, by themselves; none if its density is no sum of them."""
    with unvalidated():
        distribution = subject.row(number)
        x = distribution.sample()
        densities = density_by_feature(distribution, x)
        if densities is None or not _adds_up(densities, distribution.log_prob(x)):
            return []
        return [_law_of_feature(distribution, x, j, subject.symbol(number)) for j in features]


def _adds_up(densities: Tensor, total: Tensor) -> bool:
    return bool(torch.allclose(densities.sum(-1), total, rtol=1e-6, atol=1e-6))


def _law_of_feature(distribution: Any, x: Tensor, j: int, symbol: str) -> Law:
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

    whole = distribution.support
    if isinstance(whole, constraints.independent):
        support = _column(whole, j)
    else:
        support = _of_rows(lambda value: whole.check(rows(value)).reshape(len(value)), draw(1000))
    return Law(f"{symbol[:3]}_{j}{symbol[3:]}", draw, log_prob, support)


@final
class _Whole(constraints.Constraint):  # type: ignore[misc, unused-ignore]
    """Vectors of one number, which can stand at a place of a row."""

    event_dim = 1
    is_discrete = True

    def __init__(self, holds: Callable[[Tensor], Tensor]) -> None:
        self._holds = holds
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self._holds(value)


def _of_rows(check: Callable[[Tensor], Tensor], draws: Tensor) -> Any:
    """The constraint of a column whose row has one of its own: found out by what it takes."""
    if bool((draws == draws.round()).all()):
        return _Whole(check)
    takes_all = bool(check(-1 - draws[:1].abs()))
    return constraints.independent(constraints.real if takes_all else constraints.positive, 1)


def _column(support: Any, j: int) -> Any:
    """The constraint of one feature, as one of vectors of length 1."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    for name in ("lower_bound", "upper_bound"):
        bound = getattr(support, name, None)
        if isinstance(bound, Tensor) and bound.dim() > 0:
            # Not in place, and only where it differs: a constraint is known by its identity.
            support = copy.copy(support)
            setattr(support, name, bound.reshape(-1, bound.shape[-1])[0, j : j + 1])
    return constraints.independent(support, 1)
