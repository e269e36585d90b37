"""Annealing backwards from approximate posterior draws, for data that were not simulated."""

import time
from os import PathLike

import torch
from torch import Tensor

from ppl_vae.data import RowData
from ppl_vae.evidence._chunks import Call, Purpose, Streams
from ppl_vae.evidence._result import Evidence
from ppl_vae.evidence._unfinished import Part
from ppl_vae.evidence.annealing._ais import AnnealedImportanceSampling
from ppl_vae.evidence.annealing._annealer import Annealer
from ppl_vae.evidence.annealing._columns import (
    evidence_of,
    jackknife_error,
    part_of,
    weight_columns,
)
from ppl_vae.evidence.annealing._path import Chains
from ppl_vae.evidence.annealing._resampling import resampled
from ppl_vae.evidence.annealing._settings import require_count
from ppl_vae.particles import Evaluation, Program, Programs

_LEAST_EFFECTIVE = 8.0
"""Chains, effectively: with fewer, intervals on linear-Gaussian models covered less than 86%."""


def reverse_ais(
    ais: AnnealedImportanceSampling,
    model: Program,
    guide: Program | None,
    x: RowData,
    *,
    transitions: int = 100,
    device: torch.device | str | None = None,
    seed: int | None = 0,
    progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
) -> Evidence:
    """``-log mean W_rev`` of chains annealed backwards from approximate posterior draws.

    Were the draws exact, this would be an upper bound of log p(x) in expectation. They are the ends
    of forward chains, resampled by their weights and moved by some more transitions at b = 1, and
    so it is consistent only, in the number of temperatures and transitions. What breaks the bound:
    a posterior mode that the forward chains missed is missed backwards too, and the result then
    lies below log p(x), in agreement with the forward estimate, by the same amount. For a
    guaranteed upper bound simulate the data: :class:`BidirectionalMonteCarlo`.

    The standard error is by the jackknife over chains, for 95% intervals of 1.96 of them with few
    chains. Weights backwards are skewed: with fewer than 8 effective chains the error is likely
    too small, and log p(x) too high.

    Args:
        ais: The annealing.
        model: Pyro model with its data plate at dim -1, all latents continuous.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``.
        transitions: At b = 1, before the way back.
        device: Where to compute; the data's device if not given.
        seed: Of the draws; ``None`` uses the caller's random state.
        progress: Show a progress bar on the terminal.
        checkpoint: File for finished chunks of data.

    Raises:
        ValueError: If transitions is less than 1, or as the annealing does.
    """
    require_count("reverse_ais", "transitions", transitions)
    begun = time.perf_counter()

    def estimate(look: Evaluation, x: Tensor, streams: Streams) -> Part:
        annealer = ais.prepare(look.programs, x, streams)
        with streams.stream(Purpose.FORWARD):
            chains = _refined(annealer, transitions)
        with streams.stream(Purpose.REVERSE):
            log_weight = annealer.reverse(chains)
        spent = ais.evaluations(annealer) * 2 + ais.num_chains * transitions * ais.leapfrog_steps
        columns = weight_columns(
            log_weight, spent - ais.pilot_evaluations(annealer), annealer.computed_in
        )
        error = torch.hypot(jackknife_error(log_weight).cpu(), columns["rounding"])
        turned = {"log_prob": -columns["log_prob"], "standard_error": error}
        return part_of({**columns, **turned})

    call = Call(device, seed, progress, checkpoint)
    programs, settings = Programs(model, guide), f"reverse of {ais!r}, {transitions}"
    found = ais.by_chunk(call, settings, estimate, programs, x)
    return evidence_of(
        found.columns,
        num_particles=ais.num_chains,
        direction="consistent",
        method=(
            f"annealed importance sampling backwards {ais.described}, from approximate posterior "
            f"draws ({transitions} transitions): no guaranteed upper bound"
        ),
        seconds=time.perf_counter() - begun,
        identity=found.identity,
        gap=ais.gap,
        least_effective=_LEAST_EFFECTIVE,
    )


def _refined(annealer: Annealer, transitions: int) -> Chains:
    """Approximate posterior draws: the forward chains by their weights, and moved on."""
    log_weight, chains = annealer.forward()
    chains = resampled(chains, log_weight, num_groups=1)
    for _ in range(transitions):
        chains, _ = annealer.move(chains, annealer.last)
    return chains
