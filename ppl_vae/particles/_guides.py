"""Guides moved datum by datum, averaged over data, and at other data's draws."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import pyro.distributions as dist
import torch
from jaxtyping import Float, Shaped
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
)

from ppl_vae.distributions import FullNormal, LowRankNormal, Normal
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._run import BatchGuide, Program, SiteRun
from ppl_vae.particles._sites import log_densities

_MOVABLE = dist.Normal, MultivariateNormal, LowRankMultivariateNormal


@runtime_checkable
class Refiner(Protocol):
    """Procedure that makes the guide for a batch, as :class:`~ppl_vae.refinement.Refinement` does.

    It must not change parameters, and what it finds for a datum must not depend on the others.
    """

    @property
    def description(self) -> str:
        """Description of the guide, for the name of a method."""

    @property
    def rows_per_datum(self) -> int:
        """Latents of each datum that are decoded at once, with a graph to differentiate."""

    def __call__(self, programs: Programs, x: Tensor, *, seed: int | None = 0) -> BatchGuide:
        """The guide for the batch."""


@final
@dataclass(frozen=True, eq=False)
class Offset:
    """Local variational parameters of a site: ``loc + l``, ``scale * exp(s)`` for each datum.

    Attributes:
        loc_offset: l, shape ``(*plates, batch, *event)``.
        log_scale_offset: s, of the same shape.
        event_dim: Number of dimensions of that shape that are the event.
    """

    loc_offset: Tensor
    log_scale_offset: Tensor
    event_dim: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Offsets of the location and of the log-scale."""
        return self.loc_offset, self.log_scale_offset

    def map(self, function: Callable[[Tensor], Tensor]) -> "Offset":
        """Apply a function to both tensors."""
        return Offset(function(self.loc_offset), function(self.log_scale_offset), self.event_dim)

    def rows(self, index: slice | Tensor) -> "Offset":
        """Select the offsets of some data."""
        at = (..., index, *[slice(None)] * self.event_dim)
        return self.map(lambda value: value[at])


@final
@dataclass(frozen=True, eq=False)
class OffsetGuide:
    """A Pyro guide with an offset at every site, for one batch.

    A site drawn given another is moved within its conditional: of a guide q(u|x) q(v|u, x), the
    second offset moves and scales q(v|u, x) for every u alike.

    Attributes:
        guide: The guide that is moved.
        offsets: Site name to offset, all of the same ``num_data`` data.
        num_data: Size of the batch.
    """

    guide: Program
    offsets: Mapping[str, Offset]
    num_data: int

    def __call__(self, x: Shaped[Tensor, "batch *event"]) -> Any:
        """Run the guide.

        Raises:
            ValueError: If x has not as many data as the offsets.
        """
        if len(x) != self.num_data:
            raise ValueError(
                f"this guide was refined for a batch of {self.num_data} data, got {len(x)}: each "
                "row of an offset belongs to one datum; refine the guide for these data."
            )
        with _OffsetMessenger(self.offsets):
            return self.guide(x)

    @property
    def tensors(self) -> list[Tensor]:
        """Offsets of the location and of the log-scale, site by site."""
        return [value for offset in self.offsets.values() for value in offset.tensors]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "OffsetGuide":
        """The same guide at other offsets, in the order of :attr:`tensors`."""
        pairs = zip(tensors[::2], tensors[1::2], self.offsets.items(), strict=True)
        offsets = {name: Offset(loc, scale, each.event_dim) for loc, scale, (name, each) in pairs}
        return OffsetGuide(self.guide, offsets, self.num_data)

    @staticmethod
    def joined(guides: Sequence["OffsetGuide"]) -> "OffsetGuide":
        """The guide for the data of several, one after another."""
        first = guides[0]
        dims = [-1 - each.event_dim for each in first.offsets.values() for _ in each.tensors]
        columns = zip(*(guide.tensors for guide in guides), strict=True)
        tensors = [torch.cat(each, dim) for each, dim in zip(columns, dims, strict=True)]
        count = sum(guide.num_data for guide in guides)
        return OffsetGuide(first.guide, first.offsets, count).with_tensors(tensors)

    def rows(self, index: slice | Tensor) -> "OffsetGuide":
        """The guide for the data ``x[index]`` alone."""
        offsets = {name: offset.rows(index) for name, offset in self.offsets.items()}
        # Counted by indexing, which serves slices, indices and masks alike.
        return OffsetGuide(self.guide, offsets, len(torch.arange(self.num_data)[index]))

    def detach(self) -> "OffsetGuide":
        """Detach the offsets from the graph."""
        offsets = {name: offset.map(Tensor.detach) for name, offset in self.offsets.items()}
        return OffsetGuide(self.guide, offsets, self.num_data)


def zero_offsets(guide: Program, x: Shaped[Tensor, "batch *event"]) -> OffsetGuide:
    """Wrap the guide with offsets of zero that need a gradient.

    Runs the guide once on ``x``.

    Raises:
        ValueError: If a site is no normal, stands outside the data plate, or a plate subsamples.
    """
    recorder = _NormalSites(len(x))
    with torch.no_grad(), recorder:
        guide(x)
    offsets = {}
    for name, site in recorder.sites.items():
        # Elements of an expanded tensor share memory; the clones below are leaves with their own.
        zeros = torch.zeros_like(_base(site).loc).expand(site.batch_shape + site.event_shape)
        loc_offset, log_scale_offset = (zeros.clone().requires_grad_() for _ in range(2))
        offsets[name] = Offset(loc_offset, log_scale_offset, len(site.event_shape))
    return OffsetGuide(guide, offsets, len(x))


