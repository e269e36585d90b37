"""Densities of sample sites, and checks that a model and a guide fit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.identity import MEASURES
from ppl_vae.particles._particles import OutsideSupportError, Particles, UnknownDensityError
from ppl_vae.particles._run import (
    PARTICLES,
    PlateNestingError,
    Site,
    SiteRun,
    data_plate_size,
    nesting_of,
    plate_size,
)
from ppl_vae.particles._supports import (
    TransformedInterval,
    bounds_of,
    core_of,
    in_words,
    leaves_its_base,
    support_of,
)
from ppl_vae.randomness import seeded


def log_densities(
    sites: SiteRun, num_dims: int, *, anywhere: bool = False
) -> dict[str, Float[Tensor, "particles batch"]]:
    """Unscaled log-density of each site, -inf where a support that depends on draws ends.

    With ``anywhere``, -inf outside of any support.
    """
    return {name: _log_density(s, num_dims, anywhere=anywhere) for name, s in sites.sites.items()}


def measure_of(modelled: SiteRun) -> str | None:
    """What p(x) is, one of :data:`~ppl_vae.identity.MEASURES`, by the supports of the data.

    Unknown where a distribution states no support.
    """
    observed = [site["fn"] for site in modelled.sites.values() if site["is_observed"]]
    supports = [support_of(fn) for fn in observed]
    if None in supports:
        return None
    kinds = {bool(support.is_discrete) for support in supports}
    probability, density, both = MEASURES
    return both if len(kinds) > 1 else probability if kinds == {True} else density


def changed_density(first: SiteRun, second: SiteRun, num_dims: int) -> tuple[str, float] | None:
    """First site whose log-densities differ between two runs, and by how many nats; None: none."""
    again = log_densities(second, num_dims)
    for name, value in log_densities(first, num_dims).items():
        if not torch.allclose(value, again[name], rtol=1e-4, atol=1e-4, equal_nan=True):
            return name, (value - again[name]).abs().max().item()
    return None


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
    for name in latent:
        # torch broadcasts (1,) and (3,), and the model alone would draw another z.
        ours, theirs = (tuple(s[name]["fn"].event_shape) for s in (guide_sites, model_sites))
        if ours != theirs:
            raise ValueError(
                f"latent site {name!r} is of shape {ours} in the guide and of shape {theirs} in "
                "the model: give it the same shape in both, as by .expand([n]).to_event(1)."
            )
    log_prior = {name: _log_density(model_sites[name], num_dims) for name in latent}
    first, *others = (_log_density(model_sites[name], num_dims) for name in observed)
    log_likelihood = sum(others, first)
    log_guide = log_densities(drawn, num_dims, anywhere=anywhere)
    return Particles(
        latents=drawn.latents,
        log_prior=log_prior,
        log_guide=log_guide,
        log_likelihood=log_likelihood,
        prior={name: model_sites[name]["fn"] for name in latent},
        guide={name: site["fn"] for name, site in guide_sites.items()},
        likelihood={name: model_sites[name]["fn"] for name in observed},
        masked=_masked(latent, model_sites, guide_sites),
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


def require_observed(model_sites: Mapping[str, Site]) -> None:
    """Check that a model observes a site."""
    if all(not site["is_observed"] for site in model_sites.values()):
        names = ", ".join(map(repr, model_sites)) or "none"
        raise ValueError(
            f"the model observes nothing: give its likelihood site obs=x (its sites: {names})."
        )


def _inner_plates(site: Site) -> dict[int, int]:
    """Dimension to size of the plates between the particles and the data."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    return {f.dim: int(f.size) for f in frames if f.dim < -1 and f.name != PARTICLES}


def _plates_in_words(plates: Mapping[int, int]) -> str:
    named = [f"a plate of {size} at dim {dim}" for dim, size in sorted(plates.items())]
    return " and ".join(named) or "no plate besides the data's"


