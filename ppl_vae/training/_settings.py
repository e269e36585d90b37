"""How to train, as values: limits, settings, steps by name."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from typing import Any, Literal, TypeVar, cast, final

from torch import Tensor

from ppl_vae.components import Component, Kind
from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.schedules import SCHEDULES, Constant, Schedule
from ppl_vae.settings import nested
from ppl_vae.training._aggressive import AggressiveStep
from ppl_vae.training._budget import EPOCHS, LIMITS, Budget
from ppl_vae.training._optimizers import OPTIMIZERS, Adam, OptimizerSettings, optimizer_name
from ppl_vae.training._precision import Precision
from ppl_vae.training._steps import (
    AutoStep,
    CompiledStep,
    Step,
    TorchStep,
)
from ppl_vae.training._svi import SVIStep
from ppl_vae.training._turns import AlternatingStep, SemiAmortisedStep

STEPS = Kind(
    "step",
    {
        "auto": AutoStep,
        "compiled": CompiledStep,
        "torch": TorchStep,
        "svi": SVIStep,
        "alternating": AlternatingStep,
        "aggressive": AggressiveStep,
        "semi-amortised": SemiAmortisedStep,
    },
    context=frozenset(
        {"objective", "model", "guide", "parameters", "clip_norm", "optimizer", "precision"}
    ),
)
"""Steps of training by name."""

StepFactory = Callable[..., Step]
"""Makes a step of ``objective, model, guide, parameters, clip_norm``, in this order, and of
``optimizer`` and ``precision`` by name, where others than the usual are given."""

ADDED: Mapping[str, Any] = {
    "optimizer": "adam",
    "warmup_epochs": 0.0,
    "ema_decay": None,
    "keep": "best",
    "unshuffled": False,
    "precision": "single",
}
"""Settings without which a run is the one of these values: at them they are in no hash, so that
runs and checkpoints made before there were such settings are known again."""


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
        learning_rate: The optimiser's rate at the start, or a schedule over the fraction of
            training done.
        schedule: Name of the schedule that a learning rate follows; ``exponential`` falls to a
            tenth.
        warmup_epochs: Epochs over which the learning rate rises from 0 to what the schedule says;
            the schedule runs meanwhile.
        optimizer: Optimiser by name, such as ``adam:beta1=0.99,eps=1e-4``; its rate is
            learning_rate, never part of the name.
        ema_decay: Decay of an exponential moving average of the parameters, such as 0.999, that is
            validated and kept in their place; None: no average.
        clip_norm: Largest global gradient norm, of the loss in nats per datum; None: no clipping.
        patience: Epochs without a better validation bound before training stops; None: never.
        validate_every: Epochs between validations.
        validation_particles: Number of particles K of the validation bound.
        validation_size: At most this many validation data, a fixed random subset.
        keep: Epoch whose parameters are kept: that of the best validation bound, or the last.
        unshuffled: Make batches of neighbouring rows, in the order of the data, in every epoch.
        precision: Precision of matrix products in training: ``single``, or ``bf16`` for bfloat16
            with sums in single precision; validation and estimates are in the model's own.
        step: Step of training by name: ``auto`` (compiled where it pays), ``compiled``, ``torch``,
            ``svi``, ``alternating:5`` and others, or a class of the form of
            :class:`~ppl_vae.training.Step`.

    Raises:
        ValueError: If a number is out of range, a name is unknown, or two limits are given.
    """

    epochs: int | None = None
    updates: int | None = None
    seconds: float | None = None
    decoder_evaluations: int | None = None
    batch_size: int = 100
    learning_rate: float | Schedule = 1e-3
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    optimizer: str | OptimizerSettings = "adam"
    ema_decay: float | None = None
    clip_norm: float | None = None
    patience: int | None = None
    validate_every: int = 1
    validation_particles: int = 50
    validation_size: int = 1000
    keep: Literal["best", "last"] = "best"
    unshuffled: bool = False
    precision: Precision = "single"
    step: str | StepFactory = "auto"

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
        self._check_numbers()
        for name, words in (("keep", ("best", "last")), ("precision", ("single", "bf16"))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {' or '.join(words)}, got {getattr(self, name)!r}.")
        given = self.optimizer
        if isinstance(given, OptimizerSettings) and type(given) in OPTIMIZERS.values():
            # As it would be written, so that settings of a run can be kept in a file.
            object.__setattr__(self, "optimizer", optimizer_name(given))
        # A bad name or learning rate is an error here, not in the first update.
        _ = self.make_step, self.rate_at, self.optimizer_settings

    def _check_numbers(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be 1 or more epochs, got {self.patience}.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}.")
        if not (self.warmup_epochs >= 0 and math.isfinite(self.warmup_epochs)):
            raise ValueError(f"warmup_epochs must be 0 or more, got {self.warmup_epochs!r}.")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay!r}.")

    @cached_property
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

    def rate(self, progress: float, epochs: float) -> float:
        """The learning rate of an update, warm-up included.

        Args:
            progress: Fraction of training done.
            epochs: Passes over the training data done, with their fractions.
        """
        rate = self.rate_at(progress)
        return rate if epochs >= self.warmup_epochs else rate * epochs / self.warmup_epochs

    @cached_property
    def optimizer_settings(self) -> OptimizerSettings:
        """The optimiser that is named or given."""
        given = self.optimizer
        if isinstance(given, OptimizerSettings):
            return given
        if not isinstance(given, str):
            raise TypeError(
                f"optimizer is {given!r}: give a name, such as 'adam:beta1=0.99', or an object "
                "such as pv.training.Adam(beta1=0.99)."
            )
        for argument in OPTIMIZERS.split(given)[1]:
            if argument.partition("=")[0] in ("lr", "learning_rate"):
                raise ValueError(
                    f"optimizer {given!r}: the rate is the setting learning_rate, which schedule "
                    f"and warmup_epochs act on: leave {argument!r} out and give it there."
                )
        built: OptimizerSettings = OPTIMIZERS.parse(given)()
        return built

    @cached_property
    def make_step(self) -> StepFactory:
        """The step's class, or what makes one."""
        return STEPS.parse(self.step) if isinstance(self.step, str) else self.step

    def build_step(
        self, objective: Objective, model: Program, guide: Program, parameters: dict[str, Tensor]
    ) -> Step:
        """The step of a model and guide.

        Raises:
            ValueError: If another optimiser than Adam or another precision is given, and the step
                takes none.
        """
        make = self.make_step
        arguments = objective, model, guide, parameters, self.clip_norm
        given = {"optimizer": self.optimizer_settings, "precision": self.precision}
        usual = {"optimizer": Adam(), "precision": "single"}
        # A step of the user's need not know of these.
        given = {name: value for name, value in given.items() if value != usual[name]}
        asked = inspect.signature(make).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in asked.values())
        for name in given:
            if not (isinstance(make, Component) or takes_all or name in asked):
                raise ValueError(
                    f"step {_describe(make)} takes no {name}, got {getattr(self, name)!r}: give it "
                    f"a parameter of that name, or leave the {name} out."
                )
        return make(*arguments, **given)

    def to_json(self) -> dict[str, Any]:
        """Values that a resumed run must have in common with the one it goes on from."""
        budget = self.budget
        added = {name: getattr(self, name) for name in ADDED} | {
            # As the class has it: a name and its object are one run.
            "optimizer": repr(self.optimizer_settings)
        }
        usual = {**ADDED, "optimizer": repr(Adam())}
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
            **{name: value for name, value in added.items() if value != usual[name]},
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
    return FitSettings(**nested(FitSettings, values))
