"""Log-densities as functions of unconstrained latents, for methods that move along gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import pyro
import torch
from jaxtyping import Float, Shaped
from torch import Size, Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ComposeTransform

from ppl_vae.particles._particles import require_density
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._run import SiteRun, require_all_rows
from ppl_vae.particles._sites import log_densities
from ppl_vae.particles._supports import core_of


class LogDensities(NamedTuple):
    """Log-densities at positions u, each of shape (chains, batch), in nats.

    Attributes:
        prior: ``log p(z(u)) + log |dz/du|``.
        likelihood: ``log p(x|z(u))``.
        guide: ``log q(z(u)|x) + log |dz/du|``.
    """

    prior: Float[Tensor, "chains batch"]
    likelihood: Float[Tensor, "chains batch"]
    guide: Float[Tensor, "chains batch"]


@final
class LatentDensity:
    """``log p(z), log p(x|z), log q(z|x)`` as functions of unconstrained u, for a batch x.

    All latent sites of a datum stand side by side in one vector u, each mapped to the support of
    its prior by ``biject_to``; the densities of z are taken per unit volume of u, so that they
    integrate to 1 over u. Chains and data do not touch: the gradient of a sum over all of them
    holds the gradient of each.

    Args:
        programs: Model and guide; without a guide, nothing may be asked about it.
        x: The batch, shape ``(batch, *event)``.
        num_chains: Positions held for each datum at once.

    Raises:
        ValueError: If a latent is discrete or on a sphere, has a support that depends on other
            latents, or one that the guide does not share, or if a plate subsamples; names the
            site. As :meth:`~ppl_vae.particles.Programs.draw` otherwise.
    """

    def __init__(
        self, programs: Programs, x: Shaped[Tensor, "batch *event"], num_chains: int
    ) -> None:
        self._programs, self._x, self.num_chains = programs, x, num_chains
        # Once with validation on, so that data outside a support are reported here.
        with torch.no_grad():
            if programs.guide is None:
                modelled = self._run_model()
                log_densities(modelled, programs.num_dims)
                latents, self._guides = modelled.latents, dict[str, Any]()
            else:
                particles = programs.draw(x, num_chains, check_finite=False)
                particles.require_weights()
                latents, self._guides = particles.latents, dict(particles.guide)
                modelled = self._run_model(latents)
            data_dim = programs.max_plate_nesting
            self._sites = {
                name: _LatentSite.of(name, modelled.sites[name]["fn"], latents[name], data_dim)
                for name in modelled.latents
            }
            for name, guide in self._guides.items():
                if not _alike(_bijection(name, guide.support), self._sites[name].transform):
                    raise ValueError(
                        f"guide site {name!r} has support {guide.support}, the prior has another"
                        " one: annealing needs a guide on the prior's support; transform its draws."
                    )
            with pyro.validation_enabled(False):
                # Drawn again: a support that depends on other latents is then another one.
                self._drawn = self._run_model() if programs.guide is None else self._run_guide()
                self._check_model(self._run_model(self._drawn.latents))
        self.dim = sum(site.size for site in self._sites.values())

    def __call__(self, u: Float[Tensor, "chains batch dim"]) -> LogDensities:
        """Evaluate all three log-densities; differentiable in u.

        Raises:
            ValueError: If the guide is a point, without a density.
        """
        self._require_guide()
        # Validation waits for the device at each site, and u is in the support by construction.
        latents, log_volume = self._unpack(u)
        with pyro.validation_enabled(False):
            log_guide = log_densities(self._guided(latents), self._programs.num_dims)
        guide = _sum([*log_guide.values(), *log_volume])
        return LogDensities(*self._of_model(latents, log_volume), guide)

    def of_model(
        self, u: Float[Tensor, "chains batch dim"]
    ) -> tuple[Float[Tensor, "chains batch"], Float[Tensor, "chains batch"]]:
        """Evaluate prior and likelihood alone; the guide does not run."""
        return self._of_model(*self._unpack(u))

    def _of_model(
        self, latents: Mapping[str, Tensor], log_volume: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        with pyro.validation_enabled(False):
            modelled = self._run_model(latents)
            log_density = log_densities(modelled, self._programs.num_dims)
        prior = [log_density[name] for name in modelled.latents]
        likelihood = [log_density[name] for name in modelled.observed]
        return _sum(prior + log_volume), _sum(likelihood)

    def unpack(self, u: Float[Tensor, "chains batch dim"]) -> dict[str, Tensor]:
        """Site name to latents as the programs have them, from positions."""
        return self._unpack(u)[0]

    def pack(self, latents: Mapping[str, Tensor]) -> Float[Tensor, "chains batch dim"]:
        """Positions, from site name to latents of shape ``(chains, *plates, batch, *event)``."""
        return torch.cat([site.free(latents[name]) for name, site in self._sites.items()], -1)

    def draw_guide(self) -> Float[Tensor, "chains batch dim"]:
        """Positions of draws z ~ q(z|x).

        Raises:
            ValueError: If the guide is a point, without a density.
        """
        self._require_guide()
        with torch.no_grad(), pyro.validation_enabled(False):
            return self.pack(self._run_guide().latents)

    def draw_prior(self) -> Float[Tensor, "chains batch dim"]:
        """Positions of draws z ~ p(z)."""
        with torch.no_grad(), pyro.validation_enabled(False):
            return self.pack(self._run_model(simulated=True).latents)

    def _run_model(
        self, latents: Mapping[str, Tensor] | None = None, *, simulated: bool = False
    ) -> SiteRun:
        return self._programs.run_model(self._x, self.num_chains, latents, simulated=simulated)

    def _run_guide(self, latents: Mapping[str, Tensor] | None = None) -> SiteRun:
        return self._programs.run_guide(self._x, self.num_chains, latents)

    def _require_guide(self) -> None:
        if self._programs.guide is None:
            raise ValueError("guide=None: this needs the guide's density; give one.")
        require_density(self._guides)

    def _guided(self, latents: Mapping[str, Tensor]) -> SiteRun:
        # A lone site's distribution depends on no latent: the encoder need not run again.
        if len(self._sites) == 1:
            return self._drawn.at(latents)
        return self._run_guide(latents)

    def _unpack(self, u: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Latents, and log-volumes of the sites whose support is not the whole space."""
        positions = u.split([site.size for site in self._sites.values()], -1)
        latents, log_volumes = {}, []
        for (name, site), position in zip(self._sites.items(), positions, strict=True):
            latents[name], log_volume = site.constrained(position)
            if log_volume is not None:
                log_volumes.append(log_volume)
        return latents, log_volumes

    def _check_model(self, modelled: SiteRun) -> None:
        require_all_rows(self._drawn, modelled)
        for name, site in self._sites.items():
            support = modelled.sites[name]["fn"].support
            if not _alike(_bijection(name, support), site.transform):
                raise ValueError(
                    f"the support of latent site {name!r} changes from draw to draw: sample it on "
                    "a fixed support and transform it in the model."
                )


