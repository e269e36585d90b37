"""Bounded functions of a vector whose means tell distributions apart, and their z-scores."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.randomness import generator
from ppl_vae.testing._comparison import ROUNDING, Discrepancy, mean_is
from ppl_vae.testing.distributions._cubature import placement

_MOST_COORDINATES = 12
_PROJECTIONS = 8
_LEVELS = (0.1, 0.5, 0.9)
_TIE = 1e-6
NUM_DRAWS = 20_000
"""Draws of a distribution: a scale that is off by a tenth is then 10 standard errors off."""


@final
@dataclass(frozen=True)
class BoundedFunctions:
    """``sin t_j`` and ``cos 1.5 t_j`` of single coordinates, cosines of random projections, levels.

    t are coordinates in units of some draws. A level is whether the log-density exceeds a quantile
    of those draws: how often it does depends on all coordinates together.

    Attributes:
        names: Names of the functions, for messages; the levels are the last.
        values: Vectors and their log-densities to values in [-1, 1], shape (points, functions).
    """

    names: list[str]
    values: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def fit(
        cls, draws: Float[Tensor, "draws size"], log_prob: Float[Tensor, " draws"], seed: int
    ) -> "BoundedFunctions":
        """Choose functions that vary over these draws."""
        source, size = generator(seed), draws.shape[-1]
        chosen = torch.randperm(size, generator=source)[:_MOST_COORDINATES].sort().values
        centre, scale = placement(draws)
        # Marginals may be right where the dependence is wrong: projections mix all coordinates.
        directions = torch.randn(size, _PROJECTIONS, generator=source).to(draws)
        directions = directions / directions.norm(dim=0)
        phases = 2 * math.pi * torch.rand(_PROJECTIONS, generator=source).to(draws)
        # Slightly lower: equal log-densities must not fall on both sides by rounding.
        levels = torch.quantile(log_prob, torch.tensor(_LEVELS).to(log_prob)) - _TIE

        def values(vectors: Tensor, log_prob: Tensor) -> Tensor:
            t = (vectors - centre) / scale
            own = t[:, chosen]
            wave = (t @ directions + phases).cos()
            above = (log_prob.unsqueeze(-1) > levels).to(t)
            return torch.cat([own.sin(), (1.5 * own).cos(), wave, above], -1)

        return cls(_names(chosen.tolist()), values)

    @property
    def num_smooth(self) -> int:
        """Number of functions that are not levels: those that rules of quadrature integrate."""
        return len(self.names) - len(_LEVELS)


def _names(coordinates: list[int]) -> list[str]:
    return [
        *(f"sin t_{j}" for j in coordinates),
        *(f"cos 1.5 t_{j}" for j in coordinates),
        *(f"cos of projection {i}" for i in range(_PROJECTIONS)),
        *(f"log-density above its {level:.0%} quantile" for level in _LEVELS),
    ]


def means_are(
    what: str,
    names: list[str],
    found: Float[Tensor, "draws functions"],
    expected: Float[Tensor, " functions"],
    error: float = 0.0,
) -> list[Discrepancy]:
    """Compare the mean of each column with a number, itself known up to an error."""
    columns = zip(names, found.unbind(-1), expected.unbind(-1), strict=True)
    made = [mean_is(f"{what} {name}".strip(), a, b.expand_as(a)) for name, a, b in columns]
    return [_with_error(one, error) for one in made]


def means_agree(
    what: str,
    names: list[str],
    found: Float[Tensor, "draws functions"],
    expected: Float[Tensor, "others functions"],
    error: float = 0.0,
) -> list[Discrepancy]:
    """Compare the means of two independent samples, column by column, up to an error."""
    columns = zip(names, found.unbind(-1), expected.unbind(-1), strict=True)
    made = [_same_mean(f"{what} {name}", a.double(), b.double()) for name, a, b in columns]
    return [_with_error(one, error) for one in made]


def _with_error(comparison: Discrepancy, error: float) -> Discrepancy:
    return replace(comparison, error=math.hypot(comparison.error or 0.0, error))


def _same_mean(what: str, a: Tensor, b: Tensor) -> Discrepancy:
    variance = a.var() / len(a) + b.var() / len(b)
    # Third cumulants of independent means add up; that of -b has the opposite sign.
    third = _third_moment(a) / len(a) ** 2 - _third_moment(b) / len(b) ** 2
    error = math.sqrt(float(variance))
    # Powers of a spread at the level of rounding would be 0 / 0.
    skewness = float(third) / max(error, ROUNDING) ** 3
    return Discrepancy(what, float(a.mean()), float(b.mean()), error, skewness=skewness)


def _third_moment(values: Tensor) -> Tensor:
    return (values - values.mean()).pow(3).mean()
