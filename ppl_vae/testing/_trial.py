"""Trial of an estimator of log p(x), and comparisons of its answers with the truth."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence import Direction, Estimator, Evidence
from ppl_vae.randomness import derive_seed
from ppl_vae.reference_models import ReferenceModel, exact, same_draws
from ppl_vae.testing._comparison import Discrepancy

Relation = Literal["=", "<=", ">="]
_FEW = 8
_DRAWS = ("num_particles", "num_chains")
"""Fields for the number of independent draws."""
_LEAST_DRAWS = 2
"""Fewest draws that have a standard error."""
_ALWAYS = ("log_prob", "standard_error", "effective_sample_size")
_SOMETIMES = ("pareto_k", "tail_share", "rounding", "evaluations", "skewness_z")
_FINITE = (*_ALWAYS, "evaluations")
_SLACK = 1e-6
"""Tolerance of an effective sample size, which is computed with rounding."""


def off_posterior(batch: int) -> ReferenceModel:
    """Make one layer, its guide off by a standard deviation and wider than the posterior."""
    # Wider, so that importance weights are bounded in the tails and their moments exist.
    return exact(batch, shift=1.0, wider=1.4)


@final
@dataclasses.dataclass(frozen=True)
class Replicates:
    """Independent estimates of one log p(x), in two calls of equal size.

    Attributes:
        calls: Results of both calls.
        truth: log p(x), as many times as there are replicates.
    """

    calls: tuple[Evidence, Evidence]
    truth: Float[Tensor, " replicates"]

    @property
    def log_prob(self) -> Float[Tensor, " replicates"]:
        """Estimates of both calls."""
        return torch.cat([call.log_prob for call in self.calls])

    @property
    def standard_error(self) -> Float[Tensor, " replicates"]:
        """Errors that the estimates state."""
        return torch.cat([call.standard_error for call in self.calls])


@final
class Trial:
    """Trial of an estimator, with its claims and the results that several rungs use.

    Args:
        estimator: Estimator under test.
        num_replicates: Estimates of one log p(x).
        unbiased_exp: Whether the exponential of a bound is claimed to be unbiased.
        seed: Seed of everything that rungs share.
    """

    def __init__(
        self, estimator: Estimator, num_replicates: int, unbiased_exp: bool, seed: int
    ) -> None:
        self.estimator, self.unbiased_exp = estimator, unbiased_exp
        self._half, self._seed = num_replicates // 2, seed

    def estimate(
        self, known: ReferenceModel, seed: int, *, estimator: Estimator | None = None, **call: Any
    ) -> Evidence:
        """Call the estimator, or a variant of it, and check the form of its result.

        Two seeds follow from the one: the estimator's own, and that of the caller's random state.
        """
        compute = self.estimator if estimator is None else estimator
        call = {"seed": short_seed(seed), **call}
        start = time.perf_counter()
        with same_draws(derive_seed(seed, 1)):
            evidence = compute(known.model, known.guide, known.x, **call)
        _require_evidence(evidence, known.x, time.perf_counter() - start)
        return evidence

    @cached_property
    def few(self) -> ReferenceModel:
        """Few data, with a guide away from the posterior."""
        return off_posterior(_FEW)

    @property
    def first_seed(self) -> int:
        """Seed of the first result."""
        return derive_seed(self._seed, 0)

    @cached_property
    def first(self) -> Evidence:
        """First result, on the few data."""
        return self.estimate(self.few, self.first_seed)

    @cached_property
    def replicates(self) -> Replicates:
        """Estimates of the first datum, away from the posterior."""
        return self._replicates((1, 2), None)

    def _replicates(self, streams: tuple[int, int], estimator: Estimator | None) -> Replicates:
        # Copies of one datum are independent replicates, and cost one call in place of hundreds.
        known = off_posterior(1).repeated(self._half)
        first, second = (
            self.estimate(known, derive_seed(self._seed, stream), estimator=estimator)
            for stream in streams
        )
        return Replicates((first, second), torch.cat([known.log_evidence] * 2))

    @cached_property
    def fewest(self) -> Replicates | None:
        """Replicates with the fewest draws, 2, 4, 8, ..., that the estimator takes.

        A bound's claims hold for any number of draws, and biases are largest with few. None where
        the estimator has no field for their number, or takes no half as many.
        """
        estimator = _with_fewest(self.estimator)
        return None if estimator is None else self._replicates((3, 4), estimator)

    @property
    def direction(self) -> Direction:
        """Direction that the estimator states."""
        return self.first.direction

    @property
    def random(self) -> bool:
        """Whether the estimate is random."""
        return self.direction != "exact"

    @property
    def centred(self) -> bool:
        """Whether estimates must be log p(x) within their errors, and not only a bound."""
        return self.unbiased_exp or self.direction not in ("lower", "upper")

    @property
    def relation(self) -> Relation:
        """Relation of the mean estimate, within its error, to log p(x)."""
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
    """Compare estimates for different data with their expected values, by the stated errors.

    Compared are the mean over the data, and a contrast: a weighted sum, with the weight of a datum
    the distance of what is expected from its mean, by which answers for other data show.

    Args:
        what: Name of the quantity.
        found: Estimates.
        expected: Their expected values.
        error: Standard error of the expected values.
        relation: Relation of the mean to the expected one.
    """
    errors = torch.hypot(found.standard_error, torch.as_tensor(error, dtype=torch.float64))
    distance = expected - expected.mean()
    weights = {
        f"mean {what}": (torch.full_like(distance, 1 / len(distance)), relation),
        # A bound of one gap for all data has the right contrast: equality, whatever the relation.
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
    """Copy with a field changed, its own or that of a dataclass it holds; None without one."""
    if not dataclasses.is_dataclass(estimator) or isinstance(estimator, type):
        return None
    for field in (field for field in dataclasses.fields(estimator) if field.init):
        value = getattr(estimator, field.name)
        found = change(value) if field.name == name else with_field(value, name, change)
        if found is not None:
            return dataclasses.replace(estimator, **{field.name: found})
    return None


def _with_fewest(estimator: Any) -> Any | None:
    """Copy with the fewest particles, or chains, of 2, 4, 8, ... that it can be built with."""
    for name in _DRAWS:
        # with_field finds the field where it is nested: a change that only looks reads its value.
        sizes: list[int] = []

        def seen(value: int, sizes: list[int] = sizes) -> int:
            sizes.append(value)
            return value

        with_field(estimator, name, seen)
        fewest = _LEAST_DRAWS
        while sizes and 2 * fewest <= sizes[0]:
            try:
                return with_field(estimator, name, partial(min, fewest))
            # The constructor says how few are too few.
            except ValueError:
                fewest *= 2
    return None


def short_seed(seed: int) -> int:
    """Shorten a seed to the 31 bits that every random number generator takes."""
    return seed >> 32


def _require_evidence(evidence: Evidence, x: Tensor, wall_clock: float) -> None:
    """Check the form of a result and the plain numbers in it.

    Args:
        evidence: Result to check.
        x: Data that it is for.
        wall_clock: Seconds that the call took.

    Raises:
        AssertionError: At the first thing that is wrong, with what was expected and found.
    """
    if not isinstance(evidence, Evidence):
        raise AssertionError(f"expected an Evidence, found {type(evidence).__name__}")
    for name in (*_ALWAYS, *_SOMETIMES):
        value = getattr(evidence, name)
        if value is not None or name in _ALWAYS:
            _require_values(name, value, x)
    for what, expected, found, holds in _numbers(evidence, wall_clock):
        if not holds:
            raise AssertionError(f"{what}: expected {expected}, found {found}")


def _require_values(name: str, value: Tensor, x: Tensor) -> None:
    """Check for one number for each datum, in double precision, on the CPU."""
    if not isinstance(value, Tensor):
        raise AssertionError(f"{name}: expected a tensor, found {type(value).__name__}")
    if value.shape != x.shape[:1]:
        raise AssertionError(
            f"{name}: expected one value for each datum, shape {tuple(x.shape[:1])}, found shape "
            f"{tuple(value.shape)}"
        )
    if value.dtype != torch.float64 or value.device.type != "cpu":
        raise AssertionError(
            f"{name}: expected torch.float64 on cpu, found {value.dtype} on {value.device}"
        )
    if value.requires_grad:
        raise AssertionError(f"{name}: expected no autograd graph, found requires_grad=True")
    if name in _FINITE and not bool(value.isfinite().all()):
        wrong = int((~value.isfinite()).nonzero()[0])
        raise AssertionError(
            f"{name}: expected finite numbers, found {value[wrong].item()} for datum {wrong}"
        )


def _numbers(evidence: Evidence, wall_clock: float) -> Iterator[tuple[str, str, object, bool]]:
    """Yield name, expectation, value, and whether it holds, of each plain number."""
    count, error = evidence.num_particles, evidence.standard_error.min().item()
    whole = isinstance(count, int) and count >= 1
    yield "num_particles", "a whole number of 1 or more", repr(count), whole
    yield "standard_error", "0 or more", error, error >= 0
    low, high = (bound.item() for bound in evidence.effective_sample_size.aminmax())
    yield "effective_sample_size", "1 or more", low, low >= 1 - _SLACK
    most = f"at most num_particles, {count}"
    yield "effective_sample_size", most, high, high <= count * (1 + _SLACK)
    if evidence.evaluations is not None:
        fewest = evidence.evaluations.min().item()
        yield "evaluations", "1 or more for each datum", fewest, fewest >= 1
    directions = get_args(Direction)
    known = evidence.direction in directions
    yield "direction", f"one of {', '.join(directions)}", repr(evidence.direction), known
    named = isinstance(evidence.method, str) and bool(evidence.method.strip())
    yield "method", "the estimator's name", repr(evidence.method), named
    seconds = evidence.seconds
    taken = 0 < seconds <= wall_clock and math.isfinite(seconds)
    yield "seconds", f"those of the call, at most {wall_clock:.3g}", seconds, taken
