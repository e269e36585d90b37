"""A guide whose normal sites are moved and stretched, each datum by its own amount."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Shaped
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from ppl_vae.distributions import FullNormal, LowRankNormal
from ppl_vae.particles._sites import Program

_MOVABLE = Normal, MultivariateNormal, LowRankMultivariateNormal


@final
@dataclass(frozen=True, eq=False)
class Offset:
    """What is added to one site: ``loc + shift``, ``scale * exp(log_stretch)``.

    Attributes:
        shift: Shape ``(*plates, batch, *event)``.
        log_stretch: Of the same shape.
        event_dim: How many dimensions of that shape are the event.
    """

    shift: Tensor
    log_stretch: Tensor
    event_dim: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.shift, self.log_stretch

    def map(self, function: Callable[[Tensor], Tensor]) -> "Offset":
        """The offset with a function of both tensors in their place."""
        return Offset(function(self.shift), function(self.log_stretch), self.event_dim)

    def rows(self, index: slice | Tensor) -> "Offset":
        """The part of some data."""
        at = (..., index, *[slice(None)] * self.event_dim)
        return self.map(lambda value: value[at])


@final
@dataclass(frozen=True, eq=False)
class OffsetGuide:
    """A Pyro guide with an offset at every site, for one batch.

    A site drawn given another is moved within its conditional: of a guide q(u|x) q(v|u, x), the
    second offset moves and stretches q(v|u, x) for every u alike.

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

    def rows(self, index: slice | Tensor) -> "OffsetGuide":
        """The guide for the data ``x[index]`` alone."""
        offsets = {name: offset.rows(index) for name, offset in self.offsets.items()}
        return OffsetGuide(self.guide, offsets, len(torch.arange(self.num_data)[index]))

    def detach(self) -> "OffsetGuide":
        """The guide with its offsets held fixed."""
        offsets = {name: offset.map(Tensor.detach) for name, offset in self.offsets.items()}
        return OffsetGuide(self.guide, offsets, self.num_data)


def zero_offsets(guide: Program, x: Shaped[Tensor, "batch *event"]) -> OffsetGuide:
    """The guide as it is, with offsets of zero that a gradient can be taken of.

    Runs the guide once on ``x``.

    Raises:
        ValueError: If a site is no normal, stands outside the data plate, or a plate subsamples.
    """
    recorder = _NormalSites(len(x))
    with torch.no_grad(), recorder:
        guide(x)
    offsets = {}
    for name, site in recorder.sites.items():
        zeros = torch.zeros_like(_loc(site)).expand(site.batch_shape + site.event_shape)
        shift, log_stretch = (zeros.clone().requires_grad_() for _ in range(2))
        offsets[name] = Offset(shift, log_stretch, len(site.event_shape))
    return OffsetGuide(guide, offsets, len(x))


class _OffsetMessenger(Messenger):  # type: ignore[misc, unused-ignore]
    """Moves and stretches sites. It stands inside the particle plate, outside the data plate."""

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
            if site.batch_shape[-1:] != (self._num_data,):
                raise ValueError(
                    f"guide site {name!r} has batch shape {tuple(site.batch_shape)}, expected "
                    f"{self._num_data} data at dim -1: sample it inside the data plate."
                )
            self.sites[name] = site


def moved(site: Any, offset: Offset) -> Any:
    """The normal with ``loc + shift`` and ``scale * exp(log_stretch)``.

    Of a correlated normal the rows of the covariance's factors are stretched: the standard
    deviations change, the correlations stay.
    """
    base = _base(site)
    loc, stretch = _loc(site) + offset.shift, offset.log_stretch.exp()
    rows = stretch.unsqueeze(-1)
    if isinstance(base, MultivariateNormal):
        return FullNormal(loc, scale_tril=base.scale_tril * rows, validate_args=False)
    if isinstance(base, LowRankMultivariateNormal):
        diagonal = base.cov_diag * stretch.square()
        return LowRankNormal(loc, base.cov_factor * rows, diagonal, validate_args=False)
    normal = dist.Normal(loc, base.scale * stretch, validate_args=False)
    return normal.to_event(len(site.event_shape))


def _base(site: Any) -> Any:
    while isinstance(site, Independent):
        site = site.base_dist
    return site


def _loc(site: Any) -> Tensor:
    loc: Tensor = _base(site).loc
    return loc