def _labelled(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> dict[str, Site]:
    """Sites of both programs by their names in messages; a latent one is in each."""
    return {
        **{f"{name!r} of the guide": site for name, site in guide_sites.items()},
        **{f"{name!r} of the model": site for name, site in model_sites.items()},
    }


def _require_event(site: Site) -> None:
    """Check that values are of the size of the distribution's events.

    torch would broadcast them: data of one column under a decoder of two would count twice, and a
    decoder of one output would give every column of the data the same distribution.
    """
    event, shape = tuple(site["fn"].event_shape), tuple(site["value"].shape)
    rows, given = shape[: -len(event) or None], shape[-len(event) :] if event else ()
    shared = any(size == 1 != wanted for size, wanted in zip(event, given, strict=False))
    if event != given and (rows or not shared):
        what = "data" if site["is_observed"] else "draws"
        how = (
            f", as by .expand([..., {given[-1]}]) before .to_event({len(event)})" if shared else ""
        )
        raise ValueError(
            f"site {site['name']!r} is of shape {event}, and its {what} are of shape {given}: give "
            f"the prior, the networks' outputs and the data the same sizes{how}."
        )
    if shared:
        # The data's own dimension would stand as an event, and every datum be given all of them.
        raise ValueError(
            f"site {site['name']!r} is of shape {event} for each datum, and its data, of shape "
            f"{shape}, have no dimension besides the data's: give obs=x.unsqueeze(-1), or drop "
            f".to_event({len(event)})."
        )
    size = data_plate_size(site)
    if site["is_observed"] and rows and rows[-1] not in (1, size):
        raise ValueError(
            f"site {site['name']!r} is given {rows[-1]} rows of data where its plate has {size}: "
            "give it obs=x, the batch that the model is called with, and no other."
        )


def _log_density(
    site: Site, num_dims: int, *, anywhere: bool = False
) -> Float[Tensor, "particles batch"]:
    """The site's unscaled, masked log-density, dimensions between particles and data summed."""
    log_prob: Tensor | None
    _require_event(site)
    try:
        log_prob = _zero_outside(site, site["fn"].log_prob(site["value"]), num_dims)
    except (KeyError, NotImplementedError) as error:
        raise UnknownDensityError(
            f"site {site['name']!r} has no density at given values ({error}): a flow without an "
            "inverse has that of its own draws alone; give it an inverse, or, if it is the "
            "guide's, use an objective that keeps the draws as they are, such as ELBO(K) or "
            "IWAE(K)."
        ) from error
    # torch's validation raises where the value is outside the support: -inf, or a mistake.
    except ValueError as error:
        log_prob = _log_prob_or_zero_density(site["fn"], site["value"], num_dims, anywhere=anywhere)
        if log_prob is None and not site["is_observed"]:
            log_prob = _log_prob_or_nan(site["fn"], site["value"])
        if log_prob is None:
            _require_in_support(site, error)
            raise
    log_density: Tensor = scale_and_mask(log_prob, mask=site["mask"])
    ends = plate_size(site, dim=-num_dims), data_plate_size(site)
    if log_density.dim() != num_dims or (log_density.shape[0], log_density.shape[-1]) != ends:
        used = nesting_of([site])
        if used > num_dims:
            # A plate without a dimension of its own was put left of the particles.
            raise PlateNestingError(f"site {site['name']!r} stands in", used - 1, num_dims - 1)
        raise ValueError(
            f"site {site['name']!r} has log-densities of shape {tuple(log_density.shape)}, expected"
            f" (particles, batch) = {ends}: declare other dimensions with .to_event(n)."
        )
    # A dimension that is summed must be a plate of the site's own: else it would count twice.
    for dim in range(1 - num_dims, -1):
        size, own = log_density.shape[dim], plate_size(site, dim)
        if size not in (1, own):
            stands = "stands in no plate there" if own is None else f"its plate has {own}"
            raise ValueError(
                f"site {site['name']!r} has log-densities of shape {tuple(log_density.shape)}, "
                f"{size} values at dim {dim}, where it {stands}: sample it inside that plate, or "
                "declare the dimension with .to_event(n)."
            )
    # torch takes an empty tuple of dimensions for all of them.
    if num_dims == 2:
        return log_density
    return log_density.sum(tuple(range(1, num_dims - 1)))


def _require_in_support(site: Site, cause: ValueError) -> None:
    """Name values outside a support."""
    value, name, distribution = site["value"], site["name"], site["fn"]
    support = support_of(distribution)
    if support is None:
        return
    inside = support.check(value)
    if bool(inside.all()):
        if leaves_its_base(distribution, value):
            message = (
                f"site {name!r} has values that come from outside of its base distribution's "
                "support: give transforms of single numbers (event_dim=0) and .to_event(n) instead."
            )
            raise OutsideSupportError(message, name, site["is_observed"]) from None
        return
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    # A message of torch holds all values; ours word their own.
    if type(distribution).__module__.startswith("ppl_vae."):
        raise OutsideSupportError(str(cause), name, site["is_observed"]) from cause
    # One value stands for all particles where the data are the same for them.
    event = value.shape[value.dim() - len(site["fn"].event_shape) :]
    bad = value.expand(*inside.shape, *event)[~inside].flatten()
    few = ", ".join(f"{number:.4g}" for number in list(dict.fromkeys(bad.tolist()))[:3])
    message = (
        f"site {name!r} has values outside its support, {in_words(support)}: {few}. A guide must "
        "draw where the prior has support, and data must lie where the likelihood has."
    )
    raise OutsideSupportError(message, name, site["is_observed"]) from None


def _common_scale(sites: Mapping[str, Site]) -> float | Tensor:
    (first, *others) = sites
    reference: float | Tensor = sites[first]["scale"]
    for label in others:
        scale = sites[label]["scale"]
        # Identity first: a comparison of tensors waits for the device.
        if scale is not reference and not bool(torch.as_tensor(scale == reference).all()):
            raise ValueError(
                f"sites {first} and {label} have different scales, {reference} and {scale}: a "
                "log-weight needs one scale for all; shape the KL term in the objective instead."
            )
    return reference


def _masked(
    latent: Sequence[str], model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]
) -> frozenset[str]:
    """Latent sites under a mask, which has to be the same in both programs.

    A draw whose log q alone is left out would be weighed by p, and one whose log p is, by 1 / q.
    """
    found = []
    for name in latent:
        ours, theirs = guide_sites[name]["mask"], model_sites[name]["mask"]
        if ours is None and theirs is None:
            continue
        found.append(name)
        # Identity first: a comparison of tensors waits for the device.
        if ours is not theirs and not bool(torch.as_tensor(_mask(ours) == _mask(theirs)).all()):
            raise ValueError(
                f"latent site {name!r} is under another mask in the guide than in the model: a "
                "log-weight needs both densities of a draw; give both the same, or none."
            )
    return frozenset(found)


