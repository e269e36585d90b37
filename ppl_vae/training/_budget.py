"""How long to train: a limit on epochs, updates, seconds or decoder evaluations."""

import math
from dataclasses import dataclass, fields
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
        elif not (number and value >= 1 and value == int(value)):
            raise ValueError(f"{name} must be 1 or more, got {value!r}.")

    @property
    def kind(self) -> str:
        """The name of the limit that is given."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def limit(self) -> float:
        """Its value."""
        value: float = getattr(self, self.kind)
        return value

    def fraction(self, spent: Spent, updates_per_epoch: int) -> float:
        """The part of the budget that is spent; 1 or more when there is none left."""
        if self.epochs is not None:
            return spent.updates / (self.epochs * updates_per_epoch)
        if self.updates is not None:
            return spent.updates / self.updates
        if self.seconds is not None:
            return spent.seconds / self.seconds
        return spent.decoder_evaluations / self.limit
