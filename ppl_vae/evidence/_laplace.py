"""A normal at each datum's posterior mode: Laplace's approximation, as the guide for a batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, ReshapeTransform

from ppl_vae.distributions import FullNormal, multiply
from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence.exact._joint import Joint, Modes, SiteCoordinates, curvature, find_modes
from ppl_vae.particles import Program, Programs
from ppl_vae.randomness import Stream, seeded

_DRAWS = 8
_TOLERANCE = 1e-3
"""Tolerance in nats: a proposal this near the mode is as good as one at it."""
_ROWS = 20_000


def laplace_guide(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "batch *event"],
    *,
    steps: int = 50,
    starts: int = 1,
    stretch: float = 1.0,
    seed: int | None = 0,
) -> "LaplaceGuide":
    """``Normal(m_i, s^2 H_i^-1)`` with m_i the mode of ``log p(x_i, z)``, -H_i its curvature there.

    Newton ascents from the mean of the guide's draws, and from single draws if asked for, find m_i
    for each datum; where they end at several modes, the one under which Laplace's approximation of
    log p(x_i) is largest counts. Directions in which H_i is not positive (a ridge, a saddle, an
    ascent cut short) take its size. All latent sites are one normal, in unconstrained coordinates
    of their supports, so that correlations between sites are kept.

    Exact where the posterior is normal, with stretch 1. Elsewhere weights under it have mean p(x)
    all the same; they are heavy-tailed where the posterior has heavier tails than the normal at
    its mode, or a second mode. A stretch of 1.1 helps against the first, at the price of effective
    samples in many dimensions. For a guide that is well trained, a
    :class:`~ppl_vae.refinement.Refinement` is often the better proposal; this one needs no guide
    worth its name. A step costs a gradient for each latent dimension; 5 to 10 mostly suffice.

    Args:
        model: Pyro model with its data plate at dim -1 and continuous latents.
        guide: Pyro guide over the same latents; it says where to start, and may be a point.
        x: The batch, shape ``(batch, *event)``.
        steps: Most Newton steps.
        starts: Ascents for each datum.
        stretch: s, a factor on standard deviations.
        seed: Seed of the draws to start from; ``None`` uses the caller's random state.

    Returns:
        A Pyro guide for this batch, and no other.

    Raises:
        ValueError: If a setting is out of range, a latent is discrete, or has no unconstrained
            coordinates, or a plate of its own (named), or the data plate subsamples.

    References:
        Tierney and Kadane, 1986, Accurate approximations for posterior moments and marginal
        densities.
        Rue, Martino and Chopin, 2009, Approximate Bayesian inference for latent Gaussian models by
        using integrated nested Laplace approximations.
    """
    settings = LaplaceApproximation(steps, starts, stretch)
    return settings(Programs(model, guide).on(x), x, seed=seed)


@final
@dataclass(frozen=True)
class LaplaceApproximation:
    """Approximation of posteriors by normals, by the settings of :func:`laplace_guide`.

    In the place of a :class:`~ppl_vae.refinement.Refinement`, such as
    ``ImportanceSampling(refine=LaplaceApproximation())``.

    Args:
        steps: Most Newton steps.
        starts: Ascents for each datum.
        stretch: A factor on standard deviations.

    Raises:
        ValueError: If steps or starts are less than 1, or stretch is not positive.
    """

    steps: int = 50
    starts: int = 1
    stretch: float = 1.0

    def __post_init__(self) -> None:
        require_counts("LaplaceApproximation", steps=self.steps, starts=self.starts)
        if not (self.stretch > 0 and math.isfinite(self.stretch)):
            raise ValueError(f"LaplaceApproximation needs a positive stretch, got {self.stretch}.")

    @property
    def description(self) -> str:
        """Description of the guide, for the name of a method."""
        return "guide by Laplace's approximation"

    @property
    def rows_per_datum(self) -> int:
        """Latents of each datum decoded at once, with a graph that is differentiated twice."""
        return 2 * self.starts

    def __call__(
        self, programs: Programs, x: Shaped[Tensor, "batch *event"], *, seed: int | None = 0
    ) -> "LaplaceGuide":
        """The guide for a batch; arguments as for :func:`laplace_guide`."""
        with seeded(seed, Stream.TRAINING), torch.no_grad():
            # At least 8 draws, so that the region to stay in is known even for one ascent.
            joint, latents = Joint.at_draws(programs, x, max(_DRAWS, self.starts), _ROWS)
            _require_no_plates(joint.sites)
            modes = self._climb(joint, joint.unconstrain(latents))
            return LaplaceGuide.at(modes, joint.sites, self.stretch)

    def _climb(self, joint: Joint, draws: Float[Tensor, "draws batch dim"]) -> Modes:
        """Ascents from the mean of the guide's draws and from some of them."""
        centre = draws.mean(0, keepdim=True)
        # The guide may be a point: the prior's draws say how large the region is.
        region = torch.cat([draws, joint.prior_draws(_DRAWS)]) - centre
        return find_modes(
            joint,
            joint.all_rows,
            torch.cat([centre, draws[: self.starts - 1]]),
            radius=2 * region.norm(dim=-1).amax(0),
            iterations=self.steps,
            tolerance=_TOLERANCE,
        )


