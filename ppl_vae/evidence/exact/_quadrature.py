"""log p(x) by quadrature over a few latent dimensions."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import RowData
from ppl_vae.evidence._loop import Call, join_columns
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.evidence.exact._adaptive import AdaptiveIntegral
from ppl_vae.evidence.exact._joint import Joint
from ppl_vae.particles import ChunkSize, Program, Programs
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, seeded

_MOST_DIMENSIONS = 3
_GUIDED = 16
_PRIOR = {1: 16, 2: 32, 3: 96}
"""Draws of the guide, and of the prior, that say where to look: 2^dim modes or more may be found,
from as many starts that each of them is found almost surely."""
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
    whose rules never agree make the result ``consistent`` in place of ``exact``. Where the density
    has kinks (ReLU, absolute values) rules converge slowly and erratically: 3 dimensions then leave
    1e-2 to 1e-5 nats, and an agreement may be off by a few times the tolerance.

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
            seed: Of the draws to start from; ``None`` uses the caller's random state.
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
            bar = tqdm(look.x.split(_CHUNK), "log p(x)", disable=no_bar(progress))
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
        columns = {
            "log_prob": integral.log_value,
            "standard_error": integral.error.maximum(joint.rounding(integral.log_value)),
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
                f"{joint.dim} ({sizes}): take ImportanceSampling() or annealing."
            )
        guided = joint.unconstrain(latents)
        return joint, torch.cat([guided, joint.prior_draws(_PRIOR[joint.dim])])
