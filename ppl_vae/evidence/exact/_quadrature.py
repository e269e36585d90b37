"""log p(x) by quadrature over a few latent dimensions."""

import math
from dataclasses import dataclass
from typing import final

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import RowData, row_chunks
from ppl_vae.evidence._loop import Call, join_columns
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.evidence.exact._grid import Box, hot_depth, integrate_on_grid, unit_grid
from ppl_vae.evidence.exact._joint import Joint, find_modes
from ppl_vae.evidence.exact._rules import Gaussian, Integral, Placement, integrate_modes
from ppl_vae.particles import ChunkSize, Program, Programs
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, seeded

_MOST_DIMENSIONS = 3
_GUIDED = 16
_PRIOR = {1: 16, 2: 32, 3: 96}
"""Draws of the guide, and of the prior, that say where to look: 2^dim modes or more may be found,
from as many starts that each of them is found almost surely."""
_CHUNK = 64
_BEST = 4
"""Ascents from so many of the best scouts, and of the guide's; and from all of the prior's."""
_CUTOFF = 1e-3
"""Share of the tolerance below which modes are left out."""
_WIDE = {1: (3.0, 2049), 2: (2.5, 81), 3: (2.0, 20)}
"""Half side of the grid that looks for mass elsewhere, in those of the scouts, of which the
prior's are few, and the points to a side."""


