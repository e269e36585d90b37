"""One run of a Pyro program, and what its sample sites say."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.particles._particles import Particles
from ppl_vae.particles._supports import in_words, log_prob_or_nan, log_prob_or_zero_density

_PARTICLES = "_particles"
Site = Mapping[str, Any]
Program = Callable[[Tensor], Any]
"""A Pyro model or guide: called on a batch, it runs sample statements."""


@final
class UnknownDensityError(ValueError):
    """A distribution that cannot say its density at given values."""


@final
class PlateNestingError(ValueError):
    """Programs that use more plate dimensions than were announced.

    Attributes:
        used: How many they use.
    """

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
@dataclass(frozen=True)
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
        """Observed site name to its value (of a simulated run: drawn)."""
        return {name: s["value"] for name, s in self.sites.items() if s["is_observed"]}

    @property
    def untrained(self) -> frozenset[str]:
        """Latent sites with parameters that need a gradient, and draws without one."""
        held = {n: s["fn"] for n, s in self.sites.items() if not s["is_observed"]}
        return frozenset(
            name
            for name, fn in held.items()
            if not fn.has_rsample and fn.log_prob(self.sites[name]["value"].detach()).requires_grad
        )

    def at(self, latents: Mapping[str, Tensor]) -> "SiteRun":
        """The same distributions with other values."""
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
        with recorder, _ParticlePlate(_PARTICLES, num_particles, dim=-1 - max_plate_nesting):
            program(x)
    except ValueError as error:
        _require_nesting(program, x, max_plate_nesting, error)
        # A distribution prints every value that it refuses: thousands of lines.
        raise type(error)(str(error).split(":\ntensor(", 1)[0]) from error
    return SiteRun(recorder.sites, recorder.subsamples)


def _require_nesting(
    program: Program, x: Tensor, max_plate_nesting: int, cause: ValueError
) -> None:
    """Say that a failure comes of more plates than were announced, if it does."""
    alone = _SiteRecorder({}, {}, detach=False, simulated=True)
    with suppress(Exception), torch.no_grad(), alone:
        program(x)
    used = _nesting_of(alone.sites.values())
    if used > max_plate_nesting:
        raise PlateNestingError("the programs use", used, max_plate_nesting) from cause


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
    """Refuse a plate that draws its rows from more than there are; the programs may fail on them.

    Raises:
        ValueError: If one does; names it.
    """
    drawn = _SiteRecorder({}, {}, detach=False, simulated=False)
    modelled = _SiteRecorder({}, drawn.subsamples, detach=False, simulated=True)
    for program, recorder in ((guide, drawn), (model, modelled)):
        with suppress(Exception), torch.no_grad(), recorder:
            if program is not None:
                program(x)
    for name, index in {**drawn.subsamples, **modelled.subsamples}.items():
        if int(index.max()) >= len(x):
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
    return max([_nesting_of(sites), *(len(site["fn"].batch_shape) for site in sites)])


def _nesting_of(sites: Iterable[Site]) -> int:
    frames = [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    return max((-frame.dim for frame in frames), default=1)


class _ParticlePlate(IndepMessenger):  # type: ignore[misc, unused-ignore]
    """An outermost plate for the particles; ``pyro.plate`` without its subsampling."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
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

    def _pyro_sample(self, msg: Any) -> None:
        values = self._replayed_subsamples if site_is_subsample(msg) else self._values
        if msg["name"] in values and not msg["is_observed"]:
            msg["value"] = values[msg["name"]]
            msg["done"] = True
        elif self._simulated and msg["is_observed"] and not msg["infer"].get("_deterministic"):
            msg["value"], msg["done"], msg["is_observed"] = None, False, False
            msg["infer"] = {**msg["infer"], "_simulated": True}

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            # A plate that takes all its rows asks for them too, with a size of None.
            if msg["fn"].subsample_size is not None:
                self.subsamples[name] = msg["value"]
        elif not msg["infer"].get("_deterministic"):
            if name in self.sites:
                raise ValueError(f"site {name!r} occurs twice in one run: site names are unique.")
            if msg["infer"].get("enumerate"):
                raise ValueError(
                    f"site {name!r} asks for enumeration, which is not done here: drop "
                    "infer={'enumerate': ...} or config_enumerate, or use TraceEnum_ELBO of Pyro."
                )
            if self._detach and not msg["is_observed"]:
                msg["value"] = msg["value"].detach()
            simulated = msg["infer"].get("_simulated", False)
            self.sites[name] = {**msg, "is_observed": msg["is_observed"] or simulated}


def log_densities(
    sites: SiteRun, num_dims: int, *, anywhere: bool = False
) -> dict[str, Float[Tensor, "particles batch"]]:
    """Site name to its unscaled log-density, -inf where a support that depends on draws ends.

    With ``anywhere``, -inf outside of any support.
    """
    return {name: _log_density(s, num_dims, anywhere=anywhere) for name, s in sites.sites.items()}


