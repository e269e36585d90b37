"""How good a model is on validation data, epoch by epoch."""

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.particles import ChunkSize, Program, Programs, draw_particles, evaluation

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
        max_plate_nesting: Plate dimensions the programs use, the data plate included.
        seed: Of its draws.
        point: Whether the guide is a point, without noise: it has no such bound, and is scored by
            the joint log-density there.
    """

    x: Float[Tensor, "num_data *event"]
    num_particles: int
    max_plate_nesting: int
    seed: int
    point: bool

    def __call__(self, model: Program, guide: Program) -> Score:
        """The score of a model and guide, in evaluation mode."""
        if self.point:
            return joint_density(model, guide, self.x, self.max_plate_nesting)
        settings = self.num_particles, self.max_plate_nesting, self.seed
        return importance_weighted(model, guide, self.x, *settings)


def importance_weighted(
    model: Program,
    guide: Program,
    x: Float[Tensor, "num_data *event"],
    num_particles: int,
    max_plate_nesting: int,
    seed: int,
) -> Score:
    """The importance-weighted bound of K draws, the same draws for the same seed."""
    estimate = ImportanceSampling(num_particles, max_plate_nesting=max_plate_nesting, tails=False)
    evidence = estimate(model, guide, x, seed=seed)
    return Score(evidence.mean, evidence.total_error)


def joint_density(
    model: Program, guide: Program, x: Float[Tensor, "num_data *event"], max_plate_nesting: int
) -> Score:
    """``log p(x, z)`` at the points of a guide without noise, which has no such bound."""
    programs = Programs(model, guide, max_plate_nesting)
    with evaluation(programs, x, ChunkSize(1, _ROWS)) as look, torch.no_grad():
        nesting = look.max_plate_nesting
        parts = [
            draw_particles(model, guide, part, max_plate_nesting=nesting).log_joint[0]
            for part in look.x.split(look.data_at_once)
        ]
    joint = torch.cat(parts).double()
    error = joint.std().item() / math.sqrt(len(joint)) if len(joint) > 1 else math.nan
    return Score(joint.mean().item(), error)
