"""Means over data and draws, with their errors."""

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._decomposition import Estimate


@final
@dataclass(frozen=True)
class MonteCarlo:
    """An estimate of a number that belongs to the data at hand, with its Monte Carlo error.

    Attributes:
        value: The estimate.
        standard_error: From the finite number of draws, the data held fixed.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:12.3f} {self.standard_error:12.3f}"


def over_draws(terms: Float[Tensor, "draws batch"]) -> MonteCarlo:
    """The mean over data of each datum's mean over its own, independent draws."""
    noise = terms.var(0) / len(terms)
    return MonteCarlo(terms.mean().item(), noise.sum().sqrt().item() / len(noise))


def over_data(value: Float[Tensor, " batch"], noise: Float[Tensor, " batch"]) -> Estimate:
    """The mean over data of estimates with given Monte Carlo variances."""
    return Estimate(
        value=value.mean().item(),
        monte_carlo_error=noise.sum().sqrt().item() / len(value),
        total_error=value.std().item() / math.sqrt(len(value)) if len(value) > 1 else math.nan,
    )


def table(title: str, columns: tuple[str, ...], rows: dict[str, str]) -> str:
    """Lines of text: a heading, and a name and its columns a row."""
    width = max(map(len, [title, *rows]))
    heading = " ".join(f"{column:>12}" for column in columns)
    return "\n".join([f"{title:{width}} {heading}", *(f"{n:{width}} {r}" for n, r in rows.items())])