class _OffsetMessenger(Messenger):  # type: ignore[misc, unused-ignore]
    """Messenger that moves and scales sites, inside the particle plate, outside the data plate."""

    def __init__(self, offsets: Mapping[str, Offset]) -> None:
        super().__init__()
        self._offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._offsets and not msg["is_observed"]:
            msg["fn"] = moved(msg["fn"], self._offsets[msg["name"]])


class _NormalSites(Messenger):  # type: ignore[misc, unused-ignore]
    """Records the distributions of latent sites, after checking that they can be moved."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self._num_data = num_data
        self.sites: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, site = msg["name"], msg["fn"]
        if site_is_subsample(msg):
            if site.subsample_size is not None:
                raise ValueError(f"plate {name!r} subsamples, so that its rows have no offsets.")
        elif not msg["is_observed"]:
            if not isinstance(_base(site), _MOVABLE):
                raise ValueError(
                    f"guide site {name!r} is a {type(_base(site)).__name__}, and refinement moves "
                    "Normal (with to_event), MultivariateNormal and LowRankMultivariateNormal "
                    "sites only."
                )
            # An offset belongs to one datum, so that the data must be the last dimension.
            if site.batch_shape[-1:] != (self._num_data,):
                raise ValueError(
                    f"guide site {name!r} has batch shape {tuple(site.batch_shape)}, expected "
                    f"{self._num_data} data at dim -1: sample it inside the data plate."
                )
            self.sites[name] = site


def moved(site: Any, offset: Offset) -> Any:
    """Move and scale a normal by both offsets.

    Of a correlated normal the rows of the covariance's factors are scaled: the standard deviations
    change, the correlations stay.
    """
    base = _base(site)
    loc, factor = base.loc + offset.loc_offset, offset.log_scale_offset.exp()
    rows = factor.unsqueeze(-1)
    if isinstance(base, MultivariateNormal):
        return FullNormal(loc, scale_tril=base.scale_tril * rows, validate_args=False)
    if isinstance(base, LowRankMultivariateNormal):
        diagonal = base.cov_diag * factor.square()
        return LowRankNormal(loc, base.cov_factor * rows, diagonal, validate_args=False)
    # Not validated: that would wait for the device at every step of a refinement.
    normal = Normal(loc, base.scale * factor, validate_args=False)
    return normal.to_event(len(site.event_shape))


def _base(site: Any) -> Any:
    while isinstance(site, Independent):
        site = site.base_dist
    return site


_ELEMENTS = 4_000_000
"""Largest product of points, data and dimensions at once."""


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
    # Every point meets every datum of a batch: memory grows with the product.
    at_once = max(1, _ELEMENTS // (min(batch_size, len(x)) * sum(sizes)))
    points = len(next(iter(latents.values())))
    chunks = []
    for start in range(0, points, at_once):
        some = {name: value[start : start + at_once] for name, value in latents.items()}
        runs = (_run_at(programs, batch.to(device), some) for batch in batches)
        chunks.append(_average(programs, runs, len(x)))
    marginals = [chunk.marginals for chunk in chunks if chunk.marginals is not None]
    joint = torch.cat([chunk.joint for chunk in chunks])
    return Aggregate(joint, torch.cat(marginals) if marginals else None)


def _run_at(programs: Programs, x: Tensor, latents: Mapping[str, Tensor]) -> SiteRun:
    """Run the guide with every point as a particle, alike for every datum."""
    expanded, dim = {}, programs.max_plate_nesting
    for name, value in latents.items():
        # (points, *plates, *event) gets the batch dimension that the data plate has.
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
        # In double: terms of a sum over all N data span many orders of magnitude.
        joint.append(torch.logsumexp(total.double(), 1))
        by_dimension = _by_dimension(ran, programs.num_dims)
        if by_dimension is not None:
            marginals.append(torch.logsumexp(by_dimension.double(), 1))
    mean = torch.logsumexp(torch.stack(joint), 0) - math.log(num_data)
    if not marginals:
        return Aggregate(mean, None)
    return Aggregate(mean, torch.logsumexp(torch.stack(marginals), 0) - math.log(num_data))


def _by_dimension(ran: SiteRun, num_dims: int) -> Float[Tensor, "points batch latent"] | None:
    """The log-density of each dimension, where they are independent given a datum."""
    (site, *others) = ran.sites.values()
    guide = site["fn"]
    vector = isinstance(guide, Independent) and guide.reinterpreted_batch_ndims == 1
    if others or num_dims > 2 or site["mask"] is not None or not vector:
        return None
    if guide.base_dist.event_shape:
        return None
    # Before the sum over the event: one value for each dimension.
    values: Tensor = guide.base_dist.log_prob(site["value"])
    return values


def cross_log_guide(
    programs: Programs, x: Shaped[Tensor, "batch *event"]
) -> Float[Tensor, "draws batch"]:
    """``log q(z_j|x_i)`` for one draw z_j ~ q(.|x_j) of each datum: row j, column i, in nats.

    The guide runs once more, on B particles: no decoder evaluation, and B^2 densities.

    Args:
        programs: With the guide; the model plays no part.
        x: A batch, shape ``(batch, *event)``.
    """
    drawn, dim = programs.run_guide(x, 1), programs.max_plate_nesting
    latents = {name: _as_particles(z, dim) for name, z in drawn.latents.items()}
    crossed = programs.run_guide(x, len(x), latents, drawn.subsamples)
    first, *others = log_densities(crossed, programs.num_dims).values()
    return sum(others, first)


def _as_particles(z: Tensor, data_dim: int) -> Tensor:
    """``(1, *plates, batch, *event)`` -> ``(batch, *plates, batch, *event)``, alike in all data."""
    shape = list(z.shape)
    shape[0] = shape[data_dim]
    return z.transpose(0, data_dim).expand(shape)