def assemble(
    modelled: SiteRun,
    drawn: SiteRun,
    num_dims: int,
    paths: dict[str, Tensor] | None = None,
    *,
    anywhere: bool = False,
) -> Particles:
    """The particles of a run of the model at the draws of a run of the guide.

    ``anywhere`` says that the draws are others', and the guide's density at them may be 0.
    """
    model_sites, guide_sites = modelled.sites, drawn.sites
    _check_sites_match(model_sites, guide_sites)
    latent = [name for name, site in model_sites.items() if not site["is_observed"]]
    observed = [name for name, site in model_sites.items() if site["is_observed"]]
    log_prior = {name: _log_density(model_sites[name], num_dims) for name in latent}
    log_likelihood = _log_density(model_sites[observed[0]], num_dims)
    for name in observed[1:]:
        log_likelihood = log_likelihood + _log_density(model_sites[name], num_dims)
    log_guide = log_densities(drawn, num_dims, anywhere=anywhere)
    for name in latent:
        _require_same_event(name, guide_sites[name]["fn"], model_sites[name]["fn"])
    return Particles(
        latents=drawn.latents,
        log_prior=log_prior,
        log_guide=log_guide,
        log_likelihood=log_likelihood,
        prior={name: model_sites[name]["fn"] for name in latent},
        guide={name: site["fn"] for name, site in guide_sites.items()},
        likelihood={name: model_sites[name]["fn"] for name in observed},
        masked=frozenset(
            name
            for name in latent
            if model_sites[name]["mask"] is not None or guide_sites[name]["mask"] is not None
        ),
        scale=_common_scale(_labelled(model_sites, guide_sites)),
        paths=paths,
    )


