"""Divergence of training: what it maximises ends lower than it was before the first update."""

import math
from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from pyro import validation_enabled
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.particles import Particles, evaluating
from ppl_vae.randomness import Stream, seeded
from ppl_vae.training._steps import Step
from ppl_vae.weights import log_mean_exp

_ROWS = 100
"""Most training data that the start and the end are compared on."""
_DRAWS, _FEWEST = 10_000, 5
"""Most particles times data of the comparison, with at least so many data."""
_TESTED, _ERRORS = 10, 4.0
"""Fewest data whose mean change is tested, and standard errors that it must be below 0."""
_FAR = 10.0
"""Falls that need no test, as a multiple of 1 nat and the mean and standard deviation before."""

Values = Float[Tensor, "contexts rows"]


@final
class Climb:
    """Values that an objective climbs, on a fixed sample of training data and with fixed draws.

    On training data nothing but training moves them, so that overfitting is no divergence; by the
    objective's own value, shaped as it is, training with a large or a small beta is none, though
    its bound on log p(x) may fall. Where the objective anneals, the value of an epoch in between is
    neither that at the beginning of annealing nor that at its end, and both are taken. A shaping
    that measures the KL, as free bits, has a value that jumps with it: the log-likelihood alone is
    taken, which is what it leaves room for. Where a guide descends an upper bound, the
    importance-weighted one is taken, which has to fall far.

    Args:
        step: The step, whose gradients may be at a guide refined for the data.
        x: Training data.
        seed: Seed of the draws.
    """

    def __init__(self, step: Step, x: Float[Tensor, "rows *event"], seed: int) -> None:
        self._step, self._x, self._seed = step, x, seed

    @staticmethod
    def rows(num_particles: int, batch_size: int) -> int:
        """Number of training data that values are taken on: no more than a batch has."""
        return min(batch_size, _ROWS, max(_FEWEST, _DRAWS // num_particles))

    def __call__(self) -> Values:
        """Values of the parameters as they are, per datum."""
        step, objective = self._step, self._step.objective
        # With a gradient an objective has all its draws, those of the prior too.
        with (
            evaluating(step.model, step.guide),
            seeded(self._seed, Stream.VALIDATION),
            torch.enable_grad(),
            validation_enabled(False),
        ):
            try:
                guide = step.guide_of(self._x)
                particles = objective.draw(step.model, guide, self._x, check_finite=False)
                values = torch.stack([each.detach() for each in _climbed(objective, particles)])
            except ValueError:
                # Of data or parameters that cannot be, which the update that comes to them names.
                values = torch.full((1, len(self._x)), torch.nan)
        return values.double().cpu()


def _climbed(objective: Objective, particles: Particles) -> list[Float[Tensor, " rows"]]:
    if not objective.climbs:
        return [log_mean_exp(particles.log_weight)]
    if _has_log_likelihood_alone(objective):
        return [particles.log_likelihood.mean(0)]
    annealed = [objective.ascended_at_start(particles)] if objective.anneals else []
    return [objective.ascended_at_end(particles), *annealed]


def _has_log_likelihood_alone(objective: Objective) -> bool:
    return bool(getattr(getattr(objective, "kl", None), "measures_kl", False))


def has_fallen(start: Values, end: Values, *, test: bool = True) -> bool:
    """Whether values at the end are lower than at the start, in every context.

    They are where their mean has fallen beyond all that noise could be, by :data:`_FAR` times what
    is there at the start: a few data of -1e12 nats among others have a standard error as large as
    their mean. Smaller falls must be of more than the standard deviation over data at the start,
    and of 4 standard errors of the mean change.

    Args:
        start: Before the first update.
        end: Of the same data, with the same draws.
        test: Whether the change has a standard error over data, which makes smaller falls tell.
    """
    # An untrained model may have densities of 0; nothing falls below.
    if not bool(start.isfinite().all()):
        return False
    if not bool(end.isfinite().all()):
        return True
    change, count = (end - start).mean(1), start.shape[1]
    spread = start.std(1) if count > 1 else start.new_zeros(len(start))
    fallen = change < -_FAR * (1 + start.mean(1).abs() + spread)
    if test and count >= _TESTED:
        error = (end - start).std(1) / math.sqrt(count)
        fallen |= change < -torch.maximum(_ERRORS * error, spread)
    return bool(fallen.all())


def divergence(
    objective: Objective, start: Values | None, ends: Mapping[int, Values]
) -> str | None:
    """Say that training has diverged, where it has.

    Args:
        objective: Objective that was maximised.
        start: Values before the first update; None where there are none to compare.
        ends: Epoch to the values after it: of the epoch whose parameters are kept, and the last.
    """
    kept = next(iter(ends))
    # Values that depend on each other, or are of another bound, have no such error.
    alone = _has_log_likelihood_alone(objective)
    test = objective.climbs and (objective.couples is None or alone)
    for epoch, end in ends.items():
        if start is None or not has_fallen(start, end, test=test):
            continue
        rest = "" if epoch == kept else f"the parameters kept are those of epoch {kept}; "
        return (
            f"training has diverged: {objective!r} is at {end[0].mean():.4g} nats on training data "
            f"after epoch {epoch} and was at {start[0].mean():.4g} before the first update; {rest}"
            "lower the learning rate, or clip gradients."
        )
    return None
