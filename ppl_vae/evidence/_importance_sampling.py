"""Importance sampling with the guide as the proposal."""

import math
from dataclasses import dataclass
from typing import final

import torch

from ppl_vae.evidence._bootstrap import bootstrap_error
from ppl_vae.evidence._chunks import (
    Chunk,
    ChunkedEstimator,
    Chunking,
    require_counts,
    require_replicates,
    with_refinement,
)
from ppl_vae.evidence._pareto import measured
from ppl_vae.evidence._result import Evidence
from ppl_vae.refinement import Refiner
from ppl_vae.weights import RunningWeights


@final
@dataclass(frozen=True)
class ImportanceSampling(ChunkedEstimator):
    """``log (1/K) sum_k p(x, z_k) / q(z_k|x)`` with z_k ~ q(z|x), per datum, in nats.

    Its exponential is unbiased for p(x), so it is a lower bound of log p(x) in expectation, low by
    about ``Var(w) / (2 K p(x)^2)``. The standard error is by the delta method, or, with
    ``bootstrap``, from resampling the particles of each datum. Costs K decoder evaluations per
    datum, in memory that grows with the root of K, for the largest weights of a few data at a
    time, which the Pareto tail is fitted to; with K where the bootstrap samples from all weights.

    With ``refine``, q is first refined for each datum by itself, and z_k is drawn from the refined
    q. The estimate's draws are independent of those of the refinement, so that given the refined q
    every weight has mean p(x), and all of the above stands.

    Args:
        num_particles: K.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.
        tails: Fit a Pareto tail to the weights of each datum, from 100 particles on; its shape says
            whether the estimate and its error can be trusted.
        bootstrap: Bootstrap samples for the standard error; None: the delta method.

    Raises:
        ValueError: If num_particles or rows is less than 1, or bootstrap less than 2.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """

    num_particles: int = 5000
    refine: Refiner | None = None
    rows: int | None = None
    tails: bool = True
    bootstrap: int | None = None

    def __post_init__(self) -> None:
        require_counts("ImportanceSampling", num_particles=self.num_particles, rows=self.rows)
        require_replicates("ImportanceSampling", self.bootstrap)

    def _chunking(self) -> Chunking:
        return Chunking(self.num_particles, self.refine, self.rows)

    def _estimate(self, chunk: Chunk) -> Evidence:
        weights, kept = RunningWeights(self.num_particles), []
        for part in chunk.log_weights(self.num_particles):
            weights.add(part)
            if self.bootstrap is not None:
                kept.append(part.double().cpu())
        found = measured(weights, tails=self.tails)
        if self.bootstrap is not None:
            count = math.log(self.num_particles)
            error = bootstrap_error(torch.cat(kept), self.bootstrap, lambda sums: sums[0] - count)
            found["standard_error"] = torch.hypot(error, found["rounding"])
        return Evidence(
            **found,
            num_particles=self.num_particles,
            direction="lower",
            method=with_refinement("importance sampling", self.refine),
            seconds=0.0,
            advice=ADVICE,
        )


ADVICE = "use more particles, a better or refined guide, or annealed importance sampling"