def _check_sites_match(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> None:
    for name, site in guide_sites.items():
        if site["is_observed"]:
            raise ValueError(f"guide site {name!r} is observed: a guide only has latent sites.")
    require_observed(model_sites)
    for name in guide_sites:
        if name not in model_sites or model_sites[name]["is_observed"]:
            raise ValueError(f"guide site {name!r} is not a latent site of the model.")
    for name, site in model_sites.items():
        if not site["is_observed"] and name not in guide_sites:
            raise ValueError(
                f"the guide misses the model's latent site {name!r}: sample it there, or, if it "
                "is data, give it obs=x in the model."
            )
    sites = _labelled(model_sites, guide_sites)
    sizes = {label: data_plate_size(site) for label, site in sites.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{label} {size}" for label, size in sizes.items())
        raise ValueError(f"sites disagree on the size of the data plate: {listed}.")
    for name, site in guide_sites.items():
        ours, theirs = _inner_plates(site), _inner_plates(model_sites[name])
        if ours != theirs:
            raise ValueError(
                f"latent site {name!r} stands in {_plates_in_words(ours)} in the guide and in "
                f"{_plates_in_words(theirs)} in the model: give it the same plates in both."
            )


def _require_same_event(name: str, guide: Any, prior: Any) -> None:
    """Check that both programs draw a latent of one shape: the model alone would draw another z."""
    ours, theirs = tuple(guide.event_shape), tuple(prior.event_shape)
    if ours != theirs:
        raise ValueError(
            f"latent site {name!r} is of shape {ours} in the guide and of shape {theirs} in the "
            "model: give it the same shape in both, as by .expand([n]).to_event(1)."
        )


def require_observed(model_sites: Mapping[str, Site]) -> None:
    """Check that a model has data.

    Raises:
        ValueError: If no site is observed.
    """
    if all(not site["is_observed"] for site in model_sites.values()):
        names = ", ".join(map(repr, model_sites)) or "none"
        raise ValueError(
            f"the model observes nothing: give its likelihood site obs=x (its sites: {names})."
        )


def _inner_plates(site: Site) -> dict[int, int]:
    """Dimension to size of the plates between the particles and the data."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    return {f.dim: int(f.size) for f in frames if f.dim < -1 and f.name != _PARTICLES}


def _plates_in_words(plates: Mapping[int, int]) -> str:
    named = [f"a plate of {size} at dim {dim}" for dim, size in sorted(plates.items())]
    return " and ".join(named) or "no plate besides the data's"


def _labelled(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> dict[str, Site]:
    """Every site of both programs; a latent one is in each."""
    return {
        **{f"{name!r} of the guide": site for name, site in guide_sites.items()},
        **{f"{name!r} of the model": site for name, site in model_sites.items()},
    }


def data_plate_size(site: Site) -> int:
    """How many data a site has.

    Raises:
        ValueError: If it stands outside the data plate.
    """
    size = _plate_size(site, dim=-1)
    if size is None:
        raise ValueError(
            f"site {site['name']!r} stands outside the data plate, `with pyro.plate('data', "
            "len(x)):` at dim -1: put what belongs to each datum inside; what all data share has "
            "no log p(x) of one datum: make it a parameter."
        )
    return size


def _plate_size(site: Site, dim: int) -> int | None:
    frames = (frame for frame in site["cond_indep_stack"] if frame.vectorized)
    return next((int(frame.size) for frame in frames if frame.dim == dim), None)


def _require_event(site: Site) -> None:
    """Check that values are of the size of the distribution's events; one parameter may be of all.

    torch would broadcast values too: data of one column under a decoder of two would count twice.
    """
    event, shape = tuple(site["fn"].event_shape), tuple(site["value"].shape)
    rows, given = shape[: -len(event) or None], shape[-len(event) :] if event else ()
    shared = any(size == 1 != wanted for size, wanted in zip(event, given, strict=False))
    if len(given) < len(event) or any(
        size not in (1, wanted) for size, wanted in zip(event, given, strict=True)
    ):
        what = "data" if site["is_observed"] else "draws"
        raise ValueError(
            f"site {site['name']!r} is of shape {event}, and its {what} are of shape {given}: give "
            "the prior, the networks' outputs and the data the same sizes."
        )
    if shared and not rows:
        # The data's own dimension would stand as an event, and every datum be given all of them.
        raise ValueError(
            f"site {site['name']!r} is of shape {event} for each datum, and its data, of shape "
            f"{shape}, have no dimension besides the data's: give obs=x.unsqueeze(-1), or drop "
            f".to_event({len(event)})."
        )


def _log_density(
    site: Site, num_dims: int, *, anywhere: bool = False
) -> Float[Tensor, "particles batch"]:
    """The site's unscaled, masked log-density, dimensions between particles and data summed."""
    log_prob: Tensor | None
    _require_event(site)
    try:
        log_prob = site["fn"].log_prob(site["value"])
    except (KeyError, NotImplementedError) as error:
        raise UnknownDensityError(
            f"site {site['name']!r} has no density at given values ({error}): a flow without an "
            "inverse has that of its own draws alone; give it an inverse, or, if it is the "
            "guide's, use an objective that keeps the draws as they are, such as elbo:K or iwae:K."
        ) from error
    except ValueError:
        log_prob = log_prob_or_zero_density(site["fn"], site["value"], num_dims, anywhere=anywhere)
        if log_prob is None and not site["is_observed"]:
            log_prob = log_prob_or_nan(site["fn"], site["value"])
        if log_prob is None:
            # The message of a distribution of torch holds all values; ours word their own.
            if not _is_own(site["fn"]):
                _require_in_support(site)
            raise
    log_density: Tensor = scale_and_mask(log_prob, mask=site["mask"])
    ends = _plate_size(site, dim=-num_dims), data_plate_size(site)
    if log_density.dim() != num_dims or (log_density.shape[0], log_density.shape[-1]) != ends:
        used = _nesting_of([site])
        if used > num_dims:
            # A plate without a dimension of its own was put left of the particles.
            raise PlateNestingError(f"site {site['name']!r} stands in", used - 1, num_dims - 1)
        raise ValueError(
            f"site {site['name']!r} has log-densities of shape {tuple(log_density.shape)}, expected"
            f" (particles, batch) = {ends}: declare other dimensions with .to_event(n)."
        )
    if num_dims == 2:
        return log_density
    _require_own_plates(site, log_density)
    return log_density.sum(tuple(range(1, num_dims - 1)))


def _is_own(distribution: Any) -> bool:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__module__.startswith("ppl_vae.")


def _require_in_support(site: Site) -> None:
    value = site["value"]
    try:
        support = site["fn"].support
        inside = support.check(value)
    except NotImplementedError:
        return
    if bool(inside.all()):
        return
    # One value stands for all particles where the data are the same for them.
    event = value.shape[value.dim() - len(site["fn"].event_shape) :]
    bad = value.expand(*inside.shape, *event)[~inside].flatten()
    few = ", ".join(f"{number:.4g}" for number in list(dict.fromkeys(bad.tolist()))[:3])
    raise ValueError(
        f"site {site['name']!r} has values outside its support, {in_words(support)}: {few}. A "
        "guide must draw where the prior has support, and data must lie where the likelihood has."
    ) from None


def _require_own_plates(site: Site, log_density: Tensor) -> None:
    """A dimension that is summed must be a plate of the site's own: else it would count twice."""
    for dim in range(1 - log_density.dim(), -1):
        size, own = log_density.shape[dim], _plate_size(site, dim)
        if size not in (1, own):
            stands = "stands in no plate there" if own is None else f"its plate has {own}"
            raise ValueError(
                f"site {site['name']!r} has log-densities of shape {tuple(log_density.shape)}, "
                f"{size} values at dim {dim}, where it {stands}: sample it inside that plate, or "
                "declare the dimension with .to_event(n)."
            )


def _common_scale(sites: Mapping[str, Site]) -> float | Tensor:
    (first, *others) = sites
    reference: float | Tensor = sites[first]["scale"]
    for label in others:
        scale = sites[label]["scale"]
        if scale is not reference and not bool(torch.as_tensor(scale == reference).all()):
            raise ValueError(
                f"sites {first} and {label} have different scales, {reference} and {scale}: a "
                "log-weight needs one scale for all; shape the KL term in the objective instead."
            )
    return reference
