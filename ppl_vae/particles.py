"""Particles: K draws of the latents for each of B data, with every log-density kept apart.

``draw_particles`` is the only place in the package that reads a Pyro program's sample sites. Every
objective, estimator and diagnostic is a function of the :class:`Particles` it returns.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Site = Mapping[str, Any]
Program = Callable[[Tensor], Any]
"""A Pyro model or guide: called on a batch, it runs sample statements."""


@dataclass(frozen=True)
class Particles:
    """K draws z_k ~ q(z|x) for each of B data. All densities are unscaled and in nats.

    Attributes:
        latents: Site name to draws, shape ``(particles, batch, *event)``, in the guide's order.
        log_prior: Site name to log p(z_site | ...), shape (particles, batch), in the model's order.
        log_guide: Site name to log q(z_site | ...), shape (particles, batch), in the guide's order.
        log_likelihood: log p(x|z), summed over the observed sites, shape (particles, batch).
        prior: Site name to the distribution the model gave it.
        guide: Site name to the distribution the guide gave it.
        likelihood: Observed site name to the distribution the model gave it.
        masked: Latent sites under a mask, whose closed-form KL would ignore it.
        scale: What plates and ``poutine.scale`` multiply every log-density by.
    """

    latents: dict[str, Tensor]
    log_prior: dict[str, Float[Tensor, "particles batch"]]
    log_guide: dict[str, Float[Tensor, "particles batch"]]
    log_likelihood: Float[Tensor, "particles batch"]
    prior: dict[str, dist.Distribution]
    guide: dict[str, dist.Distribution]
    likelihood: dict[str, dist.Distribution]
    masked: frozenset[str]
    scale: float | Tensor

    @cached_property
    def log_weight(self) -> Float[Tensor, "particles batch"]:
        """``log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x)``, shape (particles, batch)."""
        total = self.log_likelihood
        for log_prior in self.log_prior.values():
            total = total + log_prior
        for log_guide in self.log_guide.values():
            total = total - log_guide
        return total

    @property
    def num_particles(self) -> int:
        """K."""
        return self.log_likelihood.shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.log_likelihood.shape[1]

    def require_finite(self) -> None:
        """Check every log-density.

        Raises:
            ValueError: If one is NaN or infinite; names the site, the density and the datum.
        """
        # One sum looks at all densities at once; the sites are searched only after a failure.
        if math.isfinite(self.log_weight.detach().sum().item()):
            return
        named = {
            **{f"site {name!r} of the guide": value for name, value in self.log_guide.items()},
            **{f"site {name!r} of the model": value for name, value in self.log_prior.items()},
            f"observed site {', '.join(map(repr, self.likelihood))}": self.log_likelihood,
        }
        for where, value in named.items():
            bad = ~value.detach().isfinite()
            if bad.any():
                particle, datum = (int(index) for index in bad.nonzero()[0])
                raise ValueError(
                    f"log-density {value[particle, datum].item()} at {where} (datum {datum} of the "
                    "batch): look for diverged parameters (lower the learning rate, clip "
                    "gradients) or data outside the distribution's support."
                )

    def require_reparameterized(self) -> None:
        """Check that every draw is a differentiable function of the guide's parameters.

        Raises:
            ValueError: If a site is not; its pathwise gradient would silently be 0.
        """
        for name, guide in self.guide.items():
            if not guide.has_rsample:
                raise ValueError(
                    f"guide site {name!r} ({type(guide).__name__}) has no reparameterised sampler, "
                    "so this objective's guide gradient would silently lack a term: use a "
                    "reparameterised guide, or pyro.infer.TraceGraph_ELBO."
                )


def draw_particles(
    model: Program,
    guide: Program,
    x: Float[Tensor, "batch *event"],
    num_particles: int = 1,
    *,
    max_plate_nesting: int = 1,
    check_finite: bool = True,
) -> Particles:
    """Run the guide, then the model on the guide's draws, once, for all particles together.

    Args:
        model: A Pyro program; its latent and observed sites stand in a data plate at dim -1.
        guide: A Pyro program over the same latent sites.
        x: A batch, shape ``(batch, *event)``, handed to both.
        num_particles: K.
        max_plate_nesting: How many plate dimensions the programs use, the data plate included.
            Dimensions left of the data plate are summed.
        check_finite: Raise on a non-finite log-density. It waits for the device, so a step that is
            captured or runs ahead on a GPU turns it off.

    Returns:
        Per-site log-densities of shape (particles, batch), unscaled.

    Raises:
        ValueError: If a site stands outside the data plate, the guide misses a latent or has one
            too many, scales differ between sites, or a log-density is not finite. Names the site.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles must be 1 or more, got {num_particles}.")
    particle_plate = _ParticlePlate("_particles", num_particles, dim=-1 - max_plate_nesting)
    guide_sites = _SiteRecorder({}, {})
    with guide_sites, particle_plate:
        guide(x)
    latents = {
        name: site["value"] for name, site in guide_sites.samples.items() if not site["is_observed"]
    }
    model_sites = _SiteRecorder(latents, guide_sites.subsamples)
    with model_sites, particle_plate:
        model(x)
    particles = _assemble(model_sites.samples, guide_sites.samples, max_plate_nesting + 1)
    if check_finite:
        particles.require_finite()
    return particles


