"""Estimates without the bias of the importance-weighted bound: jackknife and random truncation."""

import math
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._chunk import Chunk
from ppl_vae.evidence._chunked import (
    ChunkedEstimator,
    Chunking,
    require_counts,
    require_replicates,
)
from ppl_vae.evidence._result import Claims, Columns
from ppl_vae.evidence._weighing import bootstrap_error, measured, moved
from ppl_vae.particles import Refiner
from ppl_vae.weights import RunningWeights

_BLOCKS = 16
"""Subsets left out are of blocks: 16 over 3 are 560 subsets, whatever K."""
_STEEP_FROM = 80
"""Truncation from which on its tail falls geometrically: an infinite mean cost would follow."""
_STEEPNESS = 0.9


@final
@dataclass(frozen=True)
class Jackknife(ChunkedEstimator):
    r"""``sum_(j=0..m) c_j`` mean over subsets of ``L`` with j of G blocks of particles left out.

    The bias of L_K is a series in 1/K. With ``c_j = (-1)^j (G - j)^m / ((m - j)! j!)`` its first m
    terms cancel, and O(K^-(m+1)) is left, for some more variance. It is no bound. The standard
    error is by the delta method, as to first order the correction does not change the variance, or,
    with ``bootstrap``, from resampling the particles of each datum and correcting again. Costs K
    decoder evaluations per datum.

    Args:
        num_particles: Number of particles K, split into 16 blocks; at least 32.
        order: Order m, 1 to 3.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.
        bootstrap: Bootstrap samples for the standard error; None: the delta method.

    Raises:
        ValueError: If order is not 1, 2 or 3, or num_particles no multiple of 16 of 32 or more.

    References:
        Nowozin, 2018, Debiasing evidence approximations: on importance-weighted autoencoders and
        jackknife variational inference.
        Sharot, 1976, The generalized jackknife: finite samples and subsample sizes.
    """

    num_particles: int = 4992
    order: int = 1
    refine: Refiner | None = None
    rows: int | None = None
    bootstrap: int | None = None

    def __post_init__(self) -> None:
        require_counts("Jackknife", num_particles=self.num_particles, rows=self.rows)
        require_replicates("Jackknife", self.bootstrap)
        if self.order not in (1, 2, 3):
            raise ValueError(f"Jackknife has order 1, 2 or 3, got {self.order}.")
        if self.num_particles % _BLOCKS or self.num_particles < 2 * _BLOCKS:
            near = max(2 * _BLOCKS, round(self.num_particles / _BLOCKS) * _BLOCKS)
            raise ValueError(
                f"Jackknife needs num_particles in {_BLOCKS} equal blocks of 2 or more, got "
                f"{self.num_particles}: take {near}."
            )

    def _chunking(self) -> Chunking:
        return Chunking(self.num_particles, self.refine, self.rows)

    def _claims(self) -> Claims:
        return Claims(
            num_particles=self.num_particles,
            direction="consistent",
            method=f"jackknife of order {self.order}",
        )

    def _estimate(self, chunk: Chunk) -> Columns:
        each = self.num_particles // _BLOCKS
        # Each block keeps a tail as long as that of all particles, as it may hold all of it.
        blocks = [RunningWeights(self.num_particles) for _ in range(_BLOCKS)]
        kept, position = [], 0
        for part in chunk.log_weights(self.num_particles):
            if self.bootstrap is not None:
                kept.append(part.double().cpu())
            # Pieces that were decoded together need not end where a block ends.
            first = each - position % each
            for piece in part.tensor_split(tuple(range(first, len(part), each))):
                blocks[position // each].add(piece)
                position += len(piece)
        weights = reduce(RunningWeights.merged, blocks)
        columns = measured(weights)
        corrected = jackknife(torch.stack([block.log_sum for block in blocks]), each, self.order)
        # Where all weights but one block's are 0, there is nothing to correct by.
        estimate = torch.where(corrected.isfinite(), corrected, weights.log_mean).cpu()
        error = columns["standard_error"]
        if self.bootstrap is not None:
            statistic = partial(jackknife, particles_each=each, order=self.order)
            error = bootstrap_error(torch.cat(kept), self.bootstrap, statistic, _BLOCKS)
            error = torch.hypot(error, columns["rounding"])
        return moved(columns, estimate, error)


def jackknife(
    blocks: Float[Tensor, "blocks batch"], particles_each: int, order: int
) -> Float[Tensor, " batch"]:
    """The corrected estimate from the log of each block's sum of weights, in nats."""
    count, total = len(blocks), torch.zeros_like(blocks[0])
    for left_out in range(order + 1):
        kept = list(combinations(range(count), count - left_out))
        chosen = blocks[torch.tensor(kept, device=blocks.device)]
        # L of every subset of the blocks with so many left out.
        bounds = torch.logsumexp(chosen, 1) - math.log(particles_each * (count - left_out))
        sign = -1.0 if left_out % 2 else 1.0
        size = math.factorial(order - left_out) * math.factorial(left_out)
        total = total + sign * (count - left_out) ** order / size * bounds.mean(0)
    return total


@final
@dataclass(frozen=True)
class SUMO(ChunkedEstimator):
    """``L_m + sum_(j=0..N) (L_(m+j+1) - L_(m+j)) / P(N >= j)``, N random: unbiased for log p(x).

    L_k is the importance-weighted bound on the first k of one sequence of draws; the truncation has
    ``P(N >= j) = 1/(j + 1)`` up to 79 and falls geometrically after it. The mean of R independent
    replicates is reported with its standard error. The variance of a replicate can be infinite:
    where it is, the standard error means nothing, and a few replicates far from the rest are the
    sign of it; the kurtosis of the replicates says so. Costs about ``m + 5`` decoder
    evaluations a replicate.

    Args:
        replicates: R, at least 2.
        first: Number m of particles before the series starts; more make it cheaper to be exact.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.

    Raises:
        ValueError: If replicates is less than 2, or first or rows less than 1.

    References:
        Luo et al., 2020, SUMO: unbiased estimation of log marginal probability for latent variable
        models.
    """

    replicates: int = 200
    first: int = 20
    refine: Refiner | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        require_counts("SUMO", replicates=self.replicates, first=self.first, rows=self.rows)
        if self.replicates < 2:
            raise ValueError(f"SUMO needs replicates >= 2 for an error, got {self.replicates}.")

    def _chunking(self) -> Chunking:
        # E[N + 1] = sum_j P(N >= j) is about 5.
        typical = self.replicates * (self.first + 5)
        return Chunking(typical, self.refine, self.rows)

    def _claims(self) -> Claims:
        return Claims(
            num_particles=self.replicates,
            direction="unbiased",
            method=f"SUMO of {self.replicates} replicates",
            advice="use more replicates, more first particles or a better guide; the variance of "
            "SUMO can be infinite",
        )

    def _estimate(self, chunk: Chunk) -> Columns:
        # Lengths of each datum's own: shared ones would make the errors of the data dependent.
        lengths = draw_lengths(self.replicates, len(chunk.x))
        # Data are decoded together: each has as many draws as the one that needs most.
        total = int((lengths + self.first + 1).sum(0).max())
        weights, parts = RunningWeights(total), []
        for part in chunk.log_weights(total):
            weights.add(part)
            parts.append(part.double().cpu())
        columns = zip(torch.cat(parts).unbind(1), lengths.unbind(1), strict=True)
        values = torch.stack([sumo_series(*column, self.first) for column in columns], 1)
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"SUMO needs a weight above 0 among the first {self.first} of every replicate, and "
                "one has none: use a guide without draws that x is impossible under, or "
                "ImportanceSampling()."
            )
        spread, rounding = values.std(0), weights.rounding.cpu()
        return {
            "log_prob": values.mean(0),
            "standard_error": torch.hypot(spread / math.sqrt(len(values)), rounding),
            "rounding": rounding,
            "effective_sample_size": _effective_replicates(values),
            "evaluations": torch.full_like(spread, float(total)),
        }


