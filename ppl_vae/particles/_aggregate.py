"""The guide averaged over data: q(z) = mean_i q(z|x_i), at given z."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.particles._programs import Programs
from ppl_vae.particles._sites import SiteRun, log_densities

_ELEMENTS = 4_000_000
"""Points times data times dimensions at once."""


@final
@dataclass(frozen=True)
class Aggregate:
    """Log-densities of points under the aggregate guide, in nats.

    Attributes:
        joint: log q(z), shape (points,).
        marginals: log q(z_j) of each dimension, shape (points, latent), where the guide is one site
            of independent dimensions; else None.
    """

    joint: Float[Tensor, " points"]
    marginals: Float[Tensor, "points latent"] | None


def aggregate_log_density(
    programs: Programs,
    x: Shaped[Tensor, "num_data *event"],
    latents: Mapping[str, Tensor],
    *,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> Aggregate:
    """``log (1/N) sum_i q(z|x_i)`` for given z, over all N data in batches.

    The guide runs once for each batch of data and of points: no decoder, points times N densities.

    Args:
        programs: With the guide; the model plays no part.
        x: All the data that the guide is averaged over.
        latents: Site name to points, shape ``(points, *plates, *event)``.
        batch_size: Data the guide sees at once.
        device: Where to compute; the data's device if not given.
    """
    device = x.device if device is None else torch.device(device)
    batches = x.split(batch_size)
    sizes = [value[0].numel() for value in latents.values()]
    at_once = max(1, _ELEMENTS // (min(batch_size, len(x)) * sum(sizes)))
    points = len(next(iter(latents.values())))
    parts = []
    for start in range(0, points, at_once):
        some = {name: value[start : start + at_once] for name, value in latents.items()}
        runs = (_run_at(programs, batch.to(device), some) for batch in batches)
        parts.append(_average(programs, runs, len(x)))
    return Aggregate(
        torch.cat([part.joint for part in parts]),
        _cat([part.marginals for part in parts]),
    )


def _run_at(programs: Programs, x: Tensor, latents: Mapping[str, Tensor]) -> SiteRun:
    """The guide with every point as a particle, alike for every datum."""
    expanded, dim = {}, programs.max_plate_nesting
    for name, value in latents.items():
        between = value.unsqueeze(dim)
        shape = list(between.shape)
        shape[dim] = len(x)
        expanded[name] = between.expand(shape)
    points = len(next(iter(latents.values())))
    return programs.run_guide(x, points, expanded)


def _average(programs: Programs, runs: Iterable[SiteRun], num_data: int) -> Aggregate:
    joint, marginals = [], []
    for ran in runs:
        total: Any = sum(log_densities(ran, programs.num_dims).values())
        joint.append(torch.logsumexp(total.double(), 1))
        by_dimension = _by_dimension(ran, programs.num_dims)
        if by_dimension is not None:
            marginals.append(torch.logsumexp(by_dimension.double(), 1))
    whole = torch.logsumexp(torch.stack(joint), 0) - math.log(num_data)
    if not marginals:
        return Aggregate(whole, None)
    return Aggregate(whole, torch.logsumexp(torch.stack(marginals), 0) - math.log(num_data))


def _by_dimension(ran: SiteRun, num_dims: int) -> Float[Tensor, "points batch latent"] | None:
    """The log-density of each dimension, where they are independent given a datum."""
    (site, *others) = ran.sites.values()
    guide = site["fn"]
    vector = isinstance(guide, Independent) and guide.reinterpreted_batch_ndims == 1
    if others or num_dims > 2 or site["mask"] is not None or not vector:
        return None
    if guide.base_dist.event_shape:
        return None
    values: Tensor = guide.base_dist.log_prob(site["value"])
    return values


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
