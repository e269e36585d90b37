"""How long to train: one limit on what training may cost, and what it has cost so far."""

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import final


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
        elif not (number and value >= 1):
            raise ValueError(f"{name} must be 1 or more, got {value!r}.")
        elif value != int(value):
            raise ValueError(f"{name} is a whole number, got {value!r}.")

    @cached_property
    def kind(self) -> str:
        """The name of the limit that is given."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @cached_property
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

    def updates_of(self, updates_per_epoch: int, evaluations: int) -> float:
        """Number of updates that the budget has room for, if each takes so many evaluations.

        Of seconds it is none, or without end if there are 120 or more: how many updates
        they have room for depends on the machine.
        """
        if self.epochs is not None:
            return self.epochs * updates_per_epoch
        if self.updates is not None:
            return self.updates
        if self.seconds is not None:
            return math.inf if self.seconds >= LONG else 0
        return self.limit / evaluations

    def require_not_exceeded(
        self, spent: Spent, epochs: int, updates_per_epoch: int, where: str
    ) -> None:
        """Check that a run can go on within this budget from what it has cost.

        A run may be made longer, never shorter: its parameters are of all that was spent.

        Args:
            spent: Cost of the run.
            epochs: Its epochs.
            updates_per_epoch: Batches of an epoch.
            where: Name of its state in messages.

        Raises:
            ValueError: If the run has cost more.
        """
        # Of seconds the last update may take more than there were.
        if self.kind != "seconds" and self.fraction(spent, updates_per_epoch) > 1:
            cost = {"epochs": epochs, **asdict(spent)}
            raise ValueError(
                f"{where} is of a run that went further: {self.kind} {cost[self.kind]} there, "
                f"{self.limit:g} here: give as many or more, or take another folder."
            )


LONG = 120.0
"""Seconds of training from which on compiling an update pays, whatever the update is."""
EPOCHS = 100
"""Passes over the training data where no limit is given."""

LIMITS = tuple(field.name for field in fields(Budget))
"""Settings that say how long to train; at most one of them is given."""
