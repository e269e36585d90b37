"""log p(x) by quadrature over a few latent dimensions."""

import math
import time
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from scipy.stats import chi2
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.evidence.exact.grid import Box, integrate_on_grid, unit_grid
from ppl_vae.evidence.exact.hermite import Integral
from ppl_vae.evidence.exact.joint import Joint
from ppl_vae.evidence.exact.mixture import Placement, integrate_modes
from ppl_vae.evidence.exact.modes import find_modes
from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.particles import Program, draw_particles
from ppl_vae.randomness import Stream, seeded

MOST_DIMENSIONS = 3
_GUIDED = 16
_PRIOR = {1: 16, 2: 32, 3: 96}
"""Draws of the guide, and of the prior, that say where to look: 2^dim modes or more may be found,
from as many starts that each of them is found almost surely."""
_BEST = 4
_WIDE = {1: 1025, 2: 49, 3: 15}
"""Points to a side of the grid that looks for mass elsewhere."""
_ROUNDINGS = 8
_CHUNK = 64


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
    whose rules never agree make the result ``consistent`` in place of ``exact``.

    Args:
        order: Points to a side of the first Gauss-Hermite grid.
        tolerance: Largest difference between rules that agree, in nats.
        max_nodes: Points of the finest equally spaced grid.
        rows: Points times data decoded at once.
        max_plate_nesting: Plate dimensions the programs use, the data plate included.

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
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        for name, least in (("order", 2), ("max_nodes", 10_000), ("rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}.")
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive and finite, got {self.tolerance}.")

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Float[Tensor, "num_data *event"],
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Evidence:
        """Integrate p(x_i, z) for every datum.

        Args:
            model: Pyro model with its data plate at dim -1 and continuous latents.
            guide: Pyro guide over the same latents; it only says where to start.
            x: The data, shape ``(num_data, *event)``.
            device: Where to compute; the data's device if not given.
            seed: Of the draws to start from; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.

        Raises:
            ValueError: If there are no data, more than 3 latent dimensions, a discrete latent, or
                one whose support varies.
        """
        if len(x) == 0:
            raise ValueError("x holds no data: log p(x) needs at least one datum.")
        device = x.device if device is None else torch.device(device)
        start = time.perf_counter()
        bar = tqdm(x.split(_CHUNK), "log p(x)", disable=None if progress else True)
        with seeded(seed, Stream.EVALUATION), torch.no_grad():
            parts = [self._integrate(model, guide, part.to(device)) for part in bar]
        return self._with_verdict(concatenate(parts), time.perf_counter() - start)

    def _integrate(self, model: Program, guide: Program, x: Tensor) -> Evidence:
        joint, scouts = self._scout(model, guide, x)
        rows = torch.arange(len(x), device=x.device)
        modes = find_modes(joint, rows, _choose_starts(joint, rows, scouts))
        placement = Placement.of(modes, cutoff=1e-3 * min(self.tolerance, 1.0))
        tolerance = self._tolerance(modes.value.amax(0), joint)
        # No order of a rule that has no place to stand needs to be raised.
        wanted = torch.where(placement.improper, torch.inf, tolerance)
        found = integrate_modes(joint, placement, self.order, wanted)
        elsewhere = _mass_elsewhere(joint, rows, scouts, placement, found, tolerance)
        doubtful = elsewhere | placement.improper | (found.error > tolerance)
        for datum in doubtful.nonzero()[:, 0].tolist():
            trusted = not bool(elsewhere[datum] | placement.improper[datum])
            self._use_grid(joint, datum, scouts, placement, found, float(tolerance[datum]), trusted)
        # What the wide grid and the ascents cost is not counted: it is the same for all data.
        error = found.error.maximum(_ROUNDINGS * joint.epsilon * found.log_value.abs())
        return Evidence(
            log_prob=found.log_value.cpu(),
            standard_error=error.cpu(),
            effective_sample_size=found.evaluations.cpu(),
            num_particles=int(found.evaluations.max()),
            direction="exact",
            method="quadrature",
            seconds=0.0,
            evaluations=found.evaluations.cpu(),
        )

    def _scout(self, model: Program, guide: Program, x: Tensor) -> tuple[Joint, Tensor]:
        """The joint density, and draws of the guide and of the prior."""
        nesting = self.max_plate_nesting
        particles = draw_particles(model, guide, x, _GUIDED, max_plate_nesting=nesting)
        joint = Joint.of(model, x, particles, nesting, self.rows)
        if joint.dim > MOST_DIMENSIONS:
            sizes = ", ".join(f"{name}: {site.size}" for name, site in joint.sites.items())
            raise ValueError(
                f"Quadrature integrates up to {MOST_DIMENSIONS} latent dimensions, got {joint.dim} "
                f"({sizes}): take ImportanceSampling or annealing."
            )
        guided = joint.unconstrain(particles.latents)
        return joint, torch.cat([guided, joint.prior_draws(_PRIOR[joint.dim])])

    def _tolerance(self, largest: Tensor, joint: Joint) -> Float[Tensor, " batch"]:
        """What is asked for, or the rounding error where that is larger."""
        return (_ROUNDINGS * joint.epsilon * largest.abs()).clamp(min=self.tolerance)

    def _use_grid(
        self,
        joint: Joint,
        datum: int,
        scouts: Tensor,
        placement: Placement,
        found: Integral,
        tolerance: float,
        trusted: bool,
    ) -> None:
        """Put the equally spaced grid's answer for one datum, if it is the better one."""
        own = placement.datum == datum
        points = torch.cat([placement.at.mean[own], scouts[:, datum]])
        widths = torch.linalg.svdvals(placement.at.factor[own])
        value, error, spent = integrate_on_grid(
            joint,
            placement.datum[own][:1],
            Box(points.amin(0) - 1e-3, points.amax(0) + 1e-3),
            placement.at.mean[own],
            finest=float(widths.min()),
            tolerance=tolerance,
            max_nodes=self.max_nodes,
        )
        if not trusted or error < float(found.error[datum]):
            found.log_value[datum], found.error[datum] = value, error
        found.evaluations[datum] += spent

    def _with_verdict(self, evidence: Evidence, seconds: float) -> Evidence:
        """Exact, unless some datum's rules did not agree."""
        rounding = _ROUNDINGS * torch.finfo(torch.float32).eps * evidence.log_prob.abs()
        poor = int((evidence.standard_error > rounding.clamp(min=self.tolerance)).sum())
        if not poor:
            return replace(evidence, seconds=seconds)
        method = (
            f"quadrature ({poor} of {len(evidence)} data above the tolerance of "
            f"{self.tolerance:g} nats, by up to {evidence.standard_error.max():.2g})"
        )
        return replace(evidence, seconds=seconds, method=method, direction="consistent")


def _choose_starts(joint: Joint, rows: Tensor, scouts: Tensor) -> Tensor:
    """The guide's mean draw, the best scouts, some of the guide's, and all of the prior's."""
    best = joint(rows, scouts).topk(_BEST, 0).indices.unsqueeze(-1)
    best = scouts.gather(0, best.expand(-1, -1, scouts.shape[-1]))
    guided, prior = scouts[:_GUIDED], scouts[_GUIDED:]
    return torch.cat([guided.mean(0, keepdim=True), best, guided[:_BEST], prior])


def _mass_elsewhere(
    joint: Joint,
    rows: Tensor,
    scouts: Tensor,
    placement: Placement,
    found: Integral,
    tolerance: Tensor,
) -> Bool[Tensor, " batch"]:
    """Whether a wide grid sees mass beyond the reach of the rules, more than a Gaussian has."""
    dim = scouts.shape[-1]
    centre, number = scouts.mean(0), _WIDE[dim]
    half = 1.5 * (scouts - centre).abs().amax(0)
    unit = torch.linspace(-1, 1, number, dtype=scouts.dtype, device=scouts.device)
    points = centre + half * unit_grid(unit, dim).unsqueeze(1)
    log_cell = (2 * half / (number - 1)).log().sum(-1)
    beyond = placement.distances(rows, points).amin(-1) > found.reach
    values = torch.where(beyond, joint(rows, points), -torch.inf)
    fraction = (torch.logsumexp(values, 0) + log_cell - found.log_value).exp()
    tail = torch.from_numpy(chi2.sf(found.reach.cpu().square().numpy(), dim)).to(fraction)
    return ~(fraction < tolerance + 10 * tail)
