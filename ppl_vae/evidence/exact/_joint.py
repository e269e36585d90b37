"""Log-density of all sites of a datum as one unconstrained vector u, and its modes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import pyro
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.particles import Programs, bijection_onto, log_densities, require_all_rows

LogJoint = Callable[[Tensor, Tensor], Tensor]
"""``(rows, u) -> log p(x_rows, u)`` in nats: which data, shape (batch,), and points for each, shape
(points, batch, dim); per point and datum, shape (points, batch)."""

_ITERATIONS = 60
_HALVINGS = 8
_LEAST_CURVATURE = 1e-10
"""Share of the largest curvature: flatter directions, or ones that curve upwards, make no
Gaussian."""
_ROUNDINGS = 8
_EDGE = 40.0
"""Unconstrained coordinate of the edge: exp(-40) from it."""


@final
@dataclass(frozen=True)
class SiteCoordinates:
    """The part of u that one site is.

    Attributes:
        transform: From unconstrained values to the site's support.
        shape: Of one datum's unconstrained value, ``(*plates, *event)``.
        num_plates: Plates left of the data's.
        dtype: Of the site's values.
    """

    transform: Any
    shape: tuple[int, ...]
    num_plates: int
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, value: Tensor, prior: Any, num_plates: int) -> "SiteCoordinates":
        """The coordinates of a site of which a draw, ``(points, *plates, batch, *event)``, is seen.

        Raises:
            ValueError: If the site is discrete or on a sphere, or its support varies.
        """
        support = prior.support
        if support.is_discrete:
            raise ValueError(
                f"latent site {name!r} is discrete, and neither quadrature nor Laplace's "
                "approximation takes such: take Enumeration()."
            )
        transform = bijection_onto(name, _fixed_support(name, support, prior.event_dim))
        plates, event = value.shape[1 : 1 + num_plates], value.shape[2 + num_plates :]
        shape = transform.inverse_shape(plates + event)
        return cls(transform, tuple(shape), num_plates, value.dtype)

    @property
    def size(self) -> int:
        """Numbers per datum."""
        return math.prod(self.shape)

    def constrain(self, u: Float[Tensor, "points batch size"]) -> tuple[Tensor, Tensor]:
        """The site's value, ``(points, *plates, batch, *event)``, and log |dz/du|."""
        rows = u.unflatten(-1, self.shape) if self.shape else u.squeeze(-1)
        value = self.transform(rows)
        log_jacobian = self.transform.log_abs_det_jacobian(rows, value)
        log_jacobian = log_jacobian.reshape(*u.shape[:2], -1).sum(-1)
        return value.movedim(1, 1 + self.num_plates).to(self.dtype), log_jacobian

    def unconstrain(self, value: Tensor) -> Float[Tensor, "points batch size"]:
        """The inverse of :meth:`constrain`, in double precision."""
        rows = value.double().movedim(1 + self.num_plates, 1)
        unconstrained: Tensor = self.transform.inv(rows).reshape(*rows.shape[:2], self.size)
        # A draw that was rounded to the edge of the support stands somewhere all the same.
        return unconstrained.nan_to_num(posinf=_EDGE, neginf=-_EDGE)


