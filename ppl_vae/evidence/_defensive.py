"""Importance sampling from a mixture of the guide and the prior."""

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
    pieces,
    require_counts,
    with_refinement,
)
from ppl_vae.evidence._importance_sampling import ADVICE
from ppl_vae.evidence._pareto import measured
from ppl_vae.evidence._result import Evidence
from ppl_vae.particles import (
    Particles,
    require_density,
)
from ppl_vae.refinement import Refiner
from ppl_vae.weights import RunningWeights


@final
@dataclass(frozen=True)
class DefensiveSampling(ChunkedEstimator):
    """``log (1/K) sum_k p(x, z_k) / ((1 - a) q(z_k|x) + a p(z_k))``, a share a drawn from p(z).

    A weight is at most ``p(x|z) / a``: where the likelihood is bounded, so are the weights, however
    narrow the guide; it may draw in a part of the prior's support only. The number drawn from each
    part is fixed (a deterministic mixture), so that
    the exponential is unbiased for p(x): a lower bound in expectation. The standard error is by the
    delta method over the two strata. Costs K decoder evaluations per datum.

    Args:
        num_particles: K.
        prior_share: a, between 0 and 1; at least 2 particles come from each part.
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
        return Chunking(self.num_particles, self.refine, self.rows, from_prior=True)

    def _estimate(self, chunk: Chunk) -> Evidence:
        count = self.num_particles
        from_prior = min(max(round(self.prior_share * count), 2), count - 2)
        share = from_prior / count
        strata = []
        for prior, size in ((False, count - from_prior), (True, from_prior)):
            strata.append(RunningWeights(count))
            for at_once in pieces(size, chunk.particles_at_once):
                particles = _draw(chunk, at_once, prior)
                weight = _mixture_weights(particles, share)
                strata[-1].add(weight, particles.log_proposal.dtype)
        weights = strata[0].merged(strata[1])
        found = measured(weights)
        error = _stratified_error(strata, weights).cpu()
        found["standard_error"] = torch.hypot(error, found["rounding"])
        return Evidence(
            **found,
            num_particles=count,
            direction="lower",
            method=with_refinement(
                f"defensive importance sampling ({share:.0%} from the prior)", self.refine
            ),
            seconds=0.0,
            advice=ADVICE,
        )


def _draw(chunk: Chunk, count: int, from_prior: bool) -> Particles:
    if not from_prior:
        return chunk.programs.draw(chunk.x, count, check_finite=False)
    latents = chunk.programs.with_guide(None).simulate(chunk.x, count).latents
    return chunk.programs.evaluate(chunk.x, latents)


def _mixture_weights(particles: Particles, share: float) -> Float[Tensor, "particles batch"]:
    """Log of p(x, z) over the mixture, in double precision on the CPU; -inf where that is 0."""
    require_density(particles.guide)
    log_guide = particles.log_proposal.double() + math.log1p(-share)
    log_prior = particles.log_latent_prior.double()
    mixture = torch.logaddexp(log_guide, log_prior + math.log(share))
    log_weight = (particles.log_likelihood.double() + log_prior - mixture).cpu()
    if not bool((log_weight < math.inf).all()):
        # Not a number, or infinite: says where it comes from.
        particles.require_weights()
    return log_weight


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
