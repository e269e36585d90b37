"""Validation of a model, and of one whose guide is a point and has no bound."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import row_chunks
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.objectives import Objective
from ppl_vae.particles import ChunkSize, Evaluation, Particles, Programs, evaluation, is_point
from ppl_vae.randomness import Stream, seeded

_ROWS = 1_000
"""Data decoded at once where the guide is a point."""


class Score(NamedTuple):
    """A mean over data in nats, and its standard error."""

    mean: float
    error: float


@final
class Validation:
    """The validation data and how programs are scored on them, alike in every epoch.

    Args:
        x: The data, on their device.
        num_particles: Number of particles K of the importance-weighted bound.
        seed: Seed of its draws, the same in every epoch.
        point: Objective that is maximised, where the guide is a point: that has no such bound, and
            is scored by the objective; None for other guides.
    """

    def __init__(
        self,
        x: Float[Tensor, "num_data *event"],
        num_particles: int,
        seed: int,
        point: Objective | None,
    ) -> None:
        self.x = x
        # Only the mean and its error are used: no Pareto tails are fitted to the weights.
        self._bound = ImportanceSampling(num_particles, tails=False)
        self._seed, self._point = seed, point
        self._opened: Evaluation | None = None

    def __call__(self, programs: Programs) -> Score:
        """Score the programs in evaluation mode; the first call checks them."""
        with self._open(programs) as look:
            # The first draw serves the checks alone, and would stay in memory until training ends.
            self._opened = replace(look, first=None)
            if self._point is not None:
                return self._at_point(look, self._point)
            evidence = self._bound.on(look, seed=self._seed)
        return Score(evidence.mean, evidence.total_error)

    def _open(self, programs: Programs) -> AbstractContextManager[Evaluation]:
        # Training changes parameters, not what the checks look at: once is enough.
        if self._opened is not None:
            return self._opened.reopened()
        particles = self._bound.num_particles
        drawn = ChunkSize(particles)
        size = drawn if self._point is None else ChunkSize(1, _ROWS)
        return evaluation(programs, self.x, size)

    def _at_point(self, look: Evaluation, objective: Objective) -> Score:
        """The value that is maximised: ``log p(x, z)`` at the point, unless it is shaped."""
        programs, values = look.programs, []
        # The same draws in every epoch, so that epochs differ by their parameters alone.
        with seeded(self._seed, Stream.VALIDATION):
            for part in row_chunks(look.x, look.data_at_once):
                # With a gradient an objective has all its draws, those of the prior too.
                with torch.enable_grad():
                    particles = objective.draw(programs.model, programs.required_guide, part)
                    values.append(objective.ascended_at_end(particles).detach())
        # In float64: a float32 sum over many data would round differences between late epochs.
        total = torch.cat(values).double()
        error = total.std().item() / math.sqrt(len(total)) if len(total) > 1 else math.nan
        return Score(total.mean().item(), error)


def require_maximum(
    objective: Objective, programs: Programs, x: Tensor, parameters: Mapping[str, Tensor]
) -> None:
    """Check that an objective has a maximum where the guide is a point.

    A point has no density that pays for the prior's: a prior that is trained, or that follows
    another latent, closes in on the points, and its density there grows without end.

    Args:
        objective: Objective that may ascend the prior's density.
        programs: Model and guide, as trained.
        x: Some data.
        parameters: Parameters that are trained.

    Raises:
        ValueError: If it has none, is shaped by a KL that a point does not have, or has several
            draws where all are the same.
    """
    with torch.enable_grad():
        particles = programs.draw(x, graph="split", check_finite=False)
    points = [name for name, site in particles.guide.items() if is_point(site)]
    if not points:
        return
    shaping = getattr(objective, "kl", None)
    if shaping is not None and shaping.measures_kl:
        raise ValueError(
            f"guide site {points[0]!r} is a Delta, a point without a KL, and {shaping} measures "
            "the KL: leave it out, or take a factor such as beta, or a guide with a density."
        )
    ascended = _ascended_densities(objective, programs, x)
    for name in points:
        # A discrete latent has a probability, which ends at 1.
        if name in ascended and not particles.prior[name].support.is_discrete:
            _require_fixed_prior(particles, name, parameters)
    if len(points) == len(particles.guide) and objective.num_particles > 1:
        raise ValueError(
            f"guide site {points[0]!r} is a Delta, all of whose draws are the same, and "
            f"{objective} takes {objective.num_particles}: give it 1 particle, or take a guide "
            "with a density, such as the normal."
        )


def _ascended_densities(objective: Objective, programs: Programs, x: Tensor) -> set[str]:
    """Sites whose prior's density is part of what the objective ends at ascending."""
    with torch.enable_grad():
        particles = objective.draw(programs.model, programs.required_guide, x)
        # Made leaves, the prior's densities get a gradient exactly where the value contains them.
        leaves = {n: p.detach().requires_grad_() for n, p in particles.log_prior.items()}
        value = objective.ascended_at_end(replace(particles, log_prior=leaves)).sum()
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None and bool(gradient.any())
    }


def _require_fixed_prior(particles: Particles, name: str, parameters: Mapping[str, Tensor]) -> None:
    """Check that the prior's density at a site depends on nothing else that can move."""
    others = {
        f"latent site {other!r}": value
        for other, value in particles.latents.items()
        if other != name and value.requires_grad
    }
    movable = {**{f"parameter {key}": value for key, value in parameters.items()}, **others}
    # The latents are leaves here: a gradient shows what the prior depends on, not the guide.
    density = particles.log_prior[name].sum()
    if not density.requires_grad:
        return
    gradients = torch.autograd.grad(density, list(movable.values()), allow_unused=True)
    # allow_unused gives None where the density does not depend on it at all, whatever its value.
    causes = [key for key, slope in zip(movable, gradients, strict=True) if slope is not None]
    if causes:
        listed = ", ".join(causes[:3]) + (", ..." if len(causes) > 3 else "")
        raise ValueError(
            f"guide site {name!r} is a Delta, a point without a density, and its prior depends on "
            f"{listed}: it can close in on the points, so that the joint density there has no "
            "maximum; take a prior without parameters, such as the standard normal, or a guide "
            "with a density, such as the normal."
        )
