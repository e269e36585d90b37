"""The importance-weighted bound against the number of particles, and where it leads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import RowData, Rows
from ppl_vae.diagnostics._estimates import COLUMNS, Estimate, MonteCarlo, over_data, table
from ppl_vae.display import Axes, Panel, Result, Row, fields_of
from ppl_vae.evidence import pareto_tail
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Attribute
from ppl_vae.particles import ChunkSize, Program, Programs, evaluation
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import RunningWeights, group_log_mean_exp

_LEAST_FIT = 0.1
"""Probability of the residuals below which the smallest K is left out of the fit."""
_ORDER = 2
"""Powers of 1/K in the fit: by the first alone the slope, and then the limit, would be biased."""
_LEAST_POINTS = _ORDER + 2
_HEAVY = 0.5
"""Pareto shape from which on the weights have no variance, so that there is no 1/K to follow."""
_TOLERATED = 0.05
_ROWS = 20_000


@final
@dataclass(frozen=True)
class Extrapolation:
    """``E[L_K] = limit - slope / K - c / K^2``, by generalised least squares, in nats per datum.

    Attributes:
        limit: For K to infinity: log p(x), if the curve holds beyond the largest K.
        slope: Half the squared coefficient of variation of a weight, if the curve is the one of the
            theory.
        particles: The K that were fitted.
        lack_of_fit: Probability of residuals as large as these if the points lie on such a curve.
    """

    limit: Estimate
    slope: MonteCarlo
    particles: tuple[int, ...]
    lack_of_fit: float


@final
@dataclass(frozen=True, repr=False)
class BoundCurve(Result):
    """E[L_K] for several K, mean over N data, in nats per datum.

    The estimates share their draws, so that they are correlated and their order is not by chance.

    Attributes:
        bounds: K to estimate.
        extrapolation: The curve through them.
        heavy_tails: Fraction of the data whose weights have no variance by their Pareto shape.
        num_data: N.
        replicates: Independent sets of max K draws per datum.
        identity: What it was computed from.
    """

    _group: ClassVar[str] = "bound_curve"
    _derived: ClassVar[tuple[str, ...]] = ("notes",)

    bounds: dict[int, Estimate]
    extrapolation: Extrapolation
    heavy_tails: float
    num_data: int
    replicates: int
    identity: Identity | None = None

    @property
    def notes(self) -> list[str]:
        """Reasons not to trust the extrapolation; empty if nothing speaks against it."""
        notes = []
        if self.heavy_tails > _TOLERATED:
            notes.append(
                f"{self.heavy_tails:.0%} of the data have weights without a variance (Pareto k > "
                f"{_HEAVY:g}): L_K then rises slower than 1/K, and the limit is too low"
            )
        if self.extrapolation.lack_of_fit < _LEAST_FIT:
            notes.append(
                "even the largest K lie on no parabola in 1/K, so that the limit is biased: take "
                "larger K"
            )
        return notes

    def __str__(self) -> str:
        fit = self.extrapolation
        named = {f"L_{K}": bound for K, bound in self.bounds.items()} | {"limit": fit.limit}
        rows = {name: _row(bound) for name, bound in named.items()}
        line = (
            f"limit - {fit.slope.value:.3g} / K + O(1/K^2) (slope's error "
            f"{fit.slope.standard_error:.2g}) "
            f"over K = {', '.join(map(str, fit.particles))}; lack of fit p = {fit.lack_of_fit:.2g}"
        )
        last = f"N = {self.num_data}, {self.replicates} replicates"
        return "\n".join([table("nats per datum", COLUMNS, rows), line, *self.notes, last])

    def _rows(self) -> list[Row]:
        return [{"particles": K} | fields_of(bound) for K, bound in self.bounds.items()]

    def _attributes(self) -> dict[str, Attribute]:
        """The limit and the slope with their errors, and how the curve was fitted."""
        fit = self.extrapolation
        return super()._attributes() | {
            **{_name("limit", part): value for part, value in fields_of(fit.limit).items()},
            **{_name("slope", part): value for part, value in fields_of(fit.slope).items()},
            "lack_of_fit": fit.lack_of_fit,
            "fitted_particles": ", ".join(map(str, fit.particles)),
        }

    def _panels(self) -> list[Panel]:
        counts, values = list(self.bounds), [bound.value for bound in self.bounds.values()]
        halves = [2 * bound.monte_carlo_error for bound in self.bounds.values()]
        low = [value - half for value, half in zip(values, halves, strict=True)]
        high = [value + half for value, half in zip(values, halves, strict=True)]
        curve = plots.Curve(plots.style_of(0), counts, values, low, high, "bound, K draws")
        fit = self.extrapolation.limit
        limit, half = fit.value, 2 * fit.monte_carlo_error

        def draw(ax: Axes) -> None:
            ax.axhspan(limit - half, limit + half, color=plots.GRID, lw=0)
            ax.axhline(limit, color=plots.MUTED, lw=1, label="limit, by 1/K")
            plots.draw_against(ax, [curve], "particles K", "nats per datum")
            plots.remark(ax, "bars and band: two Monte Carlo standard errors")
            plots.legend(ax)

        return [(draw, plots.HEIGHT)]


def bound_against_particles(
    model: Program,
    guide: Program,
    x: RowData,
    num_particles: Sequence[int] = (1, 2, 5, 10, 20, 50, 100, 200, 500),
    *,
    replicates: int = 20,
    device: torch.device | str | None = None,
    seed: int | None = 0,
) -> BoundCurve:
    """E[L_K] for each K, and its limit for K to infinity by a parabola in 1/K.

    ``E[L_K] = log p(x) - Var(w) / (2 p(x)^2 K) - c / K^2 + O(1/K^3)``, where the weights have
    enough moments: a variance for the first term, four moments for the second. The first two are
    fitted, with the K that are too small for them left out one by one until what is left may be
    such a curve (lack of fit by chi-squared). The estimates of all K are
    from the same draws, replicates times the largest K for each datum, cut into groups; the fit
    knows their covariance. Its error is that of the draws, and of the data; it does not know of
    weights whose variance is infinite, which the Pareto shape of the weights is to find.

    Costs ``replicates max(K)`` decoder evaluations per datum.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``.
        num_particles: The K, 4 or more of them.
        replicates: Independent sets of max K draws per datum.
        device: Where to compute; the data's device if not given.
        seed: Seed of the draws; ``None`` uses the caller's random state.

    Raises:
        ValueError: If there are fewer than 4 different K, 2 data or 2 replicates, or fewer data and
            replicates than it takes for the covariance; or if the guide is a point.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Nowozin, 2018, Debiasing evidence approximations: on importance-weighted autoencoders and
        jackknife variational inference.
        Domke and Sheldon, 2018, Importance weighting and variational inference.
    """
    counts = sorted(set(num_particles))
    x = Rows.of(x)
    num_data = len(x)
    _require_enough(counts, num_data, replicates)
    curves, shapes = [], []
    programs = Programs(model, guide)
    size = ChunkSize(counts[-1], cpu=_ROWS, gpu=_ROWS, whole=True)
    with (
        evaluation(programs, x, size, device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        look.require_density("the joint log-density there is the same for every K")
        identity = look.identity(f"bound_against_particles({counts}, {replicates=})", seed)
        for data, own in look.chunks():
            drawn = [
                own.draw(data, counts[-1]).log_weight.double().cpu() for _ in range(replicates)
            ]
            curves.append(torch.stack([_curve(log_weight, counts) for log_weight in drawn]))
            # A datum's replicates are draws of one weight: all of them show its tail best.
            shapes.append(pareto_tail(RunningWeights.of(torch.cat(drawn))).pareto_k)
    by_replicate = torch.cat(curves, 2)
    values, noise = by_replicate.mean(0), by_replicate.var(0) / replicates
    bounds = {K: over_data(values[i], noise[i]) for i, K in enumerate(counts)}
    return BoundCurve(
        bounds=bounds,
        extrapolation=_extrapolate(by_replicate, counts),
        heavy_tails=(torch.cat(shapes) > _HEAVY).double().mean().item(),
        num_data=num_data,
        replicates=replicates,
        identity=identity,
    )


def _name(quantity: str, part: str) -> str:
    return quantity if part == "value" else f"{quantity}_{part}"


def _row(bound: Estimate) -> str:
    errors = f"{bound.monte_carlo_error:12.5f} {bound.total_error:12.5f}"
    return f"{bound.value:12.5f} {errors}"


def _require_enough(counts: list[int], num_data: int, replicates: int) -> None:
    if len(counts) < _LEAST_POINTS or counts[0] < 1:
        raise ValueError(f"num_particles needs {_LEAST_POINTS} or more different K, got {counts}.")
    if num_data < 2 or replicates < 2:
        raise ValueError(f"needs 2 data and 2 replicates or more, got {num_data} and {replicates}.")
    # A covariance of few degrees of freedom is near singular, and its inverse weighs the fit.
    if num_data * (replicates - 1) < 10 * len(counts):
        raise ValueError(
            f"{num_data} data times {replicates} replicates are too few for the covariance of "
            f"{len(counts)} bounds: take more data or replicates."
        )
    # A Pareto tail is fitted to 100 weights or more.
    if replicates * counts[-1] < 100:
        raise ValueError(
            f"{replicates} replicates of {counts[-1]} particles are too few for the weights' tail: "
            "take more replicates or a larger K."
        )


def _curve(
    log_weight: Float[Tensor, "particles batch"], counts: list[int]
) -> Float[Tensor, "counts batch"]:
    """L_K for each K, the mean over as many groups of K as there are."""
    return torch.stack(
        [
            group_log_mean_exp(log_weight[: len(log_weight) // K * K], len(log_weight) // K).mean(0)
            for K in counts
        ]
    )


def _extrapolate(
    by_replicate: Float[Tensor, "replicates counts batch"], counts: list[int]
) -> Extrapolation:
    """Fit the largest K that may lie on the curve."""
    replicates, _, num_data = by_replicate.shape
    # Data are independent, so the covariance of their mean is the sum of theirs over N^2.
    values, centred = by_replicate.mean(0), by_replicate - by_replicate.mean(0)
    # Of the mean over data, at fixed data.
    covariance = torch.einsum("rab,rcb->ac", centred, centred)
    covariance = covariance / ((replicates - 1) * replicates * num_data**2)
    # What rounding alone makes, where all weights are equal.
    least = (1e-12 * values.abs().mean(1).clamp(min=1)).square()
    covariance = covariance + least.diag()
    # The smallest K feel the orders of 1/K that are not fitted: they are left out first.
    for first in range(len(counts) - _LEAST_POINTS + 1):
        kept = slice(first, None)
        fit = _fit(values[kept], covariance[kept, kept], counts[kept])
        if fit.lack_of_fit >= _LEAST_FIT:
            break
    return fit


def _fit(
    values: Float[Tensor, "counts batch"],
    covariance: Float[Tensor, "counts counts"],
    counts: list[int],
) -> Extrapolation:
    """Generalised least squares of the mean over data on 1, -1/K and -1/K^2."""
    inverse_count = 1 / torch.tensor(counts, dtype=torch.float64)
    powers = [-(inverse_count**power) for power in range(1, _ORDER + 1)]
    design = torch.stack([torch.ones_like(inverse_count), *powers], 1)
    # Bounds share their draws: after whitening their errors are independent, of variance 1.
    whitener = torch.linalg.cholesky(covariance)
    white_design = torch.linalg.solve_triangular(whitener, design, upper=False)
    # Each coefficient is a sum over K of the bounds, with these weights.
    weights = torch.linalg.pinv(white_design)
    weights = torch.linalg.solve_triangular(whitener.mT, weights.mT, upper=True).mT
    coefficients = weights @ values
    errors = (weights @ covariance @ weights.mT).diagonal().sqrt()
    residual = values.mean(1) - design @ coefficients.mean(1)
    white = torch.linalg.solve_triangular(whitener, residual.unsqueeze(-1), upper=False)
    misfit = white.square().sum().item()
    # over_data takes the variance of each datum, whose mean has the variance errors[0]^2.
    noise = (errors[0] ** 2 * values.shape[1]).expand(values.shape[1])
    return Extrapolation(
        limit=over_data(coefficients[0], noise),
        slope=MonteCarlo(coefficients[1].mean().item(), errors[1].item()),
        particles=tuple(counts),
        lack_of_fit=float(scipy.special.chdtrc(len(counts) - _ORDER - 1, misfit)),
    )
