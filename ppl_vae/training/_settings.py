"""How to train, as values: checked once, compared when a run is resumed."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from torch import Tensor

from ppl_vae.components import Component, Kind
from ppl_vae.schedules import Constant, Schedule
from ppl_vae.training._aggressive import AggressiveStep
from ppl_vae.training._alternating import AlternatingStep
from ppl_vae.training._budget import Budget
from ppl_vae.training._semi_amortised import SemiAmortisedStep
from ppl_vae.training._step import Step, SVIStep, TorchStep

STEPS = Kind(
    "step",
    {
        "torch": TorchStep,
        "svi": SVIStep,
        "alternating": AlternatingStep,
        "aggressive": AggressiveStep,
        "semi-amortised": SemiAmortisedStep,
    },
    context=frozenset({"objective", "model", "guide", "parameters", "clip_norm"}),
)
"""Steps of training by name."""

StepFactory = Callable[..., Step]
"""Makes a step of ``objective, model, guide, parameters, clip_norm``, in this order."""

Transform = Callable[[Tensor], Tensor]
"""Applied to each batch on its device, as dynamic binarisation is."""


@final
@dataclass(frozen=True)
class FitSettings:
    """The settings of :func:`~ppl_vae.training.fit`, which documents them.

    Raises:
        ValueError: If a number is out of range or the step is unknown.
    """

    budget: Budget
    batch_size: int
    learning_rate: float | Schedule
    clip_norm: float | None
    patience: int | None
    validate_every: int
    validation_particles: int
    validation_size: int
    transform: Transform | None
    step: str | StepFactory
    seed: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "validate_every", "validation_particles", "validation_size"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value!r}.")
        epochs = self.budget.epochs
        if epochs is not None and self.validate_every > epochs:
            raise ValueError(
                f"validate_every ({self.validate_every}) exceeds epochs ({epochs}): the "
                "validation bound would never be computed."
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be 1 or more epochs, got {self.patience}.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}.")
        # A bad name or learning rate is an error here, not in the first update.
        _ = self.step_class, self.schedule

    @property
    def schedule(self) -> Schedule:
        """The learning rate over the fraction of training done."""
        rate = self.learning_rate
        return rate if callable(rate) else Constant(rate)

    @property
    def step_class(self) -> StepFactory:
        """The step's class, or what makes one."""
        return STEPS.parse(self.step) if isinstance(self.step, str) else self.step

    def to_json(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it goes on from."""
        return {
            "batch_size": self.batch_size,
            "learning_rate": repr(self.schedule),
            "budget": self.budget.kind,
            # A schedule spreads over the budget; at a constant rate a run may be made longer.
            self.budget.kind: None if isinstance(self.schedule, Constant) else self.budget.limit,
            "clip_norm": self.clip_norm,
            "validate_every": self.validate_every,
            "validation_particles": self.validation_particles,
            "validation_size": self.validation_size,
            "step": _describe(self.step_class),
            "seed": self.seed,
        }


def _describe(step: StepFactory) -> str:
    """The step's class and its arguments, to tell whether a resumed run takes the same."""
    if isinstance(step, Component):
        return str(step)
    if isinstance(step, partial):
        return ":".join([_describe(step.func), *map(str, step.keywords.values())])
    return str(getattr(step, "__name__", repr(step)))