def survival(j: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``P(N >= j)``: 1/(j + 1), times 0.9^(j - 79) beyond 79."""
    beyond = (j - (_STEEP_FROM - 1)).clamp(min=0)
    return torch.where(beyond > 0, _STEEPNESS**beyond / _STEEP_FROM, 1 / (j + 1))


def draw_lengths(*shape: int) -> Tensor:
    """Independent draws of N."""
    # By inversion: the largest j with P(N >= j) above a uniform number.
    uniform = torch.rand(shape, dtype=torch.float64).clamp(min=1e-300)
    harmonic = (1 / uniform).floor() - 1
    geometric = torch.log(uniform * _STEEP_FROM) / math.log(_STEEPNESS) + _STEEP_FROM - 1
    steep = uniform < 1 / _STEEP_FROM
    return torch.where(steep, geometric.floor(), harmonic.clamp(max=_STEEP_FROM - 1)).long()


def sumo_series(
    log_weight: Float[Tensor, " particles"], lengths: Tensor, first: int
) -> Float[Tensor, " replicates"]:
    """The series of every replicate, from one run of log-weights cut into pieces, in nats.

    Args:
        log_weight: At least ``sum(lengths + first + 1)`` of them.
        lengths: N of each replicate, shape (replicates,).
        first: Number m of particles before the series.
    """
    needed = lengths + first + 1
    starts = needed.cumsum(0) - needed
    position = torch.arange(int(needed.max()))
    inside = position < needed.unsqueeze(1)
    # All replicates side by side, padded to the longest: one cumulative sum for all bounds.
    index = torch.where(inside, starts.unsqueeze(1) + position, 0)
    bounds = torch.logcumsumexp(log_weight[index], 1) - (position + 1.0).log()
    steps = torch.where(inside, bounds, 0.0)[:, first:] - bounds[:, first - 1 : -1]
    j = torch.arange(steps.shape[1], dtype=log_weight.dtype)
    terms = torch.where(inside[:, first:], steps / survival(j), torch.zeros_like(steps))
    return bounds[:, first - 1] + terms.sum(1)


def _effective_replicates(values: Float[Tensor, "replicates batch"]) -> Float[Tensor, " batch"]:
    """R, less where a few replicates carry the variance: ``(sum d^2)^2 / sum d^4`` scaled to R.

    For normal replicates the ratio is R/3.
    """
    squares = (values - values.mean(0)).square()
    total, fourth = squares.sum(0), squares.square().sum(0)
    # Replicates that are all equal have no kurtosis, and count in full.
    ratio = torch.where(fourth > 0, 3 * total.square() / fourth, torch.full_like(total, 1e9))
    return ratio.clamp(max=float(len(values)))