@final
@dataclass(frozen=True, eq=False)
class LaplaceGuide:
    """A Pyro guide with one normal over all sites, for one batch.

    The first site's marginal, then each site given those before it.

    Attributes:
        sites: Site name to its part of the unconstrained coordinates u.
        mean: Of u, shape (batch, dim).
        factor: Lower triangular L, the covariance of u being L L'.
    """

    sites: Mapping[str, SiteCoordinates]
    mean: Float[Tensor, "batch dim"]
    factor: Float[Tensor, "batch dim dim"]

    @classmethod
    def at(
        cls, modes: Modes, sites: Mapping[str, SiteCoordinates], stretch: float
    ) -> "LaplaceGuide":
        """The normals at the best mode of each datum."""
        # By the mass near a mode, not its height: a narrow mode may be high and hold little.
        approximation = modes.laplace()
        nowhere_a_mode = approximation.isneginf().all(0)
        # Where no ascent has ended at a maximum, the highest point stands in for one.
        best = torch.where(nowhere_a_mode, modes.value, approximation).argmax(0)
        data = torch.arange(len(best), device=best.device)
        size, vectors = curvature(modes.precision[best, data])
        covariance = (vectors / size.unsqueeze(-2)) @ vectors.mT
        # L of the covariance, so that each site is normal given the noise of those before it.
        factor = stretch * torch.linalg.cholesky(covariance)
        return cls(sites, modes.point[best, data], factor)

    def __call__(self, x: Shaped[Tensor, "batch *event"]) -> None:
        """Run the guide.

        Raises:
            ValueError: If x has not as many data as the guide was made for.
        """
        if len(x) != len(self.mean):
            raise ValueError(
                f"this guide was made for a batch of {len(self.mean)} data, got {len(x)}: each "
                "normal belongs to one datum; make a guide for these data."
            )
        noise: list[Tensor] = []
        start = 0
        with pyro.plate("data", len(x)):
            for name, site in self.sites.items():
                stop = start + site.size
                normal = self._given(noise, start, stop, site.dtype)
                shaped = _onto_support(site)
                z = pyro.sample(name, _transformed(normal, shaped))
                # The noise behind a draw is needed by the sites that come after it only.
                if stop < self.mean.shape[-1]:
                    noise.append(_standardized(shaped.inv(z), normal))
                start = stop

    def _given(self, noise: list[Tensor], start: int, stop: int, dtype: torch.dtype) -> FullNormal:
        """A site's normal, given the noise behind the draws of the sites before it."""
        rows = self.factor[:, start:stop].to(dtype)
        loc = self.mean[:, start:stop].to(dtype)
        if noise:
            loc = loc + multiply(rows[..., :start], torch.cat(noise, -1).to(dtype))
        return FullNormal(loc, scale_tril=rows[..., start:stop], validate_args=False)

    def rows(self, index: slice | Tensor) -> "LaplaceGuide":
        """The guide for the data ``x[index]`` alone."""
        return LaplaceGuide(self.sites, self.mean[index], self.factor[index])


def _standardized(u: Tensor, normal: FullNormal) -> Float[Tensor, "*shape size"]:
    """The noise that a draw was made of."""
    factor: Tensor = normal.scale_tril
    centred: Tensor = u - normal.loc
    noise: Tensor = torch.linalg.solve_triangular(factor, centred.unsqueeze(-1), upper=False)
    return noise.squeeze(-1)


def _onto_support(site: SiteCoordinates) -> ComposeTransform:
    """Transform of a vector of unconstrained coordinates to the values of a site."""
    vector, event = torch.Size((site.size,)), torch.Size(site.shape[site.num_plates :])
    parts: list[Any] = [] if event == vector else [ReshapeTransform(vector, event)]
    return ComposeTransform(parts if _is_identity(site.transform) else [*parts, site.transform])


def _transformed(normal: FullNormal, transform: ComposeTransform) -> Any:
    if not transform.parts:
        return normal
    return dist.TransformedDistribution(normal, transform.parts, validate_args=False)


def _is_identity(transform: Any) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts


def _require_no_plates(sites: Mapping[str, SiteCoordinates]) -> None:
    for name, site in sites.items():
        plates = site.shape[: site.num_plates]
        if math.prod(plates) > 1:
            raise ValueError(
                f"latent site {name!r} stands in a plate of its own ({plates} values a datum), and "
                "a Laplace approximation is one normal for each datum: declare the plate's "
                "dimension as part of the event, by .to_event, or refine by steps."
            )
