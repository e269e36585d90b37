"""Refinement of the guide for each datum: semi-amortised inference."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae._adam import FusedAdam, laid_out
from ppl_vae.objectives import STL, Objective
from ppl_vae.particles import OffsetGuide, Program, Programs, zero_offsets
from ppl_vae.randomness import Stream, seeded

__all__ = ["Refinement", "refine", "require_refinable"]

_DRAWS = 8


def refine(
    model: Program,
    guide: Program,
    x: Float[Tensor, "batch *event"],
    objective: Objective | None = None,
    *,
    steps: int = 20,
    learning_rate: float = 0.1,
    seed: int | None = 0,
) -> OffsetGuide:
    """Find ``argmax_(d, r) L_i[q(.|x_i) with loc + d_i, scale exp(r_i)]`` from d = r = 0.

    Every normal site of the guide is moved and stretched by an offset of each datum's own, found by
    ``steps`` updates of Adam on fresh draws, at a rate that falls linearly to 0. The model's and
    the guide's parameters are left as they are, and so are their gradients. As every offset sees
    the bound of its own datum alone, and Adam treats coordinates apart, what is found for one datum
    does not depend on which others stand in the batch (in evaluation mode, and with an objective
    that is a sum over data). Costs ``steps`` times the objective's decoder evaluations per datum.

    Adam on noisy gradients comes to rest near the optimum, not at it: a guide that is far off gains
    much, one that is at the optimum loses a little. More draws or steps make that less.

    The refined guide depends on the draws it was found with. On other draws the bound is a bound,
    and importance weights under it are unbiased for p(x), as under any guide chosen beforehand.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide whose sites are all Normal (with to_event), MultivariateNormal or
            LowRankMultivariateNormal.
        x: The batch, shape ``(batch, *event)``.
        objective: What to ascend; if not given, ``STL(8)``: the ELBO, whose sticking-the-landing
            gradient has little noise near the optimum.
        steps: Updates; 0 gives the guide as it is.
        learning_rate: Adam's at the start, in units of the latents and of log scale.
        seed: Seed of the draws; ``None`` uses the caller's random state.

    Returns:
        A Pyro guide for this batch, and no other.

    Raises:
        ValueError: If steps or rate are out of range, a guide site is of another kind (named), or
            the objective simulates data of its own.

    References:
        Kim et al., 2018, Semi-amortized variational autoencoders.
        Marino, Yue and Mandt, 2018, Iterative amortized inference.
    """
    _require_settings(steps, learning_rate)
    objective = STL(_DRAWS) if objective is None else objective
    require_refinable(objective)
    # Estimators run without gradients, which the ascent needs.
    with seeded(seed, Stream.TRAINING), torch.enable_grad():
        refined = zero_offsets(guide, x)
        values = refined.tensors

        def gradient_of(values: Sequence[Tensor]) -> Sequence[Tensor]:
            return _gradient(objective, model, refined, x, values)

        _ascend(gradient_of, values, steps, learning_rate)
    return refined.detach()


@final
@dataclass(frozen=True)
class Refinement:
    """Refinement of a guide on the ELBO, by the settings of :func:`refine`.

    Args:
        steps: Updates.
        learning_rate: Adam's at the start.
        num_particles: Draws of the ELBO per update.

    Raises:
        ValueError: If one of them is out of range.
    """

    steps: int = 20
    learning_rate: float = 0.1
    num_particles: int = _DRAWS

    def __post_init__(self) -> None:
        _require_settings(self.steps, self.learning_rate)
        if self.num_particles < 1:
            raise ValueError(f"Refinement needs num_particles >= 1, got {self.num_particles}.")

    @property
    def description(self) -> str:
        """Description of the guide, for the name of a method."""
        return f"guide refined by {self.steps} steps"

    @property
    def rows_per_datum(self) -> int:
        """Latents of each datum that are decoded at once, with a graph."""
        return self.num_particles

    def __call__(
        self, programs: Programs, x: Float[Tensor, "batch *event"], *, seed: int | None = 0
    ) -> OffsetGuide:
        """The guide refined for a batch; arguments as for :func:`refine`."""
        return refine(
            programs.model,
            programs.required_guide,
            x,
            STL(self.num_particles).with_plate_nesting(programs.max_plate_nesting),
            steps=self.steps,
            learning_rate=self.learning_rate,
            seed=seed,
        )

    def gradient(
        self,
        programs: Programs,
        x: Float[Tensor, "batch *event"],
        values: Sequence[Tensor],
        *,
        check_finite: bool = True,
    ) -> Sequence[Tensor]:
        """Gradient of the loss on fresh draws, in tensors of a guide's own.

        Args:
            programs: Model, and the guide that the values are tensors of.
            x: The batch.
            values: Leaf tensors with an entry for every datum, which need a gradient.
            check_finite: Raise on a density that is not finite, on a CPU.
        """
        objective = STL(self.num_particles).with_plate_nesting(programs.max_plate_nesting)
        return _gradient(
            objective, programs.model, programs.required_guide, x, values, check_finite=check_finite
        )

    def ascend(
        self,
        programs: Programs,
        x: Float[Tensor, "batch *event"],
        values: Sequence[Tensor],
        gradient_of: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None,
    ) -> None:
        """Climb the ELBO in tensors of a guide's own, as :func:`refine` does in its offsets.

        Draws from the caller's random state.

        Args:
            programs: Model, and the guide that the values are tensors of.
            x: The batch.
            values: Leaf tensors with an entry for every datum; changed in place.
            gradient_of: Computes :meth:`gradient` in another way, as by a compiled graph.
        """
        for value in values:
            value.requires_grad_()
        with torch.enable_grad():
            _ascend(
                gradient_of or partial(self.gradient, programs, x),
                values,
                self.steps,
                self.learning_rate,
            )
        for value in values:
            value.requires_grad_(False)


def require_refinable(objective: Objective) -> None:
    """Check that an objective asks the guide about the batch's own data alone.

    Raises:
        ValueError: If it does not.
    """
    if objective.simulates == "data":
        raise ValueError(
            f"{objective!r} asks the guide about simulated data, which a guide refined for a batch "
            "cannot answer: take rws:K, or leave the refinement out."
        )


def _gradient(
    objective: Objective,
    model: Program,
    guide: Program,
    x: Tensor,
    values: Sequence[Tensor],
    *,
    check_finite: bool = True,
) -> Sequence[Tensor]:
    """Gradient of the summed loss, not the mean: a datum's must not shrink with the batch."""
    loss, _ = objective.loss_of(objective.draw(model, guide, x, check_finite=check_finite))
    # Not backward, which would add to the gradients of the model's and the guide's parameters.
    return torch.autograd.grad(loss, values)


def _ascend(
    gradient_of: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    values: Sequence[Tensor],
    steps: int,
    learning_rate: float,
) -> None:
    optimizer = FusedAdam(values)
    for step in range(steps):
        # Noisy gradients keep Adam at a distance from the optimum that grows with the rate.
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        for value, gradient in zip(values, gradient_of(values), strict=True):
            value.grad = laid_out(gradient, value)
        optimizer.step()


def _require_settings(steps: int, learning_rate: float) -> None:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"refinement takes 0 or more steps (a whole number), got {steps}.")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"refinement needs a positive learning_rate, got {learning_rate}.")
