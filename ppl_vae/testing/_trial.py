"""An estimator of log p(x) under test, and how its answers are compared with the truth."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence import Direction, Estimator, Evidence
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Discrepancy
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing._known import Known, off_posterior
from ppl_vae.testing._requirements import require_evidence

Relation = Literal["=", "<=", ">="]
_FEW = 8
_DRAWS = ("num_particles", "num_chains")
"""Fields for the number of independent draws."""
_LEAST_DRAWS = 2
"""One draw has no standard error."""


@final
@dataclasses.dataclass(frozen=True)
class Replicates:
    """Independent estimates of one log p(x), in two calls of equal size.

    Attributes:
        calls: Of both calls.
        truth: log p(x), as many times as there are replicates.
    """

    calls: tuple[Evidence, Evidence]
    truth: Float[Tensor, " replicates"]

    @property
    def log_prob(self) -> Float[Tensor, " replicates"]:
        """The estimates."""
        return torch.cat([call.log_prob for call in self.calls])

    @property
    def standard_error(self) -> Float[Tensor, " replicates"]:
        """The errors that they state."""
        return torch.cat([call.standard_error for call in self.calls])


@final
class Trial:
    """An estimator, what is claimed of it, and the answers that several rungs look at.

    Args:
        estimator: What is tested.
        num_replicates: Estimates of one log p(x).
        unbiased_exp: Whether the exponential of a bound is claimed to be unbiased.
        seed: Of everything that rungs share.
    """

    def __init__(
        self, estimator: Estimator, num_replicates: int, unbiased_exp: bool, seed: int
    ) -> None:
        self.estimator, self.unbiased_exp = estimator, unbiased_exp
        self._half, self._seed = num_replicates // 2, seed

    def estimate(
        self, known: Known, seed: int, *, estimator: Estimator | None = None, **call: Any
    ) -> Evidence:
        """The answer of the estimator, or of a variant of it, if it is one.

        The seed stands for two: what the estimator is given, and the caller's random state.
        """
        ask = self.estimator if estimator is None else estimator
        call = {"seed": short_seed(seed), **call}
        begun = time.perf_counter()
        with same_draws(derive_seed(seed, 1)):
            evidence = ask(known.model, known.guide, known.x, **call)
        require_evidence(evidence, known.x, time.perf_counter() - begun)
        return evidence

    @cached_property
    def few(self) -> Known:
        """A few data, away from the posterior."""
        return off_posterior(_FEW)

    @property
    def first_seed(self) -> int:
        """Of the first answer."""
        return derive_seed(self._seed, 0)

    @cached_property
    def first(self) -> Evidence:
        """A first answer, on the few data."""
        return self.estimate(self.few, self.first_seed)

    @cached_property
    def replicates(self) -> Replicates:
        """Estimates of the first datum, away from the posterior."""
        known = off_posterior(1).replicated(self._half)
        calls = [self.estimate(known, derive_seed(self._seed, number)) for number in (1, 2)]
        return Replicates((calls[0], calls[1]), torch.cat([known.log_evidence] * 2))

    @cached_property
    def fewest(self) -> Replicates | None:
        """As :attr:`replicates`, with the fewest draws that the estimator takes: 2, 4, 8, ...

        A bound's claims hold for any number of draws, and biases are largest with few. None where
        the estimator has no field for their number, or takes no half as many.
        """
        estimator = _with_fewest(self.estimator)
        if estimator is None:
            return None
        known = off_posterior(1).replicated(self._half)
        seeds = (derive_seed(self._seed, number) for number in (3, 4))
        first, second = (self.estimate(known, seed, estimator=estimator) for seed in seeds)
        return Replicates((first, second), torch.cat([known.log_evidence] * 2))

    @property
    def direction(self) -> Direction:
        """What the estimator says that it is."""
        return self.first.direction

    @property
    def random(self) -> bool:
        """Whether it is subject to chance at all."""
        return self.direction != "exact"

    @property
    def centred(self) -> bool:
        """Whether estimates are to be log p(x) within their errors, and not a bound far off."""
        return self.unbiased_exp or self.direction not in ("lower", "upper")

    @property
    def relation(self) -> Relation:
        """Of the mean estimate, within its error, to log p(x)."""
        if self.centred:
            return "="
        return "<=" if self.direction == "lower" else ">="


def agreement(
    what: str,
    found: Evidence,
    expected: Float[Tensor, " batch"],
    error: Float[Tensor, " batch"] | float = 0.0,
    relation: Relation = "=",
) -> list[Discrepancy]:
    """That estimates for different data are near what they should be, by the errors they state.

    Compared are the mean over the data, and a contrast: a weighted sum, with the weight of a datum
    the distance of what is expected from its mean, by which answers for other data show.

    Args:
        what: What is compared.
        found: The estimates.
        expected: What they should be.
        error: Standard error of what is expected.
        relation: Of the mean.
    """
    errors = torch.hypot(found.standard_error, torch.as_tensor(error, dtype=torch.float64))
    distance = expected - expected.mean()
    weights = {
        f"mean {what}": (torch.full_like(distance, 1 / len(distance)), relation),
        f"contrast of {what}": (distance / distance.abs().sum(), "="),
    }
    return [
        Discrepancy(
            name,
            (weight * found.log_prob).sum().item(),
            (weight * expected).sum().item(),
            error=(weight * errors).square().sum().sqrt().item(),
            relation=side,
        )
        for name, (weight, side) in weights.items()
    ]


def with_field(estimator: Any, name: str, change: Callable[[Any], Any]) -> Any | None:
    """A copy with a field changed, its own or that of a dataclass it holds; None without one."""
    if not dataclasses.is_dataclass(estimator) or isinstance(estimator, type):
        return None
    for field in (field for field in dataclasses.fields(estimator) if field.init):
        value = getattr(estimator, field.name)
        found = change(value) if field.name == name else with_field(value, name, change)
        if found is not None:
            return dataclasses.replace(estimator, **{field.name: found})
    return None


def _with_fewest(estimator: Any) -> Any | None:
    """A copy with the fewest particles, or chains, of 2, 4, 8, ... that it can be built with."""
    for name in _DRAWS:
        sizes: list[int] = []

        def seen(value: int, sizes: list[int] = sizes) -> int:
            sizes.append(value)
            return value

        with_field(estimator, name, seen)
        fewest = _LEAST_DRAWS
        while sizes and 2 * fewest <= sizes[0]:
            try:
                return with_field(estimator, name, partial(min, fewest))
            except ValueError:
                fewest *= 2
    return None


def short_seed(seed: int) -> int:
    """One that every random number generator takes."""
    return seed >> 32


def rms(values: Tensor) -> float:
    """Root of the mean square."""
    return math.sqrt(values.square().mean().item())
