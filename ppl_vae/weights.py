"""Functions of log importance weights, taken per datum over the particles.

Every function here reduces the leading dimension, ``(particles, batch) -> (batch,)``: a weight
belongs to one datum, and no function in this package ever normalises over a batch.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


def log_mean_exp(log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " batch"]:
    """``log (1/K) sum_k w_k`` per datum, in nats.

    Args:
        log_weight: log w_k, shape (particles, batch).

    Returns:
        Shape (batch,).
    """
    return torch.logsumexp(log_weight, dim=0) - math.log(log_weight.shape[0])


def normalized_weights(
    log_weight: Float[Tensor, "particles batch"],
) -> Float[Tensor, "particles batch"]:
    """``v_k = w_k / sum_j w_j`` per datum: sums to 1 over the particles of each datum."""
    return torch.softmax(log_weight, dim=0)


def leave_one_out_log_mean_exp(
    log_weight: Float[Tensor, "particles batch"],
) -> Float[Tensor, "particles batch"]:
    """``L_K^(-k)``: log_mean_exp with the geometric mean of the others in place of w_k.

    Row k does not depend on w_k. Needs 2 particles or more.

    References:
        Mnih and Rezende, 2016, Variational inference for Monte Carlo objectives.
    """
    count = log_weight.shape[0]
    others = (log_weight.sum(0) - log_weight) / (count - 1)
    # Row k of the square holds all weights, its own replaced; K^2 numbers, no decoder.
    diagonal = torch.eye(count, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)
    replaced = torch.where(diagonal, others.unsqueeze(0), log_weight.unsqueeze(0))
    return torch.logsumexp(replaced, dim=1) - math.log(count)


def log_sum_of_others(
    log_weight: Float[Tensor, "particles batch"],
) -> Float[Tensor, "particles batch"]:
    """``log sum_(j != k) w_j`` for each k; -inf where there are no others."""
    nothing = torch.full_like(log_weight[:1], -math.inf)
    # From both ends: to subtract the largest weight from the sum of all would cancel digits.
    before = torch.cat([nothing, log_weight.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weight.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
    return torch.logaddexp(before, after)


def group_log_mean_exp(
    log_weight: Float[Tensor, "particles batch"], num_groups: int
) -> Float[Tensor, "groups batch"]:
    """:func:`log_mean_exp` of each of ``num_groups`` groups of consecutive particles."""
    grouped = log_weight.unflatten(0, (num_groups, -1))
    return torch.logsumexp(grouped, dim=1) - math.log(grouped.shape[1])


def group_normalized_weights(
    log_weight: Float[Tensor, "particles batch"], num_groups: int
) -> Float[Tensor, "particles batch"]:
    """:func:`normalized_weights` within each of ``num_groups`` groups of consecutive particles."""
    return torch.softmax(log_weight.unflatten(0, (num_groups, -1)), dim=1).flatten(0, 1)


def effective_sample_size(log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " batch"]:
    """``(sum_k w_k)^2 / sum_k w_k^2`` per datum, between 1 and K.

    References:
        Kong, 1992, A note on importance sampling using standardized weights.
    """
    # In log space: the weights themselves, and their squares sooner, overflow or vanish.
    return torch.exp(2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0))


class _Sums(NamedTuple):
    """Sums over particles of ``w exp(-shift)``, and the largest log-weights, by datum."""

    shift: Tensor
    total: Tensor
    squares: Tensor
    positive: Tensor
    largest: Tensor

    @classmethod
    def of(cls, log_weight: Float[Tensor, "particles batch"], kept: int) -> "_Sums":
        # In double precision, so that sums do not depend on where the chunks were cut.
        log_weight = log_weight.double()
        shift = log_weight.amax(0)
        weight = torch.exp(log_weight - _finite(shift))
        # A tail is fitted to a share of the positive weights; a weight of 0 has no place in it.
        positive = (log_weight > -math.inf).sum(0)
        largest = log_weight.topk(min(kept, len(log_weight)), dim=0).values
        return cls(shift, weight.sum(0), weight.square().sum(0), positive, largest)

    def merged(self, other: "_Sums", kept: int) -> "_Sums":
        # By the larger shift both factors are at most 1: nothing overflows.
        shift = torch.maximum(self.shift, other.shift)
        ours, theirs = (torch.exp(sums.shift - _finite(shift)) for sums in (self, other))
        # The largest of all are among the largest of each side.
        both = torch.cat([self.largest, other.largest])
        return _Sums(
            shift,
            self.total * ours + other.total * theirs,
            self.squares * ours**2 + other.squares * theirs**2,
            self.positive + other.positive,
            both.topk(min(kept, len(both)), dim=0).values,
        )


def _finite(shift: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """A datum whose every weight is zero has maximum -inf; any finite shift will do."""
    return torch.where(shift.isfinite(), shift, torch.zeros_like(shift))


def tail_size(count: int) -> int:
    """Number of weights in the tail of K weights: ``min(K/5, 3 sqrt(K))``.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """
    # Above 225, 3 sqrt(K) is the smaller of the two.
    return int(3 * math.sqrt(count)) if count > 225 else count // 5


class RunningWeights:
    """Sums of w and w^2 and the largest weights per datum, gathered chunk by chunk.

    Holds the running maximum m, ``sum exp(log w - m)`` and ``sum exp(2 (log w - m))`` in double
    precision, and as many of the largest log-weights as a tail of ``most`` weights has, so that
    nothing depends on how the particles were cut into chunks and memory grows with ``sqrt(most)``.
    A log-weight of -inf is a weight of 0.

    Args:
        most: Particles that will be added, at the most. Of more, the tail is that of fewer.

    Attributes:
        num_particles: Number of particles K, added so far.
        precision: Relative rounding of the log-weights, by the least precise of their types.
    """

    def __init__(self, most: int = 100_000) -> None:
        self.num_particles = 0
        self.precision = 0.0
        # One more than the tail: the weight below it is where the tail begins.
        self._kept = tail_size(most) + 1
        self._sums: _Sums | None = None

    @classmethod
    def of(cls, log_weight: Float[Tensor, "particles batch"]) -> "RunningWeights":
        """Sums of one chunk, shape (particles, batch)."""
        made = cls(len(log_weight))
        made.add(log_weight)
        return made

    def add(
        self,
        log_weight: Float[Tensor, "particles batch"],
        computed_in: torch.dtype | None = None,
    ) -> None:
        """Take in one chunk of log-weights.

        Args:
            log_weight: Shape (particles, batch).
            computed_in: Type that they were computed in, if not their own.
        """
        new = _Sums.of(log_weight, self._kept)
        self._sums = new if self._sums is None else self._sums.merged(new, self._kept)
        self.num_particles += len(log_weight)
        # Weights that were computed in float32 keep its rounding after a cast to float64.
        precision = torch.finfo(computed_in or log_weight.dtype).eps
        self.precision = max(self.precision, precision)

    def merged(self, other: "RunningWeights") -> "RunningWeights":
        """The sums over the particles of both, of the same data."""
        # Below the shorter list, one side may lack weights that belong to the tail of both.
        kept = min(self._kept, other._kept)
        sums = self._known().merged(other._known(), kept)
        made = self._with(sums, self.num_particles + other.num_particles)
        made._kept, made.precision = kept, max(self.precision, other.precision)
        return made

    def rows(self, chosen: Tensor) -> "RunningWeights":
        """The sums of some of the data."""
        sums = self._known()
        return self._with(_Sums(*(value[..., chosen] for value in sums)), self.num_particles)

    def columns(self) -> dict[str, Tensor]:
        """The sums by name, data first, for :meth:`from_columns`."""
        columns = {name: sums.movedim(-1, 0) for name, sums in self._known()._asdict().items()}
        return columns | {"precision": torch.full_like(columns["total"], self.precision)}

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Tensor], num_particles: int, most: int
    ) -> "RunningWeights":
        """The sums of the data of several :meth:`columns`, all over as many particles."""
        made = cls(most)
        made._sums = _Sums(*(columns[name].movedim(0, -1).contiguous() for name in _Sums._fields))
        made.num_particles = num_particles
        made.precision = columns["precision"].max().item()
        return made

    def with_largest(self, largest: Float[Tensor, "kept batch"]) -> "RunningWeights":
        """The sums with other log-weights in place of the :attr:`largest`."""
        sums = self._known()
        new, old = (torch.exp(values - _finite(sums.shift)) for values in (largest, sums.largest))
        total = sums.total - old.sum(0) + new.sum(0)
        squares = sums.squares - old.square().sum(0) + new.square().sum(0)
        # Weights that are all in the tail leave nothing below it, up to rounding.
        total = torch.maximum(total, new.sum(0))
        squares = torch.maximum(squares, new.square().sum(0))
        sums = sums._replace(total=total, squares=squares, largest=largest)
        return self._with(sums, self.num_particles)

    def _with(self, sums: _Sums, num_particles: int) -> "RunningWeights":
        made = RunningWeights()
        made._kept, made._sums = self._kept, sums
        made.num_particles, made.precision = num_particles, self.precision
        return made

    def _known(self) -> _Sums:
        if self._sums is None:
            raise ValueError("RunningWeights has seen no weights: call add first.")
        return self._sums

    @property
    def largest(self) -> Float[Tensor, "kept batch"]:
        """Log-weights of the tail and the one below it, largest first."""
        return self._known().largest

    @property
    def num_positive(self) -> Int[Tensor, " batch"]:
        """Number of weights above 0."""
        return self._known().positive

    @property
    def log_sum(self) -> Float[Tensor, " batch"]:
        """``log sum_k w_k``, in nats."""
        sums = self._known()
        return sums.shift + torch.log(sums.total)

    @property
    def log_mean(self) -> Float[Tensor, " batch"]:
        """``log mean_k w_k``, in nats."""
        return self.log_sum - math.log(self.num_particles)

    @property
    def effective_sample_size(self) -> Float[Tensor, " batch"]:
        """``(sum w)^2 / sum w^2``, between 1 and K; 0 where every weight is 0."""
        sums = self._known()
        size = sums.total.square() / sums.squares
        return torch.where(sums.total > 0, size, torch.zeros_like(size))

    @property
    def rounding(self) -> Float[Tensor, " batch"]:
        """Error of :attr:`log_mean` from the rounding of the log-weights, in nats.

        ``eps |log mean w|``: a weight that matters is off by so much, and not one by one: rounding
        does not average out over particles. 0 where every weight is 0.
        """
        log_mean = self.log_mean
        return self.precision * torch.where(log_mean.isfinite(), log_mean.abs(), 0.0)

    @property
    def standard_error(self) -> Float[Tensor, " batch"]:
        r"""Delta-method standard error of :attr:`log_mean`, in nats.

        ``SE^2 = K/(K-1) (1/ESS - 1/K)``, the unbiased variance of the mean weight over the squared
        mean weight. One particle says nothing about its own error: NaN; neither do weights that are
        all 0: infinite.
        """
        count = self.num_particles
        if count < 2:
            return torch.full_like(self.log_mean, math.nan)
        # Rounding can bring the difference below 0 when all weights are equal.
        relative_variance = (1 / self.effective_sample_size - 1 / count).clamp(min=0)
        return torch.sqrt(relative_variance * count / (count - 1))
