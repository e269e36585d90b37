"""Pareto-smoothed importance sampling."""

from dataclasses import dataclass
from typing import final

from ppl_vae.evidence._chunks import (
    Chunk,
    ChunkedEstimator,
    Chunking,
    require_counts,
    with_refinement,
)
from ppl_vae.evidence._importance_sampling import ADVICE
from ppl_vae.evidence._pareto import LEAST_PARTICLES, measured, pareto_tail
from ppl_vae.evidence._result import Evidence
from ppl_vae.refinement import Refiner
from ppl_vae.weights import RunningWeights


@final
@dataclass(frozen=True)
class ParetoSmoothed(ChunkedEstimator):
    """Importance sampling whose largest weights are replaced by quantiles of a fitted Pareto tail.

    The smoothing takes variance away at the price of a bias that vanishes with K, so that the
    estimate is consistent but no bound; its standard error, by the delta method from the smoothed
    weights, is reliable where Pareto k is below the threshold, and the result says where it is not.
    Costs K decoder evaluations per datum, in memory that grows with the root of K.

    Args:
        num_particles: K, at least 100.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.

    Raises:
        ValueError: If num_particles is less than 100 or rows less than 1.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """

    num_particles: int = 5000
    refine: Refiner | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        require_counts("ParetoSmoothed", num_particles=self.num_particles, rows=self.rows)
        if self.num_particles < LEAST_PARTICLES:
            raise ValueError(
                f"ParetoSmoothed needs num_particles >= {LEAST_PARTICLES} to fit a tail, got "
                f"{self.num_particles}."
            )

    def _chunking(self) -> Chunking:
        return Chunking(self.num_particles, self.refine, self.rows)

    def _estimate(self, chunk: Chunk) -> Evidence:
        weights = RunningWeights(self.num_particles)
        for part in chunk.log_weights(self.num_particles):
            weights.add(part)
        tail = pareto_tail(weights)
        return Evidence(
            **measured(tail.smoothed, tails=False),
            num_particles=self.num_particles,
            direction="consistent",
            method=with_refinement("Pareto-smoothed importance sampling", self.refine),
            seconds=0.0,
            pareto_k=tail.pareto_k.cpu(),
            tail_share=tail.tail_share.cpu(),
            advice=ADVICE,
        )