def _mask(given: Tensor | bool | None) -> Tensor | bool:
    return True if given is None else given


def _bounds_by_particle(support: Any, num_dims: int) -> list[Tensor]:
    """Bounds of a support that may differ between particles."""
    bounds = bounds_of(core_of(support)) or ()
    return [bound for bound in bounds if isinstance(bound, Tensor) and bound.dim() >= num_dims]


def _zero_outside(site: Site, log_prob: Tensor, num_dims: int) -> Tensor:
    """Log-density with -inf outside a support whose bounds may depend on draws.

    Where validation is off, as in annealing, distributions such as Pareto give any number there.
    """
    support, value = support_of(site["fn"]), site["value"]
    bounds = _bounds_by_particle(support, num_dims)
    if not bounds:
        return log_prob
    inside = support.check(value)
    if not isinstance(core_of(support), TransformedInterval):
        # NaN stays: it comes of values or bounds that are no numbers.
        return torch.where(inside | log_prob.isnan(), log_prob, -math.inf)
    # Here NaN may come of an inverse, such as the logarithm of a negative number.
    bad = value.isnan()
    for bound in bounds:
        bad = bad | bound.isnan()
    outside = ~(inside | _any_of_event(bad, site["fn"]))
    return _log_prob_but_for(site["fn"], value, outside, -math.inf)


def _log_prob_or_zero_density(
    distribution: Any, value: Tensor, num_dims: int, *, anywhere: bool
) -> Tensor | None:
    """Log-density with -inf at values outside the support; None where these are a mistake.

    They are none where the support depends on what was drawn before, as that of ``Uniform(0, z)``:
    its density at x is 0 under a draw z < x. With ``anywhere`` they are none, whatever the support,
    as of a guide's density at draws of the prior. NaN is a mistake.
    """
    support = support_of(distribution)
    # Bounds of one particle may differ between particles; of several they can be compared.
    of_draws = any(
        len(bound) == 1 or not bool((bound == bound[:1]).all())
        for bound in _bounds_by_particle(support, num_dims)
    )
    if support is None or not (anywhere or of_draws):
        return None
    outside = ~support.check(value)
    if not bool(outside.any()) or bool(value.isnan().any()):
        return None
    return _log_prob_but_for(distribution, value, outside, -math.inf)


def _log_prob_or_nan(distribution: Any, value: Tensor) -> Tensor | None:
    """Log-density with NaN where the value is; None where no value is NaN.

    A value that is no number comes of computing, and is no mistake about supports.
    """
    bad = value.isnan()
    if not bool(bad.any()):
        return None
    return _log_prob_but_for(distribution, value, _any_of_event(bad, distribution), math.nan)


def _any_of_event(flags: Tensor, distribution: Any) -> Tensor:
    """Whether any number of a value is flagged."""
    event_dim = len(distribution.event_shape)
    return flags.flatten(flags.dim() - event_dim).any(-1) if event_dim else flags


def _log_prob_but_for(distribution: Any, value: Tensor, left_out: Tensor, instead: float) -> Tensor:
    """Log-density, with a number instead of it at values that it is not asked at."""
    # A draw stands in for those: the distribution refuses them.
    with torch.no_grad(), seeded(0):
        inside = distribution.sample()
    if not bool(inside.isfinite().all()):
        # The distribution's own parameters are not finite.
        return torch.full(left_out.shape, math.nan, dtype=value.dtype, device=value.device)
    event = left_out.reshape(*left_out.shape, *[1] * len(distribution.event_shape))
    # Replaced before and after, as a gradient of NaN passes through one where alone.
    log_prob: Tensor = distribution.log_prob(torch.where(event, inside.to(value), value))
    return torch.where(left_out, instead, log_prob)
