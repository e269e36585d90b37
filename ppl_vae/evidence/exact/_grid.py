"""A plain grid over the box that holds the mass: slow, and no shape of density misleads it."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.exact._joint import LogJoint

_MARGIN = 15.0
"""Nats below the tolerance that a density may fall to, seen from its top, at the box's sides."""
_FIRST = {1: 401, 2: 61, 3: 21}
_SEARCHES = 40
_AGREEING = 3
_FINER = 1.4


@final
@dataclass(frozen=True)
class Box:
    """Sides of a box, shape (dim,) each."""

    low: Float[Tensor, " dim"]
    high: Float[Tensor, " dim"]

    @property
    def width(self) -> Float[Tensor, " dim"]:
        """Lengths of its sides."""
        return self.high - self.low

    def grid(self, number: int) -> Float[Tensor, "points 1 dim"]:
        """``number`` points to a side, the corners included."""
        unit = torch.linspace(0, 1, number, dtype=self.low.dtype, device=self.low.device)
        return (self.low + self.width * unit_grid(unit, len(self.low))).unsqueeze(1)

    def log_cell(self, number: int) -> Tensor:
        """Log volume of a cell of that grid."""
        return (self.width / (number - 1)).log().sum()


def unit_grid(unit: Float[Tensor, " number"], dim: int) -> Float[Tensor, "points dim"]:
    """All tuples of given coordinates."""
    return torch.cartesian_prod(*[unit] * dim).reshape(-1, dim)


def hot_depth(tolerance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Nats below the top that a density may fall to and still matter."""
    return _MARGIN - tolerance.clamp(max=1.0).log()


def integrate_on_grid(
    log_joint: LogJoint,
    row: Tensor,
    box: Box,
    known: Float[Tensor, "points dim"],
    finest: float,
    tolerance: float,
    max_nodes: int,
) -> tuple[float, float, int]:
    """One datum's ``log integral p(x, u) du`` in nats, its error, and the nodes it took.

    A sum over equally spaced points converges faster than any power of their distance, where the
    density is smooth and falls off within the box; its error is what the last two steps
    from one to the next have changed.

    Args:
        log_joint: The log-density.
        row: The datum, shape (1,).
        box: A first guess of where the mass is.
        known: Points where there is mass, shape (points, dim).
        finest: Width of the narrowest peak known: no wider spacing is believed.
        tolerance: In nats.
        max_nodes: Nodes of the finest grid.
    """
    dim = len(box.low)
    depth = float(hot_depth(torch.tensor(tolerance)))
    box, spent = _find_box(log_joint, row, box, known, depth)
    # The width of a peak may be so small that the ratio has no whole number: hence the limit.
    number = max(_FIRST[dim], int((box.width.max() / finest).clamp(max=1e6)) + 2)
    # Room for three grids within max_nodes: their changes are the error.
    number = min(number, int(max_nodes ** (1 / dim) / _FINER**2) - 2)
    values: list[float] = []
    cut = 0.0
    while number**dim <= max_nodes and _change(values, _AGREEING) + cut > tolerance:
        densities = log_joint(row, box.grid(number))[:, 0]
        values.append(float(torch.logsumexp(densities, 0) + box.log_cell(number)))
        cut = _cut_share(densities.reshape([number] * dim))
        spent += number**dim
        number = math.ceil(_FINER * number)
    error = _change(values, _AGREEING) + cut
    # Where the density has kinks the changes are erratic: two small ones in turn are an accident.
    return values[-1], error if error <= tolerance else _change(values, _AGREEING + 2) + cut, spent


def _cut_share(densities: Tensor) -> float:
    """Share of the sum that may lie beyond a jump to 0, which falls anywhere between two points.

    Half of a cell on either side: what stands at a point next to one of density 0 may be off by
    that. A density that falls off to 0 has nothing there.
    """
    inside = densities.isfinite()
    beside = torch.zeros_like(inside)
    for dim in range(densities.dim()):
        last = densities.shape[dim] - 1
        beside.narrow(dim, 1, last).logical_or_(~inside.narrow(dim, 0, last))
        beside.narrow(dim, 0, last).logical_or_(~inside.narrow(dim, 1, last))
    edge = torch.logsumexp(densities[inside & beside], 0) - torch.logsumexp(densities.flatten(), 0)
    # NaN where there is no mass at all.
    return 0.5 * float(edge.exp().nan_to_num())


def _change(values: list[float], last: int) -> float:
    """Sum of the absolute changes between the last so many values."""
    if len(values) < _AGREEING:
        return math.inf
    total = sum(abs(b - a) for a, b in pairwise(values[-last:]))
    # From -inf to -inf there is no number: grids that saw no mass have not agreed on any.
    return math.inf if math.isnan(total) else total


def _find_box(
    log_joint: LogJoint, row: Tensor, box: Box, known: Float[Tensor, "points dim"], depth: float
) -> tuple[Box, int]:
    """Shrink and stretch a box until it just holds what is less than ``depth`` below the top."""
    number, spent = _FIRST[len(box.low)], 0
    top = log_joint(row, known.unsqueeze(1)).amax()
    for _ in range(_SEARCHES):
        points = box.grid(number)
        values = log_joint(row, points)[:, 0]
        spent += len(values)
        top = torch.maximum(top, values.amax())
        # Known points count as hot, as a narrow peak may stand between the nodes.
        hot = torch.cat([points[values > top - depth, 0], known])
        spacing = box.width / (number - 1)
        at_low = hot.amin(0) <= box.low + 0.5 * spacing
        at_high = hot.amax(0) >= box.high - 0.5 * spacing
        # One spacing beyond the hot points, or half a box beyond a side that cuts through them.
        step = torch.where(at_low, 0.5 * box.width, spacing)
        rise = torch.where(at_high, 0.5 * box.width, spacing)
        next_box = Box(hot.amin(0) - step, hot.amax(0) + rise)
        settled = not bool((at_low | at_high).any())
        # A box that would shrink by less than a fifth is as good as the next.
        if settled and bool((next_box.width > 0.8 * box.width).all()):
            break
        box = next_box
    return box, spent