@final
@dataclass(frozen=True)
class Quadrature:
    r"""``log \int p(x, z) dz`` per datum, in nats, for up to 3 latent dimensions in all.

    Exact up to a numerical error that it states. Per datum:

    1. Newton ascents of log p(x, z) from the guide's draws, the prior's and the best of both find
       the modes.
    2. A Gauss-Hermite grid at each mode, scaled by the curvature there, integrates the mode's part
       of p(x, z); its order is raised until three successive ones agree to the tolerance.
    3. A wide grid over all that prior, guide and modes reach looks for mass that the rules of step
       2 did not see.
    4. Where orders do not agree, an ascent ended on a ridge, or there is mass elsewhere, an equally
       spaced grid over the box that holds the mass takes over, refined until three agree.

    Sites are integrated together, each in unconstrained coordinates of its support. A mode narrower
    than the wide grid's spacing that no ascent is drawn to would still be missed.

    The standard error is the sum of the last two changes from rule to rule, or the rounding error
    of the model's precision if that is larger: a model in double precision has more digits. Data
    whose rules never agree make the result ``consistent`` in place of ``exact``. Where the density
    has kinks (ReLU, absolute values) rules converge slowly and erratically: 3 dimensions then leave
    1e-2 to 1e-5 nats, and an agreement may be off by a few times the tolerance. Where the density
    jumps to 0, as that of x ~ Uniform(0, exp z), the part that stands beside the jump counts as
    error. A datum with density 0 at all points has log p(x) = -inf with an infinite error.

    Args:
        order: Points to a side of the first Gauss-Hermite grid.
        tolerance: Largest difference between rules that agree, in nats.
        max_nodes: Points of the finest equally spaced grid.
        rows: Points times data decoded at once.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Naylor and Smith, 1982, Applications of a method for the efficient computation of posterior
        distributions.
        Liu and Pierce, 1994, A note on Gauss-Hermite quadrature.
        Trefethen and Weideman, 2014, The exponentially convergent trapezoidal rule.
    """

    order: int = 12
    tolerance: float = 1e-6
    max_nodes: int = 2**20
    rows: int = 20_000

    def __post_init__(self) -> None:
        for name, least in (("order", 2), ("max_nodes", 10_000), ("rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}.")
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive and finite, got {self.tolerance}.")

    def __call__(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Evidence:
        """Integrate p(x_i, z) for every datum.

        Args:
            model: Pyro model with its data plate at dim -1 and continuous latents.
            guide: Pyro guide over the same latents; it only says where to start, and may be None.
            x: The data, shape ``(num_data, *event)``.
            device: Where to compute; the data's device if not given.
            seed: Seed of the draws to start from; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.

        Raises:
            ValueError: If there are no data, more than 3 latent dimensions, a discrete latent, or
                one whose support varies.
        """
        call, programs = Call(device, seed, progress), Programs(model, guide)
        size = ChunkSize(1, _CHUNK, whole=True, of_draws=False)
        with (
            call.open(programs, x, size) as look,
            seeded(seed, Stream.EVALUATION),
            torch.no_grad(),
        ):
            identity = look.identity(repr(self), seed)
            bar = tqdm(
                row_chunks(look.x, _CHUNK),
                "log p(x)",
                -(-len(look.x) // _CHUNK),
                disable=no_bar(progress),
            )
            chunks = [self._integrate(look.programs, part.to(look.device)) for part in bar]
        columns = join_columns(chunks)
        claims = Claims(
            num_particles=int(columns["evaluations"].max()), direction="exact", method="quadrature"
        )
        if poor := int(columns["disagree"].sum()):
            claims |= Claims(
                direction="consistent",
                method=f"quadrature ({poor} of {len(look.x)} data above the tolerance of "
                f"{self.tolerance:g} nats, by up to {columns['standard_error'].max():.2g})",
            )
        return Evidence.from_weights(columns, claims, identity, call.seconds)

    def _integrate(self, programs: Programs, x: Tensor) -> Columns:
        """The integral of each datum of a batch, and whether its rules disagree."""
        joint, scouts = self._scout(programs, x)
        batch = AdaptiveIntegral.prepare(joint, scouts, _GUIDED, self.tolerance)
        integral = batch.integrate(self.order, self.max_nodes)
        # What the wide grid and the ascents cost is not counted: it is the same for all data.
        rounding = joint.rounding(integral.log_value)
        columns = {
            "log_prob": integral.log_value,
            "standard_error": integral.error.maximum(rounding),
            "rounding": rounding,
            "effective_sample_size": integral.evaluations,
            "evaluations": integral.evaluations,
            "disagree": integral.error > batch.tolerance,
        }
        return {name: values.cpu() for name, values in columns.items()}

    def _scout(self, programs: Programs, x: Tensor) -> tuple[Joint, Tensor]:
        """The joint density, and draws of the guide, if there is one, and of the prior."""
        joint, latents = Joint.at_draws(programs, x, _GUIDED, self.rows)
        if joint.dim > _MOST_DIMENSIONS:
            sizes = ", ".join(f"{name}: {site.size}" for name, site in joint.sites.items())
            raise ValueError(
                f"Quadrature integrates up to {_MOST_DIMENSIONS} latent dimensions, got "
                f"{joint.dim} ({sizes}): take ImportanceSampling() or AnnealedImportanceSampling()."
            )
        guided = joint.unconstrain(latents)
        return joint, torch.cat([guided, joint.prior_draws(_PRIOR[joint.dim])])


@final
@dataclass(frozen=True)
class AdaptiveIntegral:
    """Integration of p(x, u) over u for a batch of data.

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
        rounding = joint.rounding(modes.value.amax(0))
        # Where no ascent saw mass there is no size to round.
        allowed = torch.where(rounding.isfinite(), rounding, 0.0).clamp(min=tolerance)
        return cls(joint, scouts, placement, allowed)

    def integrate(self, order: int, max_nodes: int) -> Integral:
        """Rules at the modes where they will do, an equally spaced grid where not."""
        improper = self.placement.improper
        # No order of a rule that has no place to stand needs to be raised.
        wanted = torch.where(improper, torch.inf, self.tolerance)
        integral = integrate_modes(self.joint, self.placement, order, wanted)
        misled, seen = self._mass_elsewhere(integral)
        # A ridge is no sum of Gaussians, however well orders agree on it.
        misled |= improper
        for datum in (misled | (integral.error > self.tolerance)).nonzero()[:, 0].tolist():
            value, error, spent = self._on_grid(datum, seen[datum], max_nodes)
            integral.evaluations[datum] += spent
            # Rules that were misled state too small an error: it is not compared.
            if misled[datum] or error < float(integral.error[datum]):
                integral.log_value[datum], integral.error[datum] = value, error
        return integral

    def _mass_elsewhere(self, integral: Integral) -> tuple[Bool[Tensor, " batch"], list[Tensor]]:
        """Whether a wide grid sees mass beyond the reach of the rules, more than a Gaussian has.

        And the points at which it does, for each datum.
        """
        dim = self.scouts.shape[-1]
        centre, (wide, number) = self.scouts.mean(0), _WIDE[dim]
        half = wide * (self.scouts - centre).abs().amax(0)
        unit = torch.linspace(-1, 1, number, dtype=half.dtype, device=half.device)
        points = centre + half * unit_grid(unit, dim).unsqueeze(1)
        rows = self.joint.all_rows
        beyond = self.placement.distances(rows, points).amin(-1) > integral.reach
        values = torch.where(beyond, self.joint(rows, points), -torch.inf)
        log_cell = (2 * half / (number - 1)).log().sum(-1)
        # A Gaussian, too, has mass beyond the reach of its rules: ten times that is tolerated.
        fraction = (torch.logsumexp(values, 0) + log_cell - integral.log_value).exp()
        tail = torch.from_numpy(
            scipy.special.chdtrc(dim, integral.reach.cpu().square().numpy())
        ).to(fraction)
        hot = values > values.amax(0).maximum(integral.log_value) - hot_depth(self.tolerance)
        seen = [points[hot[:, datum], datum] for datum in range(len(integral.log_value))]
        # Negated, so that a fraction that is no number counts as mass elsewhere.
        return ~(fraction < self.tolerance + 10 * tail), seen

    def _on_grid(self, datum: int, seen: Tensor, max_nodes: int) -> tuple[float, float, int]:
        """Integrate on a grid along the axes of the datum's first mode, in units of its widths."""
        own = (self.placement.datum == datum).nonzero()[:, 0]
        axes = self.placement.at.rows(own[:1])
        if self.placement.improper[datum]:  # a ridge's widths are of no use
            axes = Gaussian(axes.mean, torch.eye(self.joint.dim).to(axes.factor).unsqueeze(0))

        def standardized(row: Tensor, t: Tensor) -> Tensor:
            # In t with u = mean + L t the density has the factor det L.
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
            # Points that coincide, too, get a box with a width.
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
