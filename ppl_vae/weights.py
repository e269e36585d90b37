"""Functions of log importance weights, taken per datum over the particles.

Every function here reduces the leading dimension, ``(particles, batch) -> (batch,)``: a weight
belongs to one datum, and no function in this package ever normalises over a batch.
"""

import math

import torch
from jaxtyping import Float
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


def group_log_mean_exp(
    log_weight: Float[Tensor, "particles batch"], num_groups: int
) -> Float[Tensor, "groups batch"]:
    """:func:`log_mean_exp` of each of ``num_groups`` runs of consecutive particles."""
    grouped = log_weight.unflatten(0, (num_groups, -1))
    return torch.logsumexp(grouped, dim=1) - math.log(grouped.shape[1])


def group_normalized_weights(
    log_weight: Float[Tensor, "particles batch"], num_groups: int
) -> Float[Tensor, "particles batch"]:
    """:func:`normalized_weights` within each of ``num_groups`` runs of consecutive particles."""
    return torch.softmax(log_weight.unflatten(0, (num_groups, -1)), dim=1).flatten(0, 1)


def effective_sample_size(log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " batch"]:
    """``(sum_k w_k)^2 / sum_k w_k^2`` per datum, between 1 and K.

    References:
        Kong, 1992, A note on importance sampling using standardized weights.
    """
    return torch.exp(2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0))


class RunningWeights:
    """Sums of w and w^2 per datum, gathered chunk by chunk in constant memory.

    Holds the running maximum m and ``sum exp(log w - m)``, ``sum exp(2 (log w - m))`` in double
    precision, so that the result does not depend on how the particles were cut into chunks.
    """

    def __init__(self) -> None:
        self.num_particles = 0
        self._max: Tensor | None = None
        self._sum: Tensor | float = 0.0
        self._sum_of_squares: Tensor | float = 0.0

    def add(self, log_weight: Float[Tensor, "particles batch"]) -> None:
        """Take in one chunk of log-weights, shape (particles, batch)."""
        log_weight = log_weight.double()
        chunk_max = log_weight.amax(0)
        new_max = chunk_max if self._max is None else torch.maximum(self._max, chunk_max)
        # A datum whose every weight is zero so far has maximum -inf; any finite shift will do.
        shift = torch.where(new_max.isfinite(), new_max, torch.zeros_like(new_max))
        rescale = 0.0 if self._max is None else torch.exp(self._max - shift)
        weight = torch.exp(log_weight - shift)
        self._sum = self._sum * rescale + weight.sum(0)
        self._sum_of_squares = self._sum_of_squares * rescale**2 + weight.square().sum(0)
        self._max = new_max
        self.num_particles += log_weight.shape[0]

    def merged(self, other: "RunningWeights") -> "RunningWeights":
        """The sums over the particles of both, of the same data."""
        shift, total, squares = self._totals()
        other_shift, other_total, other_squares = other._totals()
        new_max = torch.maximum(shift, other_shift)
        safe = torch.where(new_max.isfinite(), new_max, torch.zeros_like(new_max))
        ours, theirs = torch.exp(shift - safe), torch.exp(other_shift - safe)
        return RunningWeights._of(
            self.num_particles + other.num_particles,
            new_max,
            total * ours + other_total * theirs,
            squares * ours**2 + other_squares * theirs**2,
        )

    def rows(self, chosen: Tensor) -> "RunningWeights":
        """The sums of some of the data."""
        shift, total, squares = self._totals()
        return RunningWeights._of(self.num_particles, shift[chosen], total[chosen], squares[chosen])

    @classmethod
    def side_by_side(cls, parts: list["RunningWeights"]) -> "RunningWeights":
        """The sums of the data of all parts, in order; all over as many particles."""
        shift, total, squares = (
            torch.cat(values) for values in zip(*(part._totals() for part in parts), strict=True)
        )
        return cls._of(parts[0].num_particles, shift, total, squares)

    @classmethod
    def _of(cls, count: int, shift: Tensor, total: Tensor, squares: Tensor) -> "RunningWeights":
        made = cls()
        made.num_particles, made._max = count, shift
        made._sum, made._sum_of_squares = total, squares
        return made

    def _totals(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._max is None:
            raise ValueError("RunningWeights has seen no weights: call add first.")
        return self._max, torch.as_tensor(self._sum), torch.as_tensor(self._sum_of_squares)

    @property
    def log_mean(self) -> Float[Tensor, " batch"]:
        """``log mean_k w_k``, in nats."""
        shift, total, _ = self._totals()
        return shift + torch.log(total) - math.log(self.num_particles)

    @property
    def effective_sample_size(self) -> Float[Tensor, " batch"]:
        """``(sum w)^2 / sum w^2``, between 1 and K; 0 where every weight is 0."""
        _, total, squares = self._totals()
        return torch.where(total > 0, total.square() / squares, torch.zeros_like(total))

    @property
    def standard_error(self) -> Float[Tensor, " batch"]:
        r"""Delta-method standard error of :attr:`log_mean`, in nats.

        ``SE^2 = K/(K-1) (1/ESS - 1/K)``, the unbiased variance of the mean weight over the squared
        mean weight. One particle says nothing about its own error: NaN.
        """
        count = self.num_particles
        if count < 2:
            return torch.full_like(self.log_mean, math.nan)
        # Rounding can bring the difference below 0 when all weights are equal.
        relative_variance = (1 / self.effective_sample_size - 1 / count).clamp(min=0)
        return torch.sqrt(relative_variance * count / (count - 1))
