"""What is learnt from a pilot run, and held fixed afterwards."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.annealing._hmc import Transition
from ppl_vae.evidence.annealing._path import Chains, GeometricPath
from ppl_vae.evidence.annealing._schedules import interval_length, of_equal_steps

Mass = Literal["unit", "guide"]

_WARM_UP = 40
"""Transitions at the first temperature, before the walk."""
_TRANSITIONS = 100
"""At least so many along the whole schedule: a short one takes several at each temperature."""
_GAIN = 0.3
_ADAPTATIONS = 2
"""Walks that measure and redraw an adaptive schedule, before the one that tunes the steps on it."""
_SCALE_DRAWS = 64


@final
@dataclass(frozen=True)
class Precisions:
    """Diagonal mass matrices along the path: ``(1 - b) / s_0^2 + b / s_1^2``.

    The precisions of a geometric path between two diagonal normals with scales s_0 and s_1; where
    it goes on beyond b = 1, none falls below both.

    Attributes:
        start: 1 / s_0^2, of shape (batch, dim), or one number.
        end: 1 / s_1^2.
    """

    start: Tensor
    end: Tensor

    def scale(self, level: Float[Tensor, " levels"]) -> Tensor:
        """By dimension, at temperature b."""
        level = level.unsqueeze(-1)
        along = (1 - level) * self.start + level * self.end
        return torch.maximum(along, torch.minimum(self.start, self.end)).rsqrt()


@final
@dataclass(frozen=True)
class Tuning:
    """The frozen settings of every transition. They depend on x and on the pilot's draws alone.

    Attributes:
        schedule: b_0..b_T, shape (T + 1, batch), or (T + 1, 1) where all data share it.
        steps: Step size at each temperature, shape (T + 1, batch).
        precisions: The mass matrices.
        evaluations: Gradient evaluations per chain that it took to find them.
    """

    schedule: Float[Tensor, "points levels"]
    steps: Float[Tensor, "points batch"]
    precisions: Precisions
    evaluations: int

    def move(
        self, transition: Transition, path: GeometricPath, chains: Chains, point: int
    ) -> tuple[Chains, Float[Tensor, "chains batch"]]:
        """One transition at temperature ``b_point``."""
        level = self.schedule[point]
        scale = self.precisions.scale(level)
        return transition(path, chains, level, self.steps[point], scale)


@final
@dataclass(frozen=True)
class Pilot:
    """Tunes step sizes, and an adaptive schedule, on chains of its own.

    The pilot's chains walk along the path as annealing does. After each transition the logarithm of
    a datum's step size moves by 0.3 (acceptance - target), acceptance being the mean over chains;
    where it stands at the end of a temperature is what is used there. Chains that are weighted
    later never change it: with step sizes that react to the chain they move, no density would be
    left invariant, and the mean weight would not be p(x).

    Args:
        transition: What to tune.
        target_acceptance: Mean probability of acceptance to aim at.
        adaptive: Whether to move the temperatures, too.
        leapfrog_steps: Gradient evaluations of a transition.
    """

    transition: Transition
    target_acceptance: float
    adaptive: bool
    leapfrog_steps: int

    def __call__(
        self, path: GeometricPath, schedule: Float[Tensor, "points levels"], precisions: Precisions
    ) -> Tuning:
        """Run the pilot from draws of its own."""
        evaluations = 0
        walks = _ADAPTATIONS if self.adaptive else 0
        for _ in range(walks):
            walk = self._walk(path, schedule, precisions)
            schedule = of_equal_steps(schedule, walk.lengths)
            evaluations += walk.evaluations
        walk = self._walk(path, schedule, precisions)
        return Tuning(schedule, walk.steps, precisions, evaluations + walk.evaluations)

    def _walk(self, path: GeometricPath, schedule: Tensor, precisions: Precisions) -> "_Walk":
        chains = path.draw()
        log_step = torch.full_like(chains.base[0], -0.25 * math.log(path.density.dim))
        repeats = math.ceil(_TRANSITIONS / (len(schedule) - 1))
        lengths, steps = [], []
        for point in range(1, len(schedule)):
            level = schedule[point]
            lengths.append(interval_length((level - schedule[point - 1]) * chains.ratio))
            scale = precisions.scale(level)
            warm_up = _WARM_UP if point == 1 else 0
            for left in range(warm_up + repeats, 0, -1):
                chains, acceptance = self.transition(path, chains, level, log_step.exp(), scale)
                # The first guess may be off by factors: large corrections first.
                gain = _GAIN * max(1.0, (left - repeats) / 8)
                log_step = log_step + gain * (acceptance.mean(0) - self.target_acceptance)
            steps.append(log_step)
        transitions = _WARM_UP + repeats * (len(schedule) - 1)
        evaluations = 1 + self.leapfrog_steps * transitions
        # At the start there are exact draws, and nothing moves unless it is asked to.
        all_steps = torch.stack([steps[0], *steps]).exp()
        return _Walk(all_steps, torch.stack(lengths), evaluations)


@final
@dataclass(frozen=True)
class _Walk:
    """What one walk of the pilot saw: step sizes, interval lengths, its cost."""

    steps: Tensor
    lengths: Tensor
    evaluations: int


def precisions(path: GeometricPath, mass: Mass, like: Tensor) -> Precisions:
    """No mass matrix, or by the spread of draws from the start and, for the posterior, the guide.

    Args:
        path: Where to draw.
        mass: Which.
        like: Of the type and on the device of the latents.
    """
    if mass == "unit":
        one = like.new_ones(())
        return Precisions(one, one)
    density = path.density
    end = _precision(density.draw_guide)
    start = end if path.start == "guide" else _precision(density.draw_prior)
    return Precisions(start, end)


def _precision(draw: Callable[[], Tensor]) -> Float[Tensor, "batch dim"]:
    draws = [draw()]
    while len(draws) * len(draws[0]) < _SCALE_DRAWS:
        draws.append(draw())
    return torch.cat(draws).var(0).reciprocal()
