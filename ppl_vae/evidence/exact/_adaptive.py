"""The integral of a batch of data: rules at the modes, a look elsewhere, a grid for the rest."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from scipy.special import chdtrc
from torch import Tensor

from ppl_vae.evidence.exact._grid import Box, hot_depth, integrate_on_grid, unit_grid
from ppl_vae.evidence.exact._hermite import Gaussian, Integral
from ppl_vae.evidence.exact._joint import Joint
from ppl_vae.evidence.exact._mixture import Placement, integrate_modes
from ppl_vae.evidence.exact._modes import find_modes

_BEST = 4
"""Ascents from so many of the best scouts, and of the guide's; and from all of the prior's."""
_CUTOFF = 1e-3
"""Share of the tolerance below which modes are left out."""
_WIDE = {1: (3.0, 2049), 2: (2.5, 81), 3: (2.0, 20)}
"""Half side of the grid that looks for mass elsewhere, in those of the scouts, of which the
prior's are few, and the points to a side."""


@final
@dataclass(frozen=True)
class AdaptiveIntegral:
    """What it takes to integrate p(x, u) over u for a batch of data.

    Attributes:
        joint: log p(x, u).
        scouts: Points that say where there may be mass, shape (points, batch, dim).
        placement: Gaussians at the modes.
        tolerance: In nats, shape (batch,); no less than rounding allows.
    """

    joint: Joint
    scouts: Float[Tensor, "points batch dim"]
    placement: Placement
    tolerance: Float[Tensor, " batch"]

    @classmethod
    def prepare(
        cls, joint: Joint, scouts: Tensor, guided: int, tolerance: float
    ) -> "AdaptiveIntegral":
        """Find the modes; the first ``guided`` scouts are the guide's, the others the prior's."""
        modes = find_modes(joint, joint.all_rows, _starts(joint, scouts, guided))
        placement = Placement.of(modes, cutoff=_CUTOFF * min(tolerance, 1.0))
        allowed = joint.rounding(modes.value.amax(0)).clamp(min=tolerance)
        return cls(joint, scouts, placement, allowed)

    def integrate(self, order: int, max_nodes: int) -> Integral:
        """Rules at the modes where they will do, an equally spaced grid where not."""
        improper = self.placement.improper
        # No order of a rule that has no place to stand needs to be raised.
        wanted = torch.where(improper, torch.inf, self.tolerance)
        found = integrate_modes(self.joint, self.placement, order, wanted)
        misled, seen = self._mass_elsewhere(found)
        misled |= improper
        for datum in (misled | (found.error > self.tolerance)).nonzero()[:, 0].tolist():
            value, error, spent = self._on_grid(datum, seen[datum], max_nodes)
            found.evaluations[datum] += spent
            if misled[datum] or error < float(found.error[datum]):
                found.log_value[datum], found.error[datum] = value, error
        return found

    def _mass_elsewhere(self, found: Integral) -> tuple[Bool[Tensor, " batch"], list[Tensor]]:
        """Whether a wide grid sees mass beyond the reach of the rules, more than a Gaussian has.

        And the points at which it does, for each datum.
        """
        dim = self.scouts.shape[-1]
        centre, (wide, number) = self.scouts.mean(0), _WIDE[dim]
        half = wide * (self.scouts - centre).abs().amax(0)
        unit = torch.linspace(-1, 1, number, dtype=half.dtype, device=half.device)
        points = centre + half * unit_grid(unit, dim).unsqueeze(1)
        rows = self.joint.all_rows
        beyond = self.placement.distances(rows, points).amin(-1) > found.reach
        values = torch.where(beyond, self.joint(rows, points), -torch.inf)
        log_cell = (2 * half / (number - 1)).log().sum(-1)
        fraction = (torch.logsumexp(values, 0) + log_cell - found.log_value).exp()
        tail = torch.from_numpy(chdtrc(dim, found.reach.cpu().square().numpy())).to(fraction)
        hot = values > values.amax(0).maximum(found.log_value) - hot_depth(self.tolerance)
        seen = [points[hot[:, datum], datum] for datum in range(len(found.log_value))]
        return ~(fraction < self.tolerance + 10 * tail), seen

    def _on_grid(self, datum: int, seen: Tensor, max_nodes: int) -> tuple[float, float, int]:
        """By a grid along the axes of the datum's first mode, in units of its widths."""
        own = (self.placement.datum == datum).nonzero()[:, 0]
        axes = self.placement.at.rows(own[:1])
        if self.placement.improper[datum]:  # a ridge's widths are of no use
            axes = Gaussian(axes.mean, torch.eye(self.joint.dim).to(axes.factor).unsqueeze(0))

        def standardized(row: Tensor, t: Tensor) -> Tensor:
            return self.joint(row, axes.place(t[:, 0])) + axes.log_det

        modes = torch.cat([self.placement.at.mean[own], seen])
        modes = axes.standardize(modes.unsqueeze(1))[:, 0]
        points = torch.cat([modes, axes.standardize(self.scouts[:, [datum]])[:, 0]])
        factors = torch.linalg.solve_triangular(
            axes.factor, self.placement.at.factor[own], upper=False
        )
        return integrate_on_grid(
            standardized,
            self.placement.datum[own[:1]],
            Box(points.amin(0) - 1e-3, points.amax(0) + 1e-3),
            modes,
            finest=float(torch.linalg.svdvals(factors).min()),
            tolerance=float(self.tolerance[datum]),
            max_nodes=max_nodes,
        )


def _starts(joint: Joint, scouts: Tensor, guided: int) -> Tensor:
    """The guide's mean draw, the best scouts, some of the guide's, and all of the prior's."""
    best = joint(joint.all_rows, scouts).topk(_BEST, 0).indices.unsqueeze(-1)
    best = scouts.gather(0, best.expand(-1, -1, scouts.shape[-1]))
    centre = scouts[:guided].mean(0, keepdim=True)
    return torch.cat([centre, best, scouts[: min(_BEST, guided)], scouts[guided:]])
