"""One run of a Pyro program inside a particle plate, and the sample sites that it recorded."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

PARTICLES = "_particles"
Site = Mapping[str, Any]
Program = Callable[[Tensor], Any]
"""A Pyro model or guide: called on a batch, it runs sample statements."""


@final
class PlateNestingError(ValueError):
    """Error of programs with more plate dimensions, ``used``, than were announced."""

    def __init__(self, what: str, used: int, announced: int) -> None:
        super().__init__(
            f"{what} {used} plate dimensions, max_plate_nesting={announced} were announced: give "
            f"Programs(model, guide, max_plate_nesting={used})."
        )
        self.used = used


@runtime_checkable
class BatchGuide(Protocol):
    """A Pyro guide for one batch, and no other."""

    def __call__(self, x: Tensor) -> Any:
        """Run the guide."""

    def rows(self, index: slice | Tensor) -> "BatchGuide":
        """The guide for the data ``x[index]`` alone."""


def guide_of(guide: Program, index: slice | Tensor) -> Program:
    """The guide for the data ``x[index]``: itself, unless it is one for a batch."""
    return guide.rows(index) if isinstance(guide, BatchGuide) else guide


@final
@dataclass(frozen=True, eq=False)
class SiteRun:
    """The sample sites of one run of a program, by name, and its subsampled indices."""

    sites: Mapping[str, Site]
    subsamples: dict[str, Tensor]

    @property
    def latents(self) -> dict[str, Tensor]:
        """Latent site name to its draws."""
        return {name: s["value"] for name, s in self.sites.items() if not s["is_observed"]}

    @property
    def observed(self) -> dict[str, Tensor]:
        """Observed site name to its value, which a simulated run has drawn."""
        return {name: s["value"] for name, s in self.sites.items() if s["is_observed"]}

    @property
    def untrained(self) -> frozenset[str]:
        """Latent sites with parameters that need a gradient, and draws without one."""
        return frozenset(
            name
            for name, value in self.latents.items()
            for fn in [self.sites[name]["fn"]]
            if not fn.has_rsample and fn.log_prob(value.detach()).requires_grad
        )

    def at(self, latents: Mapping[str, Tensor]) -> "SiteRun":
        """Copy with the same distributions and other values."""
        sites = {name: {**site, "value": latents[name]} for name, site in self.sites.items()}
        return SiteRun(sites, self.subsamples)


def run(
    program: Program,
    x: Tensor,
    num_particles: int,
    max_plate_nesting: int,
    latents: Mapping[str, Tensor] | None = None,
    subsamples: Mapping[str, Tensor] | None = None,
    *,
    detach: bool = False,
    simulated: bool = False,
) -> SiteRun:
    """Run a program inside a particle plate, with given latents and subsampled indices.

    ``detach`` cuts each draw off the parameters; ``simulated`` draws the observed sites too.
    """
    recorder = _SiteRecorder(latents or {}, subsamples or {}, detach, simulated)
    try:
        # Left of all plates: particles are the first dimension of every log-density.
        with recorder, _ParticlePlate(PARTICLES, num_particles, dim=-1 - max_plate_nesting):
            program(x)
    except IndexError:
        # Which rows a plate draws decides whether the program fails at all.
        _require_few_rows(recorder, x)
        raise
    except RuntimeError as error:
        # A latent that all data share has one value for each particle, and no place for the data.
        for site in recorder.sites.values():
            data_plate_size(site)
        _require_one_type(recorder.sites.values(), x, error)
        raise
    except ValueError as error:
        # Plates that were not announced fail in many ways, all alike to the reader.
        alone = _SiteRecorder({}, {}, detach=False, simulated=True)
        with suppress(Exception), torch.no_grad(), alone:
            program(x)
        used = nesting_of(alone.sites.values())
        if used > max_plate_nesting:
            raise PlateNestingError("the programs use", used, max_plate_nesting) from error
        # A distribution prints every value that it refuses: thousands of lines.
        message = str(error).split(":\ntensor(", 1)[0]
        if message.startswith("Shape mismatch inside plate"):
            message += "; .to_event(n) takes the dimensions of one datum, no more and no fewer"
        raise type(error)(message) from error
    return SiteRun(recorder.sites, recorder.subsamples)


def require_all_rows(*runs: SiteRun) -> None:
    """Refuse programs that see some of the data only.

    Raises:
        ValueError: If a plate subsamples; names it.
    """
    for ran in runs:
        for name in ran.subsamples:
            raise ValueError(
                f"plate {name!r} subsamples: log p(x) is of every datum, so take all its rows."
            )


def require_few_rows(model: Program, guide: Program | None, x: Tensor) -> None:
    """Refuse a plate that draws its rows from more than there are, for programs that have failed.

    Raises:
        ValueError: If one does; names it.
    """
    drawn = _SiteRecorder({}, {}, detach=False, simulated=False)
    modelled = _SiteRecorder({}, drawn.subsamples, detach=False, simulated=True)
    for program, recorder in ((guide, drawn), (model, modelled)):
        with suppress(Exception), torch.no_grad(), recorder:
            if program is not None:
                program(x)
    _require_few_rows(drawn, x)
    _require_few_rows(modelled, x)


def _require_few_rows(recorder: "_SiteRecorder", x: Tensor) -> None:
    # By the plate's size and not by the rows drawn, which may be among those of x by chance.
    for name, size in recorder.drawn_from.items():
        if size > len(x):
            raise ValueError(
                f"plate {name!r} subsamples from more rows than the {len(x)} that come at once: "
                "data come in batches, so make it of len(x) and take all its rows."
            )


def used_nesting(model: Program, guide: Program | None, x: Tensor) -> int:
    """Plate dimensions that the programs use, the data plate included; both run once.

    Without a guide the model draws its latents itself.
    """
    drawn = _SiteRecorder({}, {}, detach=False, simulated=False)
    if guide is not None:
        with drawn:
            guide(x)
    replayed = SiteRun(drawn.sites, drawn.subsamples)
    modelled = _SiteRecorder(replayed.latents, replayed.subsamples, False, guide is None)
    with modelled:
        model(x)
    sites = [*drawn.sites.values(), *modelled.sites.values()]
    # Dimensions in no plate are refused as such, once they are kept apart from the particles.
    return max([nesting_of(sites), *(len(site["fn"].batch_shape) for site in sites)])


def nesting_of(sites: Iterable[Site]) -> int:
    frames = [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    return max((-frame.dim for frame in frames), default=1)


def _require_one_type(sites: Iterable[Site], x: Tensor, error: RuntimeError) -> None:
    """Name a latent of another type than the data, where torch refused to compute with both."""
    if "dtype" not in str(error):
        return
    for site in sites:
        value = site["value"]
        if value.is_floating_point() and x.is_floating_point() and value.dtype != x.dtype:
            raise TypeError(
                f"site {site['name']!r} draws in {value.dtype} where the data are {x.dtype}, and "
                "the networks take one type: give all parameters of the distribution the data's."
            ) from error


def data_plate_size(site: Site) -> int:
    """Number of data of a site, which must stand inside the data plate."""
    size = plate_size(site, dim=-1)
    if size is None:
        raise ValueError(
            f"site {site['name']!r} stands outside the data plate, `with pyro.plate('data', "
            "len(x)):` at dim -1: put what belongs to each datum inside; what all data share has "
            "no log p(x) of one datum: make it a parameter."
        )
    return size


def plate_size(site: Site, dim: int) -> int | None:
    """Size of the plate at a dimension, if the site stands in one."""
    frames = (frame for frame in site["cond_indep_stack"] if frame.vectorized)
    return next((int(frame.size) for frame in frames if frame.dim == dim), None)


class _ParticlePlate(IndepMessenger):  # type: ignore[misc, unused-ignore]
    """An outermost plate for the particles; ``pyro.plate`` without its subsampling."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        # A site's distribution is expanded to the plates' sizes, so that draws are independent.
        BroadcastMessenger._pyro_sample(msg)


