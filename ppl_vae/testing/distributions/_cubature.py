"""Integrals of a density in one or two dimensions, in coordinates and boxes fitted to draws."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import cubature
from torch import Tensor

MOST_DIMENSIONS = 2
_STRAIGHT = 3.0
"""Scales from the centre where the coordinates turn from linear to logarithmic."""
FARTHEST = _STRAIGHT * math.asinh(1e12 / _STRAIGHT)
"""Farthest point, at 1e12 scales: beyond it a Cauchy law has less than 1e-12 of its mass."""
_BEYOND = 3.0
"""Width of the margin around draws and around the farthest point."""
_SHARE = 1 / 128
"""Largest share of all draws in a box."""
_FEW = 5
"""Draws that ask for boxes of their own."""
_GAP, _MARGIN = 0.25, 0.05
"""Share of a box without draws that is cut out, and share of it that stays on either side."""
_NARROWEST = 1e-9
_RULE: dict[int, Literal["gk15", "genz-malik"]] = {1: "gk15", 2: "genz-malik"}
_TOLERANCE = {1: 1e-7, 2: 1e-6}
"""Tolerance of each box, as a share of the integral: far below what so many draws can tell."""
_MOST_SPLITS = {1: 20, 2: 8}


@final
@dataclass(frozen=True)
class FittedCoordinates:
    """``u = centre + sides 3 sinh(w / 3)``: about the identity near the centre, in units of draws.

    A tail ``|u|^-(df + 1)`` becomes ``exp(-df |w| / 3)``.
    """

    centre: Float[Tensor, " dim"]
    sides: Float[Tensor, "dim dim"]

    @classmethod
    def of(cls, draws: Float[Tensor, "draws dim"]) -> "FittedCoordinates":
        """Coordinates fitted by quantiles, which heavy tails do not sway."""
        centre, scale = placement(draws)
        # Clamped: a single draw far out in a heavy tail would decide the correlation.
        inner = ((draws - centre) / scale).clamp(-_STRAIGHT, _STRAIGHT)
        # A small multiple of the identity keeps it positive definite where coordinates are equal.
        correlation = inner.T @ inner / len(inner) + 1e-3 * torch.eye(len(centre)).to(draws)
        return cls(centre, scale.unsqueeze(-1) * torch.linalg.cholesky(correlation))

    def inverse(self, u: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim"]:
        """``w``, from u."""
        away = torch.linalg.solve_triangular(self.sides, (u - self.centre).T, upper=False).T
        w: Tensor = _STRAIGHT * (away / _STRAIGHT).asinh()
        return w

    def __call__(self, w: Float[Tensor, "points dim"]) -> tuple[Tensor, Tensor]:
        """``u``, and ``log |du/dw|``."""
        away, log_det = w / _STRAIGHT, self.sides.diagonal().log().sum()
        u = self.centre + _STRAIGHT * away.sinh() @ self.sides.T
        return u, log_det + away.cosh().log().sum(-1)


def placement(draws: Float[Tensor, "draws dim"]) -> tuple[Tensor, Tensor]:
    """Median and scale of each coordinate, by quartiles; the scale of one that stays put is 1."""
    quarter, centre, three = torch.quantile(draws, torch.tensor([0.25, 0.5, 0.75]).to(draws), dim=0)
    # 1.35 is the interquartile range of a standard normal.
    scale = (three - quarter) / 1.35
    return centre, torch.where(scale > 0, scale, 1.0)


@final
@dataclass(frozen=True)
class Integral:
    """Integral over boxes that tile the space.

    Attributes:
        value: Integral over each box, shape (boxes, outputs).
        high: Highest corner of each box, shape (boxes, dim).
        error: Error of the total, from the difference of two rules.
    """

    value: Float[Tensor, "boxes outputs"]
    high: Float[Tensor, "boxes dim"]
    error: float

    @property
    def total(self) -> Float[Tensor, " outputs"]:
        """Integral over all boxes."""
        return self.value.sum(0)


def integrate(integrand: Callable[[Tensor], Tensor], draws: Float[Tensor, "draws dim"]) -> Integral:
    """Integrate over all that draws may reach, by scipy's adaptive rules.

    Adaptive rules see no mode that lies between their points. So the space is cut into boxes that
    are as small as the draws in them stand close, and the rule is applied to all boxes at once: as
    to a function on the unit cube with an output for each box.

    Args:
        integrand: Points, shape (points, dim), to values, shape (points, outputs).
        draws: Draws of the density that is integrated.
    """
    dim = draws.shape[-1]
    # A finite box will do: beyond FARTHEST even Cauchy tails have a negligible mass.
    edge = torch.full_like(draws[0], FARTHEST + _BEYOND)
    tiling = boxes(draws.clamp(-FARTHEST, FARTHEST), -edge, edge, _SHARE * len(draws))
    low, high = (torch.stack(corners) for corners in zip(*tiling, strict=True))
    width = high - low

    def on_unit_cube(points: Any) -> Any:
        w = low + torch.from_numpy(points).unsqueeze(1) * width
        values = integrand(w.flatten(0, 1)).unflatten(0, w.shape[:2])
        return (values * width.prod(-1, keepdim=True)).numpy()

    found = cubature(
        on_unit_cube,
        np.zeros(dim),
        np.ones(dim),
        rule=_RULE[dim],
        # Absolute: a box without mass would never reach a relative tolerance.
        rtol=0.0,
        atol=_TOLERANCE[dim],
        max_subdivisions=_MOST_SPLITS[dim],
    )
    # The worst output of each box, added up: a bound for every output of the total.
    return Integral(torch.from_numpy(found.estimate), high, float(found.error.max(-1).sum()))


def boxes(draws: Tensor, low: Tensor, high: Tensor, most: float) -> list[tuple[Tensor, Tensor]]:
    """Tile a box: cut at gaps between draws, and where draws are crowded; return the corners.

    Args:
        draws: Draws inside, shape (draws, dim).
        low: Lowest corner of the box, shape (dim,).
        high: Highest corner, same shape.
        most: Draws that need no further cut.
    """
    tiling, uncut = [], [(draws, low, high)]
    while uncut:
        draws, low, high = uncut.pop()
        cut = _cut(draws, low, high, most) if len(draws) >= _FEW else None
        if cut is None:
            tiling.append((low, high))
            continue
        axis, place = cut
        below = draws[:, axis] < place
        middle_low, middle_high = low.clone(), high.clone()
        middle_low[axis] = middle_high[axis] = place
        uncut += [(draws[below], low, middle_high), (draws[~below], middle_low, high)]
    return tiling


def _cut(draws: Tensor, low: Tensor, high: Tensor, most: float) -> tuple[int, float] | None:
    """Find axis and place of a cut: at an end of the largest gap, or else at the median."""
    width = high - low
    places = torch.cat([low.unsqueeze(0), draws.sort(0).values, high.unsqueeze(0)])
    gaps, first = (places.diff(dim=0) / width).max(0)
    axis = int(gaps.argmax())
    if gaps[axis] > _GAP and width[axis] > _NARROWEST:
        start, end = (places[first[axis] + side, axis].item() for side in (0, 1))
        # Nearer and nearer to the draws, until they fill the box.
        margin = _MARGIN * (end - start)
        return axis, end - margin if end < high[axis] else start + margin
    if len(draws) > most:
        axis = int(width.argmax())
        place = draws[:, axis].median().item()
        # Many equal draws can have their median on an edge: a cut there would leave an empty box.
        return (axis, place) if low[axis] < place < high[axis] else None
    return None