@final
@dataclass(frozen=True)
class Joint:
    """``log p(x, u) = log p(x, z(u)) + log |dz/du|`` of a Pyro model, in nats.

    Attributes:
        programs: With the model; its latents are given.
        x: The data, shape ``(batch, *event)``.
        sites: Site name to its part of u, in order.
        rows: Points times data decoded at once where no gradient is taken.
    """

    programs: Programs
    x: Shaped[Tensor, "batch *event"]
    sites: Mapping[str, SiteCoordinates]
    rows: int

    @classmethod
    def at_draws(
        cls, programs: Programs, x: Tensor, count: int, rows: int
    ) -> tuple["Joint", dict[str, Tensor]]:
        """The joint of a model, and draws of its latents from the guide, or else from the prior.

        Args:
            programs: The model, and a guide where there is one.
            x: The data, shape ``(batch, *event)``.
            count: Draws for each datum.
            rows: As the attribute.

        Raises:
            ValueError: If a latent site is discrete, or has a support that varies, or a plate
                subsamples; names it.
        """
        drawn = None
        if programs.guide is not None:
            # Only places to look at: that p(x|z) is 0 at some of them is no mistake.
            particles = programs.draw(x, count, check_finite=False)
            particles.require_weights()
            drawn = particles.latents
        modelled = programs.run_model(x, count, drawn)
        require_all_rows(modelled)
        # Once with validation on, so that data outside a support are reported here.
        log_densities(modelled, programs.num_dims)
        latents = modelled.latents if drawn is None else drawn
        plates = programs.max_plate_nesting - 1
        sites = {
            name: SiteCoordinates.of(name, value, modelled.sites[name]["fn"], plates)
            for name, value in latents.items()
        }
        return cls(programs.with_guide(None), x, sites, rows), latents

    @property
    def dim(self) -> int:
        """Latent dimensions of all sites together."""
        return sum(site.size for site in self.sites.values())

    @property
    def all_rows(self) -> Int[Tensor, " batch"]:
        """All data, by number."""
        return torch.arange(len(self.x), device=self.x.device)

    def rounding(self, log_density: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Rounding error of a log-density of that size, in the precision of the sites, in nats."""
        epsilon = max(torch.finfo(site.dtype).eps for site in self.sites.values())
        return _ROUNDINGS * epsilon * log_density.abs()

    def __call__(
        self, rows: Int[Tensor, " batch"], u: Float[Tensor, "points batch dim"]
    ) -> Float[Tensor, "points batch"]:
        """Log p(x_rows, u); -inf where the model gives no number."""
        x = self.x[rows]
        # A graph keeps every piece anyway: pieces save memory only without one.
        if u.requires_grad:
            return self._evaluate(x, u)
        parts = u.split(max(1, self.rows // len(x)))
        return torch.cat([self._evaluate(x, part) for part in parts])

    def _evaluate(self, x: Tensor, u: Tensor) -> Tensor:
        latents, total = {}, u.new_zeros(u.shape[:2])
        parts = u.split([site.size for site in self.sites.values()], -1)
        for (name, site), part in zip(self.sites.items(), parts, strict=True):
            latents[name], log_jacobian = site.constrain(part)
            total = total + log_jacobian
        # u is in the support; far out, parameters that no distribution takes give no number.
        with pyro.validation_enabled(False):
            modelled = self.programs.run_model(x, len(u), latents)
            densities = log_densities(modelled, self.programs.num_dims).values()
        for log_density in densities:
            total = total + log_density.double()
        return total.nan_to_num(nan=-torch.inf, neginf=-torch.inf)

    def unconstrain(self, latents: Mapping[str, Tensor]) -> Float[Tensor, "points batch dim"]:
        """Unconstrained coordinates u of given draws of all sites."""
        return torch.cat([site.unconstrain(latents[n]) for n, site in self.sites.items()], -1)

    def prior_draws(self, count: int) -> Float[Tensor, "points batch dim"]:
        """Unconstrained coordinates u of draws from the prior."""
        return self.unconstrain(self.programs.simulate(self.x, count).latents)


def _fixed_support(name: str, support: Any, event_dim: int) -> Any:
    """The support with bounds that are the same for every draw and datum, or a refusal."""
    if isinstance(support, constraints.independent):
        base = _fixed_support(name, support.base_constraint, event_dim)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    if hasattr(support, "base_constraint"):  # a mixture's, which is its components'
        return _fixed_support(name, support.base_constraint, event_dim)
    bounds = [
        _one_for_all(name, getattr(support, bound), event_dim)
        for bound in ("lower_bound", "upper_bound")
        if hasattr(support, bound)
    ]
    return type(support)(*bounds) if bounds else support


def _one_for_all(name: str, bound: Any, event_dim: int) -> Any:
    if not isinstance(bound, Tensor) or bound.dim() <= event_dim:
        return bound
    bounds = bound.detach().flatten(0, bound.dim() - event_dim - 1)
    if not bool((bounds == bounds[0]).all()):
        raise ValueError(
            f"the support of latent site {name!r} varies with other latents or with the data: "
            "write it as a transform of a latent of fixed support."
        )
    return bounds[0]


@final
@dataclass(frozen=True)
class Modes:
    """Ends of the ascents.

    Attributes:
        point: Shape (starts, batch, dim).
        value: log p(x, u) there, shape (starts, batch).
        precision: Minus its second derivatives there, shape (starts, batch, dim, dim).
    """

    point: Float[Tensor, "starts batch dim"]
    value: Float[Tensor, "starts batch"]
    precision: Float[Tensor, "starts batch dim dim"]

    def laplace(self) -> Float[Tensor, "starts batch"]:
        """``log p(x, u) + D/2 log 2 pi - 1/2 log det precision``; -inf where it is no maximum."""
        eigenvalues = torch.linalg.eigvalsh(self.precision)
        proper = eigenvalues[..., 0] > _LEAST_CURVATURE * eigenvalues[..., -1].abs()
        log_det = eigenvalues.clamp(min=torch.finfo(eigenvalues.dtype).tiny).log().sum(-1)
        half = 0.5 * self.point.shape[-1] * torch.log(2 * torch.pi * torch.ones_like(log_det))
        return torch.where(proper, self.value + half - 0.5 * log_det, -torch.inf)


def find_modes(
    log_joint: LogJoint,
    rows: Tensor,
    starts: Float[Tensor, "starts batch dim"],
    *,
    radius: Float[Tensor, " batch"] | None = None,
    iterations: int = _ITERATIONS,
    tolerance: float = 0.0,
) -> Modes:
    """Climb from every start: Newton steps, shortened until they climb.

    Where the density curves upwards the step takes the size of the curvature and climbs all the
    same, so that no ascent is drawn to a saddle.

    Args:
        log_joint: What to climb.
        rows: The data, by number.
        starts: Where to start.
        radius: Longest step, of each datum; by default it leaves the region of the starts by
            little, as a flat direction would send it anywhere.
        iterations: Most steps.
        tolerance: A datum is done when no ascent of it gains more in a step, in nats.
    """
    point, active = starts.clone(), torch.arange(len(rows), device=starts.device)
    if radius is None:
        radius = 2 * (starts - starts.mean(0)).norm(dim=-1).amax(0).clamp(min=1.0)
    exponents = torch.arange(_HALVINGS, dtype=starts.dtype, device=starts.device)
    fractions = (0.5**exponents).view(-1, 1, 1, 1)
    for _ in range(iterations):
        here = point[:, active]
        value, gradient, precision = derivatives(log_joint, rows[active], here)
        size, vectors = curvature(precision)
        step = vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / size.unsqueeze(-1))
        length = step.norm(dim=-2, keepdim=True)
        longest = radius[active].unsqueeze(-1).unsqueeze(-1)
        step = (step * (longest / length.clamp(min=1e-300)).clamp(max=1)).squeeze(-1)
        # The best of step, step/2, step/4, ..., all at once: one call of the model.
        tried = here + fractions * step
        with torch.no_grad():
            values = log_joint(rows[active], tried.flatten(0, 1)).unflatten(0, tried.shape[:2])
        best, index = values.nan_to_num(nan=-torch.inf).max(0)
        index = index.unsqueeze(-1).expand(tried.shape[1:]).unsqueeze(0)
        improvement = best - value
        moved = tried.gather(0, index).squeeze(0)
        point[:, active] = torch.where(improvement.unsqueeze(-1) > 0, moved, here)
        # A gain that rounding can make is none: an ascent by such gains would not end.
        rounding = torch.finfo(value.dtype).eps * value.abs().clamp(min=1)
        active = active[(improvement > rounding.clamp(min=tolerance)).any(0)]
        if not len(active):
            break
    value, _, precision = derivatives(log_joint, rows, point)
    return Modes(point, value, precision)


def derivatives(
    log_joint: LogJoint, rows: Tensor, point: Float[Tensor, "points batch dim"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Value (points, batch), gradient and minus the second derivatives of log p(x, u)."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        value = log_joint(rows, point)
        (gradient,) = torch.autograd.grad(value.sum(), point, create_graph=True)
        rows_of_hessian = [
            torch.autograd.grad(
                total, point, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            # A density that is linear in u has a gradient without a graph.
            if (total := gradient[..., i].sum()).requires_grad
            else torch.zeros_like(point)
            for i in range(point.shape[-1])
        ]
        hessian = torch.stack(rows_of_hessian, -2)
    precision = -0.5 * (hessian + hessian.mT)
    # Where the density is 0, or no number, nothing leads anywhere.
    gradient, precision = (
        torch.where(values.isfinite(), values, 0.0) for values in (gradient.detach(), precision)
    )
    return value.detach(), gradient, precision


def curvature(precision: Float[Tensor, "*shape dim dim"]) -> tuple[Tensor, Tensor]:
    """Sizes of the eigenvalues, none of them near 0 beside the largest, and the eigenvectors."""
    eigenvalues, vectors = torch.linalg.eigh(precision)
    size = eigenvalues.abs()
    return size.clamp(min=1e-8).maximum(1e-6 * size.amax(-1, keepdim=True)), vectors