class _SiteRecorder(Messenger):  # type: ignore[misc, unused-ignore]
    """Records sample sites, after setting those named in ``values`` (and subsampled indices)."""

    def __init__(
        self,
        values: Mapping[str, Tensor],
        subsamples: Mapping[str, Tensor],
        detach: bool,
        simulated: bool,
    ) -> None:
        super().__init__()
        self._values = values
        self._replayed_subsamples = subsamples
        self._detach, self._simulated = detach, simulated
        self.sites: dict[str, Site] = {}
        self.subsamples: dict[str, Tensor] = {}
        self.drawn_from: dict[str, int] = {}

    def _pyro_sample(self, msg: Any) -> None:
        values = self._replayed_subsamples if site_is_subsample(msg) else self._values
        if msg["name"] in values and not msg["is_observed"]:
            msg["value"] = values[msg["name"]]
            msg["done"] = True
        elif self._simulated and msg["is_observed"] and not msg["infer"].get("_deterministic"):
            # Pyro draws a site that is neither done nor observed; infer tells it from a latent one.
            msg["value"], msg["done"], msg["is_observed"] = None, False, False
            msg["infer"] = {**msg["infer"], "_simulated": True}

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            # A plate that takes all its rows asks for them too, with a size of None.
            if msg["fn"].subsample_size is not None:
                self.subsamples[name] = msg["value"]
                self.drawn_from[name] = int(msg["fn"].size)
        elif not msg["infer"].get("_deterministic"):
            if name in self.sites:
                raise ValueError(f"site {name!r} occurs twice in one run: site names are unique.")
            if msg["infer"].get("enumerate"):
                raise ValueError(
                    f"site {name!r} asks for enumeration, which is not done here: drop "
                    "infer={'enumerate': ...} or config_enumerate, or use TraceEnum_ELBO of Pyro."
                )
            if self._detach and not msg["is_observed"]:
                # In the message, so that sites drawn given this one see no gradient either.
                msg["value"] = msg["value"].detach()
            simulated = msg["infer"].get("_simulated", False)
            self.sites[name] = {**msg, "is_observed": msg["is_observed"] or simulated}
