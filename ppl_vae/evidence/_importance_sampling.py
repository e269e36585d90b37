"""Importance sampling: from the guide, with a smoothed tail, from guide and prior together."""

import math
from dataclasses import dataclass
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
from ppl_vae.evidence._tails import LEAST_PARTICLES, pareto_tail
from ppl_vae.evidence._weighing import bootstrap_error, measured, moved
from ppl_vae.particles import Refiner
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
        num_particles: Number of particles K.
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

    def _claims(self) -> Claims:
        return Claims(
            num_particles=self.num_particles, direction="lower", method="importance sampling"
        )

    def _estimate(self, chunk: Chunk) -> Columns:
        weights, kept = RunningWeights(self.num_particles), []
        for part in chunk.log_weights(self.num_particles):
            weights.add(part)
            if self.bootstrap is not None:
                kept.append(part.double().cpu())
        columns = measured(weights, tails=self.tails)
        if self.bootstrap is not None:
            log_count = math.log(self.num_particles)
            error = bootstrap_error(
                torch.cat(kept), self.bootstrap, lambda sums: sums[0] - log_count
            )
            error = torch.hypot(error, columns["rounding"])
            columns = moved(columns, columns["log_prob"], error)
        return columns


@final
@dataclass(frozen=True)
class ParetoSmoothed(ChunkedEstimator):
    """Importance sampling whose largest weights are replaced by quantiles of a fitted Pareto tail.

    The smoothing takes variance away at the price of a bias that vanishes with K, so that the
    estimate is consistent but no bound; its standard error, by the delta method from the smoothed
    weights, is reliable where Pareto k is below the threshold, and the result says where it is not.
    Costs K decoder evaluations per datum, in memory that grows with the root of K.

    Args:
        num_particles: Number of particles K, at least 100.
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

    def _claims(self) -> Claims:
        return Claims(
            num_particles=self.num_particles,
            direction="consistent",
            method="Pareto-smoothed importance sampling",
        )

    def _estimate(self, chunk: Chunk) -> Columns:
        weights = RunningWeights(self.num_particles)
        for part in chunk.log_weights(self.num_particles):
            weights.add(part)
        # The fit is to the raw weights; the estimate and its error are of the smoothed ones.
        smoothed = measured(pareto_tail(weights).smoothed, tails=False)
        moved_to = moved(measured(weights), smoothed["log_prob"], smoothed["standard_error"])
        return moved_to | smoothed


@final
@dataclass(frozen=True)
class DefensiveSampling(ChunkedEstimator):
    """``log (1/K) sum_k p(x, z_k) / ((1 - a) q(z_k|x) + a p(z_k))``, a share a drawn from p(z).

    A weight is at most ``p(x|z) / a``: where the likelihood is bounded, so are the weights, however
    narrow the guide; it may draw in a part of the prior's support only. The number drawn from each
    part is fixed (a deterministic mixture), so that the exponential is unbiased for p(x): a lower
    bound in expectation. The standard error is by the delta method over the two strata. Costs K
    decoder evaluations per datum.

    Args:
        num_particles: Number of particles K.
        prior_share: Share a of the prior, between 0 and 1; at least 2 particles come from
            each part.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.

    Raises:
        ValueError: If num_particles is less than 4, rows less than 1, or the share out of range.

    References:
        Hesterberg, 1995, Weighted average importance sampling and defensive mixture distributions.
        Owen and Zhou, 2000, Safe and effective importance sampling.
    """

    num_particles: int = 5000
    prior_share: float = 0.1
    refine: Refiner | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        require_counts("DefensiveSampling", num_particles=self.num_particles, rows=self.rows)
        if not 0 < self.prior_share < 1:
            raise ValueError(
                f"DefensiveSampling needs a prior_share between 0 and 1, got {self.prior_share}."
            )
        if self.num_particles < 4:
            raise ValueError(
                f"DefensiveSampling needs num_particles >= 4, got {self.num_particles}."
            )

    def _chunking(self) -> Chunking:
        # Draws of the prior reach all of its support, whatever the guide leaves out.
        return Chunking(self.num_particles, self.refine, self.rows, from_prior=True)

    @property
    def _from_prior(self) -> int:
        """Particles from the prior: 2 or more from each part, so that each has an error."""
        count = self.num_particles
        return min(max(round(self.prior_share * count), 2), count - 2)

    def _claims(self) -> Claims:
        share = self._from_prior / self.num_particles
        return Claims(
            num_particles=self.num_particles,
            direction="lower",
            method=f"defensive importance sampling ({share:.0%} from the prior)",
        )

    def _estimate(self, chunk: Chunk) -> Columns:
        count, from_prior = self.num_particles, self._from_prior
        strata = []
        # A fixed number of draws from each component; every weight is under the whole mixture.
        for prior, size in ((False, count - from_prior), (True, from_prior)):
            strata.append(RunningWeights(count))
            for weight, dtype in chunk.mixture_weights(size, from_prior / count, prior=prior):
                # The cast to double precision does not undo the rounding of the densities.
                strata[-1].add(weight, dtype)
        weights = strata[0].merged(strata[1])
        columns = measured(weights)
        error = _stratified_error(strata, weights).cpu()
        return moved(columns, columns["log_prob"], torch.hypot(error, columns["rounding"]))


def _stratified_error(
    strata: list[RunningWeights], weights: RunningWeights
) -> Float[Tensor, " batch"]:
    """Delta method: each part's own variance around its own mean."""
    shares = [torch.exp(part.log_sum - weights.log_sum) for part in strata]
    errors = [part.standard_error * share for part, share in zip(strata, shares, strict=True)]
    # A part whose weights are all 0 has no error of its own, and no share.
    known = [torch.where(share > 0, e, 0.0) for e, share in zip(errors, shares, strict=True)]
    error = torch.hypot(*known)
    return torch.where(weights.log_mean.isfinite(), error, math.inf)
