"""Particles: draws and their log-densities; and the count of decoder evaluations."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor


@final
@dataclass
class EvaluationCount:
    """Number of decoder evaluations so far.

    Attributes:
        rows: Particles times batch, summed over the draws that ran the model.
    """

    rows: int = 0


# By context, so that threads count apart.
_COUNT: ContextVar[EvaluationCount | None] = ContextVar("evaluations", default=None)


@contextmanager
def count_evaluations() -> Iterator[EvaluationCount]:
    """Count the decoder evaluations of every draw made inside.

    An inner context keeps its own count and the outer one does not see it, so that a look at the
    programs can be left out of what training costs. Nothing waits for the device.
    """
    count = EvaluationCount()
    token = _COUNT.set(count)
    try:
        yield count
    finally:
        _COUNT.reset(token)


def add_evaluations(rows: int) -> None:
    """Add the rows of one run of the model to the count that is open, if one is."""
    count = _COUNT.get()
    if count is not None:
        count.rows += rows


_NO_WEIGHT = 1e30
"""Nats below which a log-weight counts as no weight at all in sums that look for NaN."""


def side_by_side(value: Tensor, event_dim: int) -> Float[Tensor, "particles batch dimension"]:
    """A site's ``(particles, *plates, batch, *event)`` with plates and event in one dimension."""
    value = value.movedim(-1 - event_dim, 1)
    return value.reshape(*value.shape[:2], -1)


def point_site(guide: Mapping[str, Any]) -> str | None:
    """Name of the first site of a guide that is a point, without a density; None if none is."""
    return next((name for name, site in guide.items() if is_point(site)), None)


def is_point(site: Any) -> bool:
    """Whether a distribution is a point, without a density."""
    while hasattr(site, "base_dist") and not isinstance(site, dist.Delta):
        site = site.base_dist
    return isinstance(site, dist.Delta)


def require_density(
    guide: Mapping[str, Any],
    why: str = (
        "weights under it say nothing about log p(x): take refine=LaplaceApproximation(), or "
        "annealed importance sampling from the prior"
    ),
) -> None:
    """Check that a guide, site name to distribution, has a density; ``why`` is for the message.

    Raises:
        ValueError: If a site is a point; names it.
    """
    name = point_site(guide)
    if name is not None:
        raise ValueError(f"guide site {name!r} is a Delta, a point without a density, and {why}.")


@final
class NonFiniteDensityError(ValueError):
    """A log-density that is NaN or infinite.

    Args:
        value: The log-density.
        site: The site, and whether it is the model's or the guide's.
        datum: The first such row of the batch.
    """

    def __init__(self, value: float, site: str, datum: int) -> None:
        # All arguments are handed on: pickling makes an exception again from them.
        super().__init__(value, site, datum)
        self.value, self.site, self.datum = value, site, datum

    def __str__(self) -> str:
        return (
            f"log-density {self.value} at {self.site} (datum {self.datum} of the batch): look for "
            "diverged parameters (lower the learning rate, clip gradients) or data outside the "
            "distribution's support."
        )


@final
class UnknownDensityError(ValueError):
    """A distribution that cannot say its density at given values."""


@final
class OutsideSupportError(ValueError):
    """Values at which a distribution has no density.

    Attributes:
        site: Site of the distribution.
        is_data: Whether the values are data, rather than draws of the guide.
    """

    def __init__(self, message: str, site: str, is_data: bool) -> None:
        super().__init__(message, site, is_data)
        self.site, self.is_data = site, is_data

    def __str__(self) -> str:
        return str(self.args[0])


@final
@dataclass(frozen=True, eq=False)
class Simulation:
    """Draws (z, x) ~ p from the model itself, as many as there are particles.

    Attributes:
        latents: Site name to draws, shape ``(particles, batch, *event)``: with the gradient of a
            reparameterised prior where they alone are asked for, else without.
        log_guide: log q(z|x) of these draws summed over sites, shape (particles, batch), with the
            gradient of the guide's parameters; None where x was not asked for.
        untrained: Latent sites whose distribution has parameters that its draws carry no gradient
            of, where the latents alone are asked for.
    """

    latents: dict[str, Tensor]
    log_guide: Float[Tensor, "particles batch"] | None = None
    untrained: frozenset[str] = frozenset()


