"""Means over data and draws, with their errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.display import Row, fields_of

COLUMNS = ("mean", "Monte Carlo", "total error")
"""Headings of an :class:`Estimate` in a table."""


@final
@dataclass(frozen=True)
class Estimate:
    """A mean over the data, in nats per datum, with its errors.

    Attributes:
        value: The mean.
        monte_carlo_error: Its standard error from the particles, the data held fixed.
        total_error: Its standard error as an estimate for the population the data came from,
            ``s / sqrt(N)``. It holds the Monte Carlo noise already.
    """

    value: float
    monte_carlo_error: float
    total_error: float

    def __str__(self) -> str:
        return f"{self.value:12.3f} {self.monte_carlo_error:12.3f} {self.total_error:12.3f}"


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


@final
@dataclass(frozen=True)
class DatumMeans:
    """A mean over draws for each datum, and the variance of its Monte Carlo error.

    Attributes:
        value: The means, ``(batch, *rest)``, in double precision on the CPU.
        noise: Their Monte Carlo variances, of the same shape.
    """

    value: Tensor
    noise: Tensor

    @classmethod
    def over_draws(cls, terms: Float[Tensor, "draws batch *rest"]) -> "DatumMeans":
        """Means of independent terms."""
        terms = terms.double()
        return cls(terms.mean(0).cpu(), (terms.var(0) / len(terms)).cpu())

    @classmethod
    def joined(cls, batches: Sequence["DatumMeans"]) -> "DatumMeans":
        """Batches of data one after another."""
        value, noise = ([getattr(each, name) for each in batches] for name in ("value", "noise"))
        return cls(torch.cat(value), torch.cat(noise))

    def estimate(self) -> Estimate:
        """The mean over the data."""
        return over_data(self.value, self.noise)


def over_draws(terms: Float[Tensor, "draws batch"]) -> MonteCarlo:
    """The mean over data of each datum's mean over its own, independent draws."""
    noise = terms.var(0) / len(terms)
    return MonteCarlo(terms.mean().item(), noise.sum().sqrt().item() / len(noise))


def over_data(value: Float[Tensor, " batch"], noise: Float[Tensor, " batch"]) -> Estimate:
    """The mean over data of estimates with given Monte Carlo variances."""
    return Estimate(
        value=value.mean().item(),
        monte_carlo_error=noise.sum().sqrt().item() / len(value),
        # The spread over data holds the Monte Carlo noise already: adding it would count it twice.
        total_error=value.std().item() / math.sqrt(len(value)) if len(value) > 1 else math.nan,
    )


def rows_of(result: Any, kind: type) -> list[Row]:
    """Rows of a result's table: its fields of a kind, each under its name."""
    terms = fields_of(result).items()
    return [{"term": n} | fields_of(term) for n, term in terms if isinstance(term, kind)]


def table(title: str, columns: tuple[str, ...], rows: dict[str, str]) -> str:
    """Lines of text: a heading, and a name and its columns a row."""
    width = max(map(len, [title, *rows]))
    heading = " ".join(f"{column:>12}" for column in columns)
    return "\n".join([f"{title:{width}} {heading}", *(f"{n:{width}} {r}" for n, r in rows.items())])
