"""Rate-distortion curve of a decoder, by annealing."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import RowData
from ppl_vae.diagnostics._estimates import over_data
from ppl_vae.diagnostics._rate_curve import QUANTITIES, PerDatum, RateDistortion
from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    Annealer,
    Call,
    Columns,
    Purpose,
    Streams,
    require_numbers,
)
from ppl_vae.particles import Evaluation, Particles, Program, Programs
from ppl_vae.weights import RunningWeights, normalized_weights

BETAS = tuple(2.0**power for power in range(-4, 6))
"""Powers of 2 from 1/16, where next to nothing is coded, to 32: a decoder's last nats of distortion
cost a rate that grows without end, and chains that can no longer follow."""
ANNEALING = AnnealedImportanceSampling(500, mass="guide")
_OWN = AnnealedImportanceSampling()
"""Settings of an annealing where none is given."""


def rate_distortion(
    model: Program,
    guide: Program | None,
    x: RowData,
    betas: Sequence[float] = BETAS,
    *,
    annealing: AnnealedImportanceSampling = ANNEALING,
    num_particles: int = 100,
    call: Call | None = None,
) -> RateDistortion:
    """``log Z_b``, ``D = sum_k v_k (-log p(x|z_k))`` and ``R = -b D - log Z_b`` at each b.

    One run of annealed importance sampling from the prior goes through all b, beyond 1 where the
    largest is. Where it passes a b of the curve, ``log Z_b = log mean W`` of the weights so far, v
    are these weights normalised over the chains of a datum, and z_k is where chain k stands after
    its transition at b. :class:`RateDistortion` says which of these are bounds.

    Between two b's of the curve the temperatures are spaced evenly in log b (up to the first one,
    in b), as many in each interval. Step sizes come from a pilot run on chains of its own. The
    larger b, the narrower q_b and the fewer chains carry all of the weight; the result says from
    where on they are too few.

    Costs 2 K T L gradient evaluations of the decoder per datum, the pilot run's included, for the
    whole curve; its points share their chains, so that their errors are correlated.

    Args:
        model: Pyro model with its data plate at dim -1, all latents continuous.
        guide: Pyro guide over the same latents: for its own point, and for the mass matrices; None
            with a unit mass: the curve alone.
        x: The data, shape ``(num_data, *event)``.
        betas: Where to stop, all above 0; in any order.
        annealing: T temperatures, K chains, L leapfrog steps of each transition, and the mass:
            ``guide``: diagonal, by the spread of draws from prior and guide; or ``unit``. It starts
            from the prior; the spacing is the curve's own.
        num_particles: Draws per datum for the guide's point.
        call: Device, seed, progress bar, and the file of finished chunks, from which another call
            goes on to the same numbers.

    Raises:
        ValueError: If a b is not above 0, there are fewer temperatures than b's or fewer than 2
            chains or particles, the annealing has a start, a spacing or a gap, or as annealed
            importance sampling does.

    References:
        Huang, Makhzani, Cao and Grosse, 2020, Evaluating lossy compression rates of deep generative
        models.
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy, 2018, Fixing a broken ELBO.
    """
    stops = tuple(sorted({float(beta) for beta in betas}))
    num_temperatures, num_chains = annealing.num_temperatures, annealing.num_chains
    if not stops or not all(0 < beta < math.inf for beta in stops):
        raise ValueError(f"betas must be finite and above 0, one or more, got {list(stops)}.")
    if annealing.start != "prior":
        raise ValueError(
            f"the curve starts from the prior, got an annealing with start={annealing.start!r}: "
            "leave start out."
        )
    if (annealing.spacing, annealing.gap) != (_OWN.spacing, _OWN.gap):
        raise ValueError(
            f"the curve has a spacing of its own and no gap, got spacing={annealing.spacing!r} and "
            f"gap={annealing.gap}: leave them out."
        )
    if num_temperatures < len(stops):
        raise ValueError(
            f"rate_distortion needs a temperature for each of {len(stops)} betas or more, got "
            f"num_temperatures={num_temperatures}."
        )
    if num_chains < 2 or num_particles < 2:
        raise ValueError(
            "rate_distortion needs num_chains >= 2 and num_particles >= 2 for its errors, got "
            f"{num_chains} and {num_particles}."
        )
    levels, places = _levels(stops, num_temperatures)

    def estimate(look: Evaluation, x: Tensor, streams: Streams) -> Columns:
        if guide is not None:
            look.require_density("it has no rate")
        annealer = annealing.prepare(look, x, streams, levels)
        with streams.stream(Purpose.FORWARD):
            curve = _pass(annealer, dict(zip(places, stops, strict=True)))
            if guide is None:
                return curve
            particles = look.programs.draw(x, num_particles)
        return curve | _guide_columns(particles)

    settings = f"rate-distortion at {stops}, {num_particles} particles, {annealing!r}"
    found = annealing.by_chunk(call or Call(), settings, estimate, Programs(model, guide), x)
    columns = found.columns
    of_guide: dict[str, Any] = {
        name: over_data(columns[name], columns[f"{name}_noise"]) if name in columns else None
        for name in ("guide_distortion", "guide_rate")
    }
    quantities: dict[str, Any] = {
        name: PerDatum(columns[name].mT, columns[f"{name}_error"].mT) for name in QUANTITIES
    }
    return RateDistortion(
        betas=stops,
        **quantities,
        effective_sample_size=columns["effective_sample_size"].mT,
        **of_guide,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        identity=found.identity,
    )


def _levels(
    stops: tuple[float, ...], num_temperatures: int
) -> tuple[Float[Tensor, " points"], list[int]]:
    """Temperatures from 0 to the last stop, and the number of each stop among them."""
    each, more = divmod(num_temperatures, len(stops))
    first = torch.linspace(0, stops[0], each + (more > 0) + 1, dtype=torch.float64)
    parts, places = [first], [len(first) - 1]
    for number, (low, high) in enumerate(pairwise(stops), 1):
        count = each + (number < more)
        exponents = torch.linspace(0, 1, count + 1, dtype=torch.float64)[1:]
        parts.append(low * (high / low) ** exponents)
        places.append(places[-1] + count)
    return torch.cat(parts), places


def _pass(annealer: Annealer, beta_at: dict[int, float]) -> dict[str, Float[Tensor, "batch betas"]]:
    """Quantities at each b of the curve, from chains that pass through all of them."""
    chains = annealer.path.draw()
    log_weight, seen = torch.zeros_like(chains.base, dtype=torch.float64), []
    for point in range(1, annealer.last + 1):
        # As in annealed importance sampling, a weight takes the state before the transition.
        log_weight = log_weight + annealer.increment(chains, point - 1, point)
        chains, _ = annealer.move(chains, point)
        if point in beta_at:
            require_numbers(log_weight)
            seen.append(_at(beta_at[point], log_weight, -chains.ratio.double()))
    return {name: torch.stack([values[name] for values in seen], 1) for name in seen[0]}


def _at(
    beta: float,
    log_weight: Float[Tensor, "chains batch"],
    distortion: Float[Tensor, "chains batch"],
) -> dict[str, Tensor]:
    """The three quantities with their errors, each from its chains' influence upon it."""
    weights = RunningWeights()
    weights.add(log_weight)
    relative = normalized_weights(log_weight)
    # A chain without weight counts for nothing, even where its distortion is infinite.
    distortion = torch.where(relative > 0, distortion, 0.0)
    mean = (relative * distortion).sum(0)
    # Of each chain upon K times D, log Z and R = -beta D - log Z; their means are 0.
    upon_distortion = relative * (distortion - mean)
    upon_log_normalizer = relative - 1 / len(relative)
    upon_rate = -beta * upon_distortion - upon_log_normalizer
    return {
        "distortion": mean,
        "distortion_error": _error(upon_distortion),
        "rate": -beta * mean - weights.log_mean,
        "rate_error": _error(upon_rate),
        "log_normalizer": weights.log_mean,
        "log_normalizer_error": weights.standard_error,
        "effective_sample_size": weights.effective_sample_size,
    }


def _error(influence: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    count = len(influence)
    # Influences add up to 0: K - 1 of them are free, as for the error of a mean.
    return (influence.square().sum(0) * count / (count - 1)).sqrt()


def _guide_columns(particles: Particles) -> dict[str, Float[Tensor, " batch"]]:
    rate = particles.log_proposal - particles.log_latent_prior
    named = {"guide_distortion": -particles.log_likelihood.double(), "guide_rate": rate.double()}
    means = {name: values.mean(0) for name, values in named.items()}
    return means | {f"{name}_noise": v.var(0) / len(v) for name, v in named.items()}
