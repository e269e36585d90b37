"""Learning-rate schedules: frozen callables from training progress to a rate.

Progress is the fraction of training done, 0 at the first update and 1 after the last one.
"""

import math
import numbers
from dataclasses import dataclass
from typing import Protocol, final

from ppl_vae.components import Kind


class Schedule(Protocol):
    """Anything that maps progress in [0, 1] to a learning rate."""

    def __call__(self, progress: float) -> float:
        """The learning rate at ``progress``."""
        ...


def _require_positive(name: str, value: float) -> None:
    if not (isinstance(value, numbers.Real) and value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value!r}.")


@final
@dataclass(frozen=True)
class Constant:
    """``rate`` throughout."""

    rate: float

    def __post_init__(self) -> None:
        _require_positive("learning rate", self.rate)

    def __call__(self, progress: float) -> float:
        """The learning rate at ``progress``."""
        return self.rate


@final
@dataclass(frozen=True)
class Exponential:
    """``rate * (final_rate / rate) ** progress``: a straight line on a log scale.

    Attributes:
        rate: At the start.
        final_rate: At the end; None: a tenth of the first.
    """

    rate: float
    final_rate: float | None = None

    def __post_init__(self) -> None:
        _require_positive("learning rate", self.rate)
        _require_positive("final learning rate", self._final)

    @property
    def _final(self) -> float:
        return self.rate / 10 if self.final_rate is None else self.final_rate

    def __call__(self, progress: float) -> float:
        """The learning rate at ``progress``."""
        return self.rate * math.exp(progress * math.log(self._final / self.rate))


@final
@dataclass(frozen=True)
class Cosine:
    """A linear warm-up over the first ``warmup`` of training, then half a cosine to 0.

    References:
        Loshchilov and Hutter, 2017, SGDR: Stochastic gradient descent with warm restarts.
    """

    rate: float
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _require_positive("learning rate", self.rate)
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warm-up must be a fraction in [0, 1), got {self.warmup}.")

    def __call__(self, progress: float) -> float:
        """The learning rate at ``progress``."""
        if progress < self.warmup:
            return self.rate * progress / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))


@final
@dataclass(frozen=True)
class Burda:
    """Stages i = 0..7 of 3^i epochs at rates ``rate * 10^(-i/7)``, of 3,280 epochs.

    Of another number of epochs, stages have the same proportions.

    Attributes:
        rate: At the start.
        rounded: Take the rates of the authors' code, 10, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4 and 1 tenths
            of the first.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
    """

    rate: float = 1e-3
    rounded: bool = False

    def __post_init__(self) -> None:
        _require_positive("learning rate", self.rate)

    def __call__(self, progress: float) -> float:
        """The learning rate at ``progress``."""
        epochs = 3280 * progress  # 3280 = 3^0 + ... + 3^7
        stage = next((i for i in range(7) if epochs < (3 ** (i + 1) - 1) / 2), 7)
        if self.rounded:
            return self.rate / 10 * round(10 * math.pow(10, -stage / 7), 1)
        return self.rate * math.pow(10, -stage / 7)


SCHEDULES = Kind(
    "schedule",
    {"constant": Constant, "exponential": Exponential, "cosine": Cosine, "burda": Burda},
    context=frozenset({"rate"}),
)
"""Learning-rate schedules by name."""
