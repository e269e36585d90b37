"""How to train, as values: limits, settings, steps by name."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial, wraps
from typing import Any, TypeVar, cast, final

from ppl_vae.components import Component, Kind
from ppl_vae.names import unknown_name
from ppl_vae.schedules import SCHEDULES, Constant, Schedule
from ppl_vae.training._aggressive import AggressiveStep
from ppl_vae.training._steps import (
    AlternatingStep,
    SemiAmortisedStep,
    Step,
    SVIStep,
    TorchStep,
)

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


@final
@dataclass(frozen=True)
class Spent:
    """What training has cost so far, validation not counted.

    Attributes:
        updates: Batches that the model was updated on.
        seconds: Time spent in updates.
        decoder_evaluations: Particles times batch, over all draws of the model.
    """

    updates: int = 0
    seconds: float = 0.0
    decoder_evaluations: int = 0


@final
@dataclass(frozen=True)
class Budget:
    """Exactly one limit on what training may cost; :class:`FitSettings` says what each means.

    Raises:
        ValueError: If not exactly one is given, or it is not positive.
    """

    epochs: int | None = None
    updates: int | None = None
    seconds: float | None = None
    decoder_evaluations: int | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            names = " and ".join(given) or "none"
            raise ValueError(
                "a budget has exactly one limit of epochs, updates, seconds and "
                f"decoder_evaluations, got {names}."
            )
        ((name, value),) = given.items()
        number = isinstance(value, int | float) and math.isfinite(value)
        if name == "seconds":
            if not (number and value > 0):
                raise ValueError(f"seconds must be positive and finite, got {value!r}.")
        elif not (number and value >= 1 and value == int(value)):
            raise ValueError(f"{name} must be 1 or more, got {value!r}.")

    @property
    def kind(self) -> str:
        """The name of the limit that is given."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def limit(self) -> float:
        """Value of the limit."""
        value: float = getattr(self, self.kind)
        return value

    def fraction(self, spent: Spent, updates_per_epoch: int) -> float:
        """Fraction of the budget that is spent; 1 or more when there is none left."""
        if self.epochs is not None:
            # By updates, as schedules move inside an epoch too.
            return spent.updates / (self.epochs * updates_per_epoch)
        if self.updates is not None:
            return spent.updates / self.updates
        if self.seconds is not None:
            return spent.seconds / self.seconds
        return spent.decoder_evaluations / self.limit


EPOCHS = 100
"""Passes over the training data where no limit is given."""

LIMITS = tuple(field.name for field in fields(Budget))
"""Settings that say how long to train; at most one of them is given."""


@final
@dataclass(frozen=True)
class FitSettings:
    """How to train: the settings of :func:`~ppl_vae.training.fit`, of runs, of the command line.

    Attributes:
        epochs: Passes over the training data; None: 100, unless another limit is given.
        updates: Batches to update the model on, in place of epochs; a step's further updates of
            the guide on the same batch are not counted.
        seconds: Training time without validation, in place of epochs; training ends with the
            first update after it.
        decoder_evaluations: Rows to run the model on (particles times batch, summed over all draws
            in training), in place of epochs; training ends with the last update within them.
        batch_size: At most this many data a batch; batches of an epoch differ by at most one.
        learning_rate: Adam's rate at the start, or a schedule over the fraction of training done.
        schedule: Name of the schedule that a learning rate follows; ``exponential`` falls to a
            tenth.
        clip_norm: Largest global gradient norm, of the loss in nats per datum; None: no clipping.
        patience: Epochs without a better validation bound before training stops; None: never.
        validate_every: Epochs between validations.
        validation_particles: Number of particles K of the validation bound.
        validation_size: At most this many validation data, a fixed random subset.
        step: Step of training by name, such as ``alternating:5``, or a class of the form of
            :class:`~ppl_vae.training.Step`.

    Raises:
        ValueError: If a number is out of range, a name is unknown, or two limits are given.
    """

    epochs: int | None = None
    updates: int | None = None
    seconds: float | None = None
    decoder_evaluations: int | None = None
    batch_size: int = 128
    learning_rate: float | Schedule = 1e-3
    schedule: str = "constant"
    clip_norm: float | None = None
    patience: int | None = None
    validate_every: int = 1
    validation_particles: int = 50
    validation_size: int = 1000
    step: str | StepFactory = "torch"

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
        _ = self.make_step, self.rate_at

    @property
    def budget(self) -> Budget:
        """The limit that is given, or that of 100 epochs."""
        limits = {name: getattr(self, name) for name in LIMITS}
        given = any(value is not None for value in limits.values())
        return Budget(**limits) if given else Budget(epochs=EPOCHS)

    @cached_property
    def rate_at(self) -> Schedule:
        """The learning rate at a fraction of training done."""
        rate = self.learning_rate
        if not callable(rate):
            component = SCHEDULES.parse(self.schedule)
            return Constant(rate) if component.build is Constant else component(rate=rate)
        if self.schedule != "constant":
            raise ValueError(
                f"learning_rate {rate!r} is a schedule, and schedule {self.schedule!r} names "
                "another: give a number as the rate, or leave the name out."
            )
        return rate

    @cached_property
    def make_step(self) -> StepFactory:
        """The step's class, or what makes one."""
        return STEPS.parse(self.step) if isinstance(self.step, str) else self.step

    def to_json(self) -> dict[str, Any]:
        """Values that a resumed run must have in common with the one it goes on from."""
        budget = self.budget
        return {
            "batch_size": self.batch_size,
            # The schedule, not how it was written: a name and its object are one run.
            "learning_rate": repr(self.rate_at),
            "budget": budget.kind,
            # A schedule spreads over the budget; at a constant rate a run may be made longer.
            budget.kind: None if isinstance(self.rate_at, Constant) else budget.limit,
            "clip_norm": self.clip_norm,
            "validate_every": self.validate_every,
            "validation_particles": self.validation_particles,
            "validation_size": self.validation_size,
            "step": _describe(self.make_step),
        }


def _describe(step: StepFactory) -> str:
    """The step's class and its arguments, to tell whether a resumed run takes the same."""
    # A component's arguments include its defaults, so that alternating and alternating:1 are one.
    if isinstance(step, Component):
        return str(step)
    if isinstance(step, partial):
        return ":".join([_describe(step.func), *map(str, step.keywords.values())])
    return str(getattr(step, "__name__", repr(step)))


Function = TypeVar("Function", bound=Callable[..., Any])


def with_settings(function: Function) -> Function:
    """Show the fields of :class:`FitSettings` as the keywords ``**settings`` of a function.

    They are written once, in the class: its signature and its documentation stand in the place of
    ``settings`` in those of the function.
    """

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    # Sphinx would look for each shown default in the source of the wrapped function.
    del call.__wrapped__
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    settings = inspect.signature(FitSettings).parameters.values()
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in settings]
    call.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
    text = inspect.getdoc(FitSettings) or ""
    entries = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    lines = (inspect.getdoc(function) or "").splitlines()
    call.__doc__ = "\n".join(
        entries if line.strip().startswith("**settings:") else line for line in lines
    )
    return cast(Function, call)


def read_settings(values: Mapping[str, Any]) -> FitSettings:
    """The settings that keywords of a call give.

    Raises:
        TypeError: If one is unknown; names the nearest.
        ValueError: As :class:`FitSettings`.
    """
    known = [field.name for field in fields(FitSettings)]
    for name in values:
        if name not in known:
            raise TypeError(unknown_name("setting", name, known))
    return FitSettings(**values)
