"""Modes of log p(x, u) per datum, by Newton's method from several starts at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

LogJoint = Callable[[Tensor, Tensor], Tensor]
"""``(rows, u) -> log p(x_rows, u)`` in nats: which data, shape (batch,), and points for each, shape
(points, batch, dim); per point and datum, shape (points, batch)."""

_ITERATIONS = 60
_HALVINGS = 8
_LEAST_CURVATURE = 1e-10
"""Share of the largest curvature: flatter directions, or ones that curve upwards, make no
Gaussian."""


@final
@dataclass(frozen=True)
class Modes:
    """Where the ascents ended.

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
    for _ in range(iterations):
        here = point[:, active]
        value, gradient, precision = derivatives(log_joint, rows[active], here)
        step = _ascent_direction(gradient, precision, radius[active])
        moved, improvement = _search(log_joint, rows[active], here, step, value)
        point[:, active] = torch.where(improvement.unsqueeze(-1) > 0, moved, here)
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
        totals = [gradient[..., i].sum() for i in range(point.shape[-1])]
        hessian = torch.stack([_gradient_or_zero(total, point) for total in totals], -2)
    precision = -0.5 * (hessian + hessian.mT)
    # Where the density is 0 nothing leads anywhere.
    return value.detach(), _finite(gradient.detach()), _finite(precision)


def _finite(values: Tensor) -> Tensor:
    """The same, with 0 for all that is no number."""
    return torch.where(values.isfinite(), values, 0.0)


def _gradient_or_zero(total: Tensor, point: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(point)
    row: Tensor = torch.autograd.grad(
        total, point, retain_graph=True, allow_unused=True, materialize_grads=True
    )[0]
    return row


def _ascent_direction(gradient: Tensor, precision: Tensor, radius: Tensor) -> Tensor:
    size, vectors = curvature(precision)
    step = (vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / size.unsqueeze(-1))).squeeze(-1)
    length = step.norm(dim=-1, keepdim=True)
    shortened: Tensor = step * (radius.unsqueeze(-1) / length.clamp(min=1e-300)).clamp(max=1)
    return shortened


def curvature(precision: Float[Tensor, "*shape dim dim"]) -> tuple[Tensor, Tensor]:
    """Sizes of the eigenvalues, none of them near 0 beside the largest, and the eigenvectors."""
    eigenvalues, vectors = torch.linalg.eigh(precision)
    size = eigenvalues.abs()
    return size.clamp(min=1e-8).maximum(1e-6 * size.amax(-1, keepdim=True)), vectors


def _search(
    log_joint: LogJoint, rows: Tensor, point: Tensor, step: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of step, step/2, step/4, ...; and by how much it climbs."""
    fractions = 0.5 ** torch.arange(_HALVINGS, dtype=point.dtype, device=point.device)
    tried = point + fractions.view(-1, 1, 1, 1) * step
    with torch.no_grad():
        values = log_joint(rows, tried.flatten(0, 1)).unflatten(0, tried.shape[:2])
    best, index = values.nan_to_num(nan=-torch.inf).max(0)
    chosen = tried.gather(0, index.unsqueeze(-1).expand(tried.shape[1:]).unsqueeze(0))
    return chosen.squeeze(0), best - value
