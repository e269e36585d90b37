"""Updates of the guide's parameters, of the model's, or of all, under one optimiser."""

from typing import Literal, final

import torch
from torch import Tensor

from ppl_vae.objectives import Objective, split_parameters
from ppl_vae.particles import Particles, Program, count_evaluations, evaluating
from ppl_vae.training._step import Loss

Phase = Literal["guide", "model", "joint"]
"""Whose parameters an update changes; those that both programs use are in every phase."""


@final
class PhasedUpdates:
    """Updates of the guide's, the model's or all parameters, under one Adam.

    Which parameter is whose is read off the autograd graph at the first batch. A phase's gradient
    is taken for its own parameters and clipped by their norm; Adam's moments of the others stay.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None,
    ) -> None:
        self.objective, self.parameters = objective, parameters
        self._programs = (model, guide)
        self._clip_norm = clip_norm
        self._losses: dict[Phase, Loss] = {}
        self.optimizer = torch.optim.Adam(list(parameters.values()), fused=True)

    def __call__(self, phase: Phase, x: Tensor, learning_rate: float) -> tuple[Particles, Tensor]:
        """Update once on fresh draws; the particles, and the bound per datum before the update."""
        if not self._losses:
            self._losses = self._split(x)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        # Adam passes over a parameter without a gradient, its moments included.
        self.optimizer.zero_grad(set_to_none=True)
        _, particles, bound = self._losses[phase].backward(*self._programs, x)
        self.optimizer.step()
        return particles, bound

    def _split(self, x: Tensor) -> dict[Phase, Loss]:
        # Looking at the graph is no part of training: a resumed run looks again.
        with evaluating(*self._programs), count_evaluations():
            programs = self.objective.programs(*self._programs)
            theta, phi = split_parameters(programs, x[:2], self.parameters)
        for whose, part in (("model", theta), ("guide", phi)):
            if not part:
                raise ValueError(
                    f"the {whose} has no parameters to train, so that there is nothing to "
                    "alternate between: use step='torch'."
                )
        # Those of neither program are in the joint phase and the model's: it warns of them.
        idle = {n: p for n, p in self.parameters.items() if n not in theta and n not in phi}
        return {
            "guide": Loss(self.objective, phi, self._clip_norm),
            "model": Loss(self.objective, theta | idle, self._clip_norm),
            "joint": Loss(self.objective, self.parameters, self._clip_norm),
        }