@final
@dataclass(frozen=True, eq=False)
class Particles:
    """K draws z_k ~ q(z|x) for each of B data. All densities are unscaled and in nats.

    Attributes:
        latents: Site name to draws, shape ``(particles, batch, *event)``, in the guide's order.
            All densities are taken at them.
        log_prior: Site name to log p(z_site | ...), shape (particles, batch), in the model's order.
        log_guide: Site name to log q(z_site | ...), shape (particles, batch), in the guide's order.
        log_likelihood: log p(x|z), summed over the observed sites, shape (particles, batch).
        prior: Site name to the distribution the model gave it.
        guide: Site name to the distribution the guide gave it.
        likelihood: Observed site name to the distribution the model gave it.
        masked: Latent sites under a mask, whose closed-form KL would ignore it.
        scale: Factor of every log-density, from plates and ``poutine.scale``.
        paths: Where the latents are leaves of their own (``graph="split"``), the same draws as
            functions of the guide's parameters.
        simulation: Draws from the model, for an objective that asks for them.
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
    paths: dict[str, Tensor] | None = None
    simulation: Simulation | None = None

    def __repr__(self) -> str:
        sizes = f"num_particles={self.num_particles}, batch_size={self.batch_size}"
        return f"Particles({sizes}: {', '.join(self.latents)} -> {', '.join(self.likelihood)})"

    @cached_property
    def log_weight(self) -> Float[Tensor, "particles batch"]:
        """``log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x)``, shape (particles, batch)."""
        total = self.log_likelihood
        for log_prior in self.log_prior.values():
            total = total + log_prior
        for log_guide in self.log_guide.values():
            total = total - log_guide
        return total

    @cached_property
    def log_joint(self) -> Float[Tensor, "particles batch"]:
        """``log p(x, z_k)``, shape (particles, batch)."""
        return self.log_likelihood + self.log_latent_prior

    @cached_property
    def log_latent_prior(self) -> Float[Tensor, "particles batch"]:
        """``log p(z_k)`` over all sites, shape (particles, batch)."""
        first, *others = self.log_prior.values()
        return sum(others, first)

    @cached_property
    def log_proposal(self) -> Float[Tensor, "particles batch"]:
        """``log q(z_k|x)`` over all sites, shape (particles, batch)."""
        first, *others = self.log_guide.values()
        return sum(others, first)

    @property
    def num_particles(self) -> int:
        """Number of particles K."""
        return self.log_likelihood.shape[0]

    @property
    def batch_size(self) -> int:
        """Number of data B."""
        return self.log_likelihood.shape[1]

    @property
    def densities(self) -> dict[str, Float[Tensor, "particles batch"]]:
        """Log-densities by site and program, in words."""
        return {
            **{f"site {name!r} of the guide": value for name, value in self.log_guide.items()},
            **{f"site {name!r} of the model": value for name, value in self.log_prior.items()},
            f"observed site {', '.join(map(repr, self.likelihood))}": self.log_likelihood,
        }

    def require_finite(self) -> None:
        """Check every log-density.

        Raises:
            NonFiniteDensityError: If one is NaN or infinite; names the site, the density and the
                datum.
        """
        # One sum looks at all densities at once, and a device waits once.
        if not math.isfinite(self.log_weight.detach().sum().item()):
            self._raise_non_finite(torch.ones_like(self.log_weight, dtype=torch.bool))

    def require_weights(self) -> None:
        """Check every log-weight; a weight of 0 passes, as where p(x|z) is 0.

        Raises:
            NonFiniteDensityError: If one is NaN or infinitely large; names the site, the density
                and the datum.
        """
        # A sum with NaN or infinity in it is NaN or infinite; -inf is clamped, being a weight of 0.
        log_weight = self.log_weight.detach().clamp(min=-_NO_WEIGHT)
        if not math.isfinite(log_weight.sum().item()):
            self._raise_non_finite(~log_weight.isfinite())

    def _raise_non_finite(self, among: Bool[Tensor, "particles batch"]) -> None:
        for where, value in self.densities.items():
            bad = among & ~value.detach().isfinite()
            if bad.any():
                particle, datum = (int(index) for index in bad.nonzero()[0])
                raise NonFiniteDensityError(value[particle, datum].item(), where, datum)

    @property
    def not_reparameterized(self) -> list[str]:
        """Guide sites whose draws are no differentiable function of the guide's parameters."""
        return [name for name, guide in self.guide.items() if not guide.has_rsample]