class _ParticlePlate(IndepMessenger):  # type: ignore[misc, unused-ignore]
    """An outermost plate for the particles; ``pyro.plate`` without its subsampling."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        BroadcastMessenger._pyro_sample(msg)


class _SiteRecorder(Messenger):  # type: ignore[misc, unused-ignore]
    """Records sample sites, after setting those named in ``values`` (and subsampled indices)."""

    def __init__(self, values: Mapping[str, Tensor], subsamples: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values
        self._replayed_subsamples = subsamples
        self.samples: dict[str, Site] = {}
        self.subsamples: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        values = self._replayed_subsamples if site_is_subsample(msg) else self._values
        if msg["name"] in values and not msg["is_observed"]:
            msg["value"] = values[msg["name"]]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            self.subsamples[name] = msg["value"]
        elif not msg["infer"].get("_deterministic"):
            if name in self.samples:
                raise ValueError(f"site {name!r} occurs twice in one run: site names are unique.")
            self.samples[name] = dict(msg)


def _assemble(
    model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site], num_dims: int
) -> Particles:
    _check_sites_match(model_sites, guide_sites)
    latent = [name for name, site in model_sites.items() if not site["is_observed"]]
    observed = [name for name, site in model_sites.items() if site["is_observed"]]
    log_prior = {name: _log_density(model_sites[name], num_dims) for name in latent}
    log_guide = {name: _log_density(site, num_dims) for name, site in guide_sites.items()}
    log_likelihood = _log_density(model_sites[observed[0]], num_dims)
    for name in observed[1:]:
        log_likelihood = log_likelihood + _log_density(model_sites[name], num_dims)
    return Particles(
        latents={name: site["value"] for name, site in guide_sites.items()},
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
    )


def _check_sites_match(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> None:
    for name, site in guide_sites.items():
        if site["is_observed"]:
            raise ValueError(f"guide site {name!r} is observed: a guide only has latent sites.")
        if name not in model_sites or model_sites[name]["is_observed"]:
            raise ValueError(f"guide site {name!r} is not a latent site of the model.")
    for name, site in model_sites.items():
        if not site["is_observed"] and name not in guide_sites:
            raise ValueError(f"the guide misses the model's latent site {name!r}: sample it there.")
    if all(not site["is_observed"] for site in model_sites.values()):
        raise ValueError("the model observes nothing: give its likelihood site obs=x.")
    sites = _labelled(model_sites, guide_sites)
    sizes = {label: _data_plate_size(site) for label, site in sites.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{label} {size}" for label, size in sizes.items())
        raise ValueError(f"sites disagree on the size of the data plate: {listed}.")


def _labelled(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> dict[str, Site]:
    """Every site of both programs; a latent one is in each."""
    return {
        **{f"{name!r} of the guide": site for name, site in guide_sites.items()},
        **{f"{name!r} of the model": site for name, site in model_sites.items()},
    }


def _data_plate_size(site: Site) -> int:
    size = _plate_size(site, dim=-1)
    if size is None:
        raise ValueError(
            f"site {site['name']!r} stands outside the data plate: sample it inside "
            "`with pyro.plate('data', len(x)):` (dim -1)."
        )
    return size


def _plate_size(site: Site, dim: int) -> int | None:
    frames = (frame for frame in site["cond_indep_stack"] if frame.vectorized)
    return next((int(frame.size) for frame in frames if frame.dim == dim), None)


def _log_density(site: Site, num_dims: int) -> Float[Tensor, "particles batch"]:
    """The site's unscaled, masked log-density, dimensions between particles and data summed."""
    log_density: Tensor = scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])
    ends = _plate_size(site, dim=-num_dims), _data_plate_size(site)
    if log_density.dim() != num_dims or (log_density.shape[0], log_density.shape[-1]) != ends:
        raise ValueError(
            f"site {site['name']!r} has log-densities of shape {tuple(log_density.shape)}, expected"
            f" (particles, batch) = {ends}: declare other dimensions with .to_event(n)."
        )
    return log_density.sum(tuple(range(1, num_dims - 1))) if num_dims > 2 else log_density


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
