"""Integrals of a density in one or two dimensions, over cells that are halved where it matters."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ppl_vae.testing.distributions._stretch import FARTHEST

MOST_DIMENSIONS = 2
_NODES = {1: 8, 2: 5}
"""Points of a cell's Gauss-Legendre rule, to a side."""
_MOST_DRAWS = {1: 1 / 500, 2: 1 / 200}
"""Largest share of all draws in a cell to begin with."""
_SAFE = 3.0
"""Factor on the last change, which at a step may be smaller than what is left."""
_FEW = 5
"""Draws in a cell that stand close together, in a quarter of its width, ask for smaller cells."""
_DEEPEST = 60
_BEYOND = 3.0
"""Share of the draws within which cells are as small as among them."""
_TOLERANCE = {1: 1e-8, 2: 1e-6}
"""Tolerance of each cell, as a share of the integral."""
_MOST = {1: 100_000, 2: 200_000}
"""Points at the most."""


@final
@dataclass(frozen=True)
class _Cells:
    """Boxes side by side.

    Attributes:
        low: Their lowest corners, shape (cells, dim).
        width: Their sides, shape (cells, dim).
    """

    low: Float[Tensor, "cells dim"]
    width: Float[Tensor, "cells dim"]

    def halved(self) -> "_Cells":
        """Each cell halved along every side; its parts follow each other."""
        dim = self.low.shape[-1]
        corners = torch.cartesian_prod(*[torch.arange(2)] * dim).reshape(-1, dim).to(self.low)
        low = self.low.unsqueeze(1) + corners * self.width.unsqueeze(1) / 2
        width = (self.width / 2).unsqueeze(1).expand_as(low)
        return _Cells(low.flatten(0, 1), width.flatten(0, 1))

    def __getitem__(self, chosen: Tensor) -> "_Cells":
        return _Cells(self.low[chosen], self.width[chosen])


@final
@dataclass(frozen=True)
class CellIntegral:
    """An integral by cells.

    Attributes:
        cells: The cells.
        value: The integral over each, shape (cells, outputs).
        error: What all of it may be off by; a guess on the safe side.
    """

    cells: _Cells
    value: Float[Tensor, "cells outputs"]
    error: float

    @property
    def total(self) -> Float[Tensor, " outputs"]:
        """The integral over everything."""
        return self.value.sum(0)


Integrand = Callable[[Tensor], Tensor]
"""Points, shape (points, dim), to values, shape (points, outputs)."""


def integrate_cells(integrand: Integrand, cells: _Cells) -> CellIntegral:
    """Halve cells until their parts add up to the whole of each, or there are too many points."""
    dim = cells.low.shape[-1]
    value, points = _apply_rule(integrand, cells), 0
    done: list[tuple[_Cells, Tensor, Tensor]] = []
    while len(cells.low):
        parts = cells.halved()
        values = _apply_rule(integrand, parts)
        points += len(parts.low) * _NODES[dim] ** dim
        error = (values.unflatten(0, (-1, 2**dim)).sum(1) - value).abs().amax(-1)
        error = error.nan_to_num(nan=math.inf)
        settled = (error <= _TOLERANCE[dim]) | (points > _MOST[dim])
        of_parts = settled.repeat_interleave(2**dim)
        done.append((parts[of_parts], values[of_parts], error[settled]))
        cells, value = parts[~of_parts], values[~of_parts]
    low, width = ([getattr(part, name) for part, _, _ in done] for name in ("low", "width"))
    merged = _Cells(torch.cat(low), torch.cat(width))
    error = torch.cat([error for _, _, error in done]).sum().item()
    return CellIntegral(merged, torch.cat([value for _, value, _ in done]), _SAFE * error)


def _apply_rule(integrand: Integrand, cells: _Cells) -> Float[Tensor, "cells outputs"]:
    dim = cells.low.shape[-1]
    places, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(_NODES[dim]))
    unit = torch.cartesian_prod(*[(places + 1) / 2] * dim).reshape(-1, dim)
    weight = torch.cartesian_prod(*[weights / 2] * dim).reshape(-1, dim).prod(-1)
    points = cells.low.unsqueeze(1) + unit * cells.width.unsqueeze(1)
    values: Tensor = integrand(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    return (weight.unsqueeze(-1) * values).sum(1) * cells.width.prod(-1, keepdim=True)


def cells_among(w: Float[Tensor, "draws dim"]) -> _Cells:
    """Cells as far as a law may reach, the smaller the closer the draws stand."""
    w = w.clamp(-FARTHEST, FARTHEST)
    ends = torch.full_like(w[:1], FARTHEST)
    low, high = w.amin(0, keepdim=True) - _BEYOND, w.amax(0, keepdim=True) + _BEYOND
    edges = torch.cat([-ends - _BEYOND, low, high, ends + _BEYOND])
    cells = _Cells(_corners(edges[:-1]), _corners(edges.diff(dim=0)))
    # The middle one holds all draws.
    owner = torch.full((len(w),), len(cells.low) // 2)
    for _ in range(_DEEPEST):
        crowded = _crowded(cells, owner, w)
        if not bool(crowded.any()):
            break
        cells, owner = _split(cells, crowded, owner, w)
    return cells


def _corners(sides: Float[Tensor, "ends dim"]) -> Float[Tensor, "corners dim"]:
    """One row for each choice of an end in every dimension."""
    return torch.cartesian_prod(*sides.unbind(-1)).reshape(-1, sides.shape[-1])


def _crowded(cells: _Cells, owner: Tensor, w: Tensor) -> Bool[Tensor, " cells"]:
    """Whether a cell has too many draws, or some that leave most of it empty."""
    count = owner.bincount(minlength=len(cells.low))
    index = owner.unsqueeze(-1).expand_as(w)
    highest, lowest = (
        torch.zeros_like(cells.low).scatter_reduce(0, index, w, how, include_self=False)
        for how in ("amax", "amin")
    )
    close = (highest - lowest < cells.width / 4).any(-1)
    return (count > _MOST_DRAWS[w.shape[-1]] * len(w)) | ((count >= _FEW) & close)


def _split(
    cells: _Cells, chosen: Tensor, owner: Tensor, w: Tensor
) -> tuple[_Cells, Int[Tensor, " draws"]]:
    """The chosen cells halved, and which cells the draws are in then."""
    dim = w.shape[-1]
    kept, parts = cells[~chosen], cells[chosen].halved()
    upper = w >= cells.low[owner] + cells.width[owner] / 2
    digit = (upper * 2 ** torch.arange(dim - 1, -1, -1)).sum(-1)
    number = torch.where(chosen, chosen.cumsum(0) - 1, (~chosen).cumsum(0) - 1)
    inside = len(kept.low) + 2**dim * number[owner] + digit
    both = _Cells(torch.cat([kept.low, parts.low]), torch.cat([kept.width, parts.width]))
    return both, torch.where(chosen[owner], inside, number[owner])
