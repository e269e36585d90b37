"""Which values a likelihood takes, and what to do about others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

_MISSING = "NaN is a missing cell; wrap the decoder in ObservedDecoder, which leaves them out"


def _as_it_is(x: Tensor) -> Tensor:
    return x


@final
@dataclass(frozen=True)
class Values:
    """The values that a likelihood takes.

    Attributes:
        likelihood: Its name with an article, such as ``a Poisson``.
        expected: The values in words.
        remedy: What to do about others.
        holds: Whether each value of a tensor is one; false for NaN.
        rounded: Maps a draw that has been rounded to its type to the nearest such value.
    """

    likelihood: str
    expected: str
    remedy: str
    holds: Callable[[Tensor], Tensor]
    rounded: Callable[[Tensor], Tensor] = _as_it_is

    def require(self, x: Tensor) -> None:
        """Check every value.

        Raises:
            ValueError: If one is not among them.
        """
        held = self.holds(x)
        if held.all():
            return
        example = x[~held][0]
        remedy = _MISSING if example.isnan() else self.remedy
        raise ValueError(
            f"{self.likelihood} likelihood takes {self.expected}, got {example.item():.6g}: "
            f"{remedy}."
        )
