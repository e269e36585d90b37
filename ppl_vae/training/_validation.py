"""How good a model is on validation data, epoch by epoch."""

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.objectives import Objective
from ppl_vae.particles import ChunkSize, Program, evaluation
from ppl_vae.randomness import Stream, seeded

_ROWS = 1000


class Score(NamedTuple):
    """A mean over data in nats, and its standard error."""

    mean: float
    error: float


@final
@dataclass(frozen=True)
class Validation:
    """The validation data and how a model is scored on them, alike in every epoch.

    Attributes:
        x: The data, on their device.
        num_particles: K of the importance-weighted bound.
        seed: Of its draws.
        point: What is maximised, if the guide is a point: it has no such bound, and is scored by
            that objective; None for other guides.
    """

    x: Float[Tensor, "num_data *event"]
    num_particles: int
    seed: int
    point: Objective | None

    def __call__(self, model: Program, guide: Program) -> Score:
        """The score of a model and guide, in evaluation mode."""
        if self.point is not None:
            return objective_at_point(self.point, model, guide, self.x, self.seed)
        return importance_weighted(model, guide, self.x, self.num_particles, self.seed)


def importance_weighted(
    model: Program,
    guide: Program,
    x: Float[Tensor, "num_data *event"],
    num_particles: int,
    seed: int,
) -> Score:
    """The importance-weighted bound of K draws, the same draws for the same seed."""
    evidence = ImportanceSampling(num_particles, tails=False)(model, guide, x, seed=seed)
    return Score(evidence.mean, evidence.total_error)


def objective_at_point(
    objective: Objective,
    model: Program,
    guide: Program,
    x: Float[Tensor, "num_data *event"],
    seed: int,
) -> Score:
    """What is maximised with a guide without noise: ``log p(x, z)`` there, unless it is shaped."""
    programs = objective.programs(model, guide)
    parts = []
    with evaluation(programs, x, ChunkSize(1, _ROWS)) as look, seeded(seed, Stream.VALIDATION):
        for part in look.x.split(look.data_at_once):
            # With a gradient an objective has all its draws, those of the prior too.
            with torch.enable_grad():
                particles = objective.draw(model, guide, part)
                parts.append(objective.ascended_at_end(particles).detach())
    values = torch.cat(parts).double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Score(values.mean().item(), error)
