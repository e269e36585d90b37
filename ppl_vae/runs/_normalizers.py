"""Priors whose constant is estimated: an error that all data share."""

import math
from dataclasses import dataclass
from typing import Any, final

from torch import nn

TOLERATED_ERROR = 0.1
"""Largest standard error of log Z, in nats, before every log p(x) is in doubt by it."""


@final
@dataclass(frozen=True)
class Normalizer:
    """An estimate of log Z, where p(z) is known up to Z.

    Every log p(x) is too large or too small by the same error, which no interval over draws or
    data holds: not an estimate's, nor that of a difference between two models.

    Attributes:
        name: Of the module, as ``prior``.
        value: Of log Z, in nats.
        standard_error: Of the value, in nats.
    """

    name: str
    value: float
    standard_error: float

    def __str__(self) -> str:
        if math.isinf(self.standard_error):
            return (
                f"not to be trusted: log Z of {self.name} = {self.value:.3f} is estimated from too "
                "few effective draws to tell its error, which all log p(x) share"
            )
        told = (
            f"log Z of {self.name} = {self.value:.3f} is estimated, with standard error "
            f"{self.standard_error:.2g} nats: all log p(x) share this error, and no interval here "
            "holds it"
        )
        return told if self.standard_error <= TOLERATED_ERROR else f"not to be trusted: {told}"

    def to_dict(self) -> dict[str, str | float | None]:
        """Plain values, for JSON, which has no infinity."""
        error = None if math.isinf(self.standard_error) else self.standard_error
        return {"name": self.name, "value": self.value, "standard_error": error}


def find_normalizers(model: nn.Module) -> list[Normalizer]:
    """The estimated constants of a model in evaluation; none where all are known exactly.

    A module of the model states its own by a method ``log_normalizer() -> (log Z, its standard
    error)``, as :class:`~ppl_vae.priors.EnergyPrior` does and a prior of your own may; an error of
    0 is that of a known constant.

    Raises:
        TypeError: If such a method returns something else.
    """
    found = []
    for name, module in model.named_modules():
        method = getattr(module, "log_normalizer", None)
        if callable(method):
            found.append(_stated(name, method()))
    return [each for each in found if each.standard_error != 0]


def _stated(name: str, stated: Any) -> Normalizer:
    try:
        value, error = stated
        return Normalizer(name, float(value), float(error))
    except (TypeError, ValueError, RuntimeError) as problem:
        raise TypeError(
            f"log_normalizer() of {name} returned {type(stated).__name__}, expected two numbers: "
            "log Z and its standard error in nats."
        ) from problem
