"""Priors whose constant is estimated: an error that all data share."""

from dataclasses import dataclass
from typing import final

from torch import nn

from ppl_vae.priors import EnergyPrior, LearnedAcceptRejectPrior, RBMPrior


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
        return (
            f"log Z of {self.name} = {self.value:.3f} is estimated, with standard error "
            f"{self.standard_error:.2g} nats: all log p(x) share this error, and no interval here "
            "holds it"
        )


def find_normalizers(model: nn.Module) -> list[Normalizer]:
    """The estimated constants of a model in evaluation; none where all are known exactly."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, EnergyPrior | LearnedAcceptRejectPrior):
            found.append(Normalizer(name, *module.log_normalizer()))
        elif isinstance(module, RBMPrior):
            partition = module.log_partition()
            if not partition.exact:
                value, error = partition.value.item(), partition.standard_error.item()
                found.append(Normalizer(name, value, error))
    return found
