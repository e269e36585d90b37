"""The unbiased truncated series for log p(x)."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._chunks import (
    Chunk,
    ChunkedEstimator,
    Chunking,
    require_counts,
    with_refinement,
)
from ppl_vae.evidence._result import Evidence
from ppl_vae.refinement import Refiner
from ppl_vae.weights import RunningWeights

_STEEP_FROM = 80
"""Truncation from which on its tail falls geometrically: an infinite mean cost would follow."""
_STEEPNESS = 0.9


@final
@dataclass(frozen=True)
class SUMO(ChunkedEstimator):
    """``L_m + sum_(j=0..N) (L_(m+j+1) - L_(m+j)) / P(N >= j)``, N random: unbiased for log p(x).

    L_k is the importance-weighted bound on the first k of one sequence of draws; the truncation has
    ``P(N >= j) = 1/(j + 1)`` up to 79 and falls geometrically after it. The mean of R independent
    replicates is reported with its standard error. The variance of a replicate can be infinite:
    where it is, the standard error means nothing, and a few replicates far from the rest are the
    sign of it; the kurtosis of the replicates is therefore watched. Costs about ``m + 5`` decoder
    evaluations a replicate.

    Args:
        replicates: R, at least 2.
        first: m, particles before the series starts; more make it cheaper to be exact.
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
        typical = self.replicates * (self.first + 5)
        return Chunking(typical, self.refine, self.rows)

    def _estimate(self, chunk: Chunk) -> Evidence:
        # Lengths of each datum's own: shared ones would make the errors of the data dependent.
        lengths = draw_lengths(self.replicates, len(chunk.x))
        needed = lengths + self.first + 1
        total = int(needed.sum(0).max())
        weights, parts = RunningWeights(total), []
        for part in chunk.log_weights(total):
            weights.add(part)
            parts.append(part.double().cpu())
        log_weight = torch.cat(parts)
        values = torch.stack(
            [
                sumo_series(column, own, self.first)
                for column, own in zip(log_weight.unbind(1), lengths.unbind(1), strict=True)
            ],
            1,
        )
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"SUMO needs a weight above 0 among the first {self.first} of every replicate, and "
                "one has none: use a guide without draws that x is impossible under, or "
                "ImportanceSampling."
            )
        count = len(values)
        spread, rounding = values.std(0), weights.rounding.cpu()
        return Evidence(
            log_prob=values.mean(0),
            standard_error=torch.hypot(spread / math.sqrt(count), rounding),
            rounding=rounding,
            effective_sample_size=_effective_replicates(values),
            num_particles=self.replicates,
            direction="unbiased",
            method=with_refinement(f"SUMO of {self.replicates} replicates", self.refine),
            seconds=0.0,
            evaluations=torch.full_like(spread, float(total)),
            advice="use more replicates, more first particles or a better guide; the variance of "
            "SUMO can be infinite",
        )


def survival(j: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``P(N >= j)``: 1/(j + 1), times 0.9^(j - 79) beyond 79."""
    beyond = (j - (_STEEP_FROM - 1)).clamp(min=0)
    return torch.where(beyond > 0, _STEEPNESS**beyond / _STEEP_FROM, 1 / (j + 1))


def draw_lengths(*shape: int) -> Tensor:
    """Independent draws of N."""
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
        first: m.
    """
    needed = lengths + first + 1
    starts = needed.cumsum(0) - needed
    position = torch.arange(int(needed.max()))
    inside = position < needed.unsqueeze(1)
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
    ratio = torch.where(fourth > 0, 3 * total.square() / fourth, torch.full_like(total, 1e9))
    return ratio.clamp(max=float(len(values)))