@final
@dataclass(frozen=True)
class _LatentSite:
    """Coordinates of one latent site's values in u.

    Attributes:
        transform: Map from the whole space onto the support; None where that is the same.
        shape: Shape of the unconstrained values, the batch in front: ``(chains, batch, ...)``.
        data_dim: Dimension of the batch in the programs.
    """

    transform: Any
    shape: Size
    data_dim: int

    @classmethod
    def of(cls, name: str, prior: Any, value: Tensor, data_dim: int) -> "_LatentSite":
        if prior.support.is_discrete:
            raise ValueError(
                f"latent site {name!r} is discrete, and annealing moves along gradients: estimate "
                "log p(x) by ImportanceSampling(), or sum the site out by Enumeration()."
            )
        transform = _bijection(name, prior.support)
        # The shape is that of the unconstrained values, of which a simplex has one less.
        free = value if transform is None else transform.inv(value)
        return cls(transform, free.movedim(data_dim, 1).shape, data_dim)

    @property
    def size(self) -> int:
        """Unconstrained dimensions of one datum."""
        return self.shape[2:].numel()

    def free(self, value: Tensor) -> Tensor:
        """``(chains, *plates, batch, *event)`` -> ``(chains, batch, size)``, unconstrained."""
        value = value if self.transform is None else self.transform.inv(value)
        return value.movedim(self.data_dim, 1).reshape(*self.shape[:2], -1)

    def constrained(self, free: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map back onto the support, with log |dz/du| where it is not 0."""
        free = free.reshape(self.shape).movedim(1, self.data_dim)
        if self.transform is None:
            return free, None
        value = self.transform(free)
        log_volume = self.transform.log_abs_det_jacobian(free, value)
        return value, log_volume.movedim(self.data_dim, 1).reshape(*self.shape[:2], -1).sum(-1)


def bijection_onto(name: str, support: Any) -> Any:
    """``biject_to(support)`` for the support of a latent site.

    Raises:
        ValueError: If the support has no unconstrained coordinates, as a sphere; names the site.
    """
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"latent site {name!r} has support {support}, which no unconstrained coordinates reach,"
            " and annealing and quadrature need such: estimate log p(x) by ImportanceSampling()."
        ) from error


def _bijection(name: str, support: Any) -> Any:
    """Map from the whole space onto the support, or None where that is the same."""
    return None if core_of(support) is constraints.real else bijection_onto(name, support)


def _alike(a: Any, b: Any) -> bool:
    """Whether two bijections are the same; torch compares most kinds, but not inside events."""
    if hasattr(a, "base_transform") and hasattr(b, "base_transform"):
        return _alike(a.base_transform, b.base_transform)
    if isinstance(a, ComposeTransform) and isinstance(b, ComposeTransform):
        pairs = zip(a.parts, b.parts, strict=False)
        return len(a.parts) == len(b.parts) and all(_alike(*pair) for pair in pairs)
    # A kind without a comparison of its own has no parameters to differ in.
    compared = any("__eq__" in vars(base) for base in type(a).__mro__[:-1])
    return type(a) is type(b) and (not compared or bool(a == b))


def _sum(terms: list[Tensor]) -> Tensor:
    first, *others = terms
    return sum(others, first)
