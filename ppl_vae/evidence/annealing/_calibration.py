"""How long a schedule must be, found on simulated data."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ppl_vae.data import RowData
from ppl_vae.evidence.annealing._ais import AnnealedImportanceSampling
from ppl_vae.evidence.annealing._bidirectional import BidirectionalMonteCarlo
from ppl_vae.particles import Program

LENGTHS = (100, 300, 1000, 3000, 10_000)


def calibrate(
    model: Program,
    guide: Program | None,
    x: RowData,
    target_gap: float,
    lengths: Sequence[int] = LENGTHS,
    *,
    ais: AnnealedImportanceSampling | None = None,
    num_data: int = 20,
    device: torch.device | str | None = None,
    seed: int | None = 0,
    progress: bool = False,
) -> AnnealedImportanceSampling:
    """The shortest schedule whose sandwich on simulated data is thinner than ``target_gap`` nats.

    The lengths are tried from the shortest on, on the same simulated data; a gap counts with one
    standard error added. The estimator returned carries the gap it was found with, so that every
    :class:`~ppl_vae.evidence.Evidence` from it says how certain its settings make log p(x): on data
    like the model's own. Real data that the model fits badly can be harder.

    Args:
        model: Pyro model with its data plate at dim -1, all latents continuous.
        guide: Pyro guide over the same latents.
        x: One or more data; only the shape and type of the first are used.
        target_gap: Nats per datum.
        lengths: Numbers of temperatures to try.
        ais: All other settings.
        num_data: How many data to simulate; 2 or more.
        device: Where to compute; the example's device if not given.
        seed: Of all draws.
        progress: Show a progress bar on the terminal.

    Raises:
        ValueError: If target_gap is not positive, there is nothing to try, or no length is enough:
            then it says what gap each leaves.
    """
    if not target_gap > 0:
        raise ValueError(f"calibrate needs target_gap > 0 nats, got {target_gap}.")
    if not lengths or num_data < 2:
        raise ValueError("calibrate needs one length or more, and num_data >= 2.")
    ais = AnnealedImportanceSampling() if ais is None else ais
    found = []
    for length in sorted(lengths):
        candidate = replace(ais, num_temperatures=length)
        sandwich = BidirectionalMonteCarlo(candidate, num_data)(
            model, guide, x, device=device, seed=seed, progress=progress
        )
        if sandwich.gap + sandwich.gap_error < target_gap:
            return replace(candidate, gap=sandwich.gap)
        found.append(f"{length}: {sandwich.gap:.3f} +- {sandwich.gap_error:.3f}")
    raise ValueError(
        f"no schedule leaves a gap below {target_gap:g} nats with its standard error "
        f"({'; '.join(found)}): allow longer ones, more chains or another start."
    )
