"""Jackknife bias correction of the importance-weighted bound."""

import math
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._bootstrap import bootstrap_error
from ppl_vae.evidence._chunks import (
    Chunk,
    ChunkedEstimator,
    Chunking,
    require_counts,
    require_replicates,
    with_refinement,
)
from ppl_vae.evidence._importance_sampling import ADVICE
from ppl_vae.evidence._pareto import measured
from ppl_vae.evidence._result import Evidence
from ppl_vae.refinement import Refiner
from ppl_vae.weights import RunningWeights

_BLOCKS = 16
"""Subsets left out are of blocks: 16 over 3 are 560 subsets, whatever K."""


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
        num_particles: K, split into 16 blocks; at least 32.
        order: m, 1 to 3.
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

    def _estimate(self, chunk: Chunk) -> Evidence:
        each = self.num_particles // _BLOCKS
        blocks = [RunningWeights(self.num_particles) for _ in range(_BLOCKS)]
        kept, position = [], 0
        for part in chunk.log_weights(self.num_particles):
            if self.bootstrap is not None:
                kept.append(part.double().cpu())
            first = each - position % each
            for piece in part.tensor_split(tuple(range(first, len(part), each))):
                blocks[position // each].add(piece)
                position += len(piece)
        weights = reduce(RunningWeights.merged, blocks)
        found = measured(weights)
        corrected = jackknife(torch.stack([block.log_sum for block in blocks]), each, self.order)
        # Where all weights but one block's are 0, there is nothing to correct by.
        found["log_prob"] = torch.where(corrected.isfinite(), corrected, weights.log_mean).cpu()
        if self.bootstrap is not None:
            statistic = partial(jackknife, particles_each=each, order=self.order)
            error = bootstrap_error(torch.cat(kept), self.bootstrap, statistic, _BLOCKS)
            found["standard_error"] = torch.hypot(error, found["rounding"])
        return Evidence(
            **found,
            num_particles=self.num_particles,
            direction="consistent",
            method=with_refinement(f"jackknife of order {self.order}", self.refine),
            seconds=0.0,
            advice=ADVICE,
        )


def jackknife(
    blocks: Float[Tensor, "blocks batch"], particles_each: int, order: int
) -> Float[Tensor, " batch"]:
    """The corrected estimate from the log of each block's sum of weights, in nats."""
    count = len(blocks)
    total = torch.zeros_like(blocks[0])
    for left_out in range(order + 1):
        sign = -1.0 if left_out % 2 else 1.0
        size = math.factorial(order - left_out) * math.factorial(left_out)
        factor = sign * (count - left_out) ** order / size
        total = total + factor * _left_out(blocks, particles_each, left_out).mean(0)
    return total


def _left_out(
    blocks: Float[Tensor, "blocks batch"], particles_each: int, number: int
) -> Float[Tensor, "subsets batch"]:
    """``L`` of every subset with ``number`` blocks left out."""
    count = len(blocks)
    kept = list(combinations(range(count), count - number))
    chosen = blocks[torch.tensor(kept, device=blocks.device)]
    return torch.logsumexp(chosen, 1) - math.log(particles_each * (count - number))
