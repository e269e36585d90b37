"""The Gaussians at a datum's modes, and the integral cut into the parts that belong to each."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ppl_vae.evidence.exact._hermite import Gaussian, Integral, integrate
from ppl_vae.evidence.exact._modes import LogJoint, Modes

_SAME = 0.1
"""Two ascents that end closer than this, in standard deviations, found one mode."""
_PLATEAU = 30.0
"""An ascent that ends where there is no maximum matters if it comes so close to the best, nats."""


@final
@dataclass(frozen=True)
class Placement:
    """One Gaussian for each mode of each datum, in rows.

    Attributes:
        at: The Gaussians, one a row.
        datum: Which datum each row belongs to, shape (rows,).
        log_mass: The integral near the mode by Laplace's approximation, shape (rows,).
        improper: Data where an ascent ended on a ridge or plateau, shape (batch,): their posterior
            is no sum of Gaussians.
    """

    at: Gaussian
    datum: Tensor
    log_mass: Float[Tensor, " rows"]
    improper: Bool[Tensor, " batch"]

    @classmethod
    def of(cls, modes: Modes, cutoff: float) -> "Placement":
        """The distinct modes of more than ``cutoff`` times the largest one's mass."""
        log_mass = modes.laplace()
        best = log_mass.amax(0)
        keep = (log_mass > best + math.log(cutoff)) & ~_repeated(modes, log_mass)
        # Where no ascent found a maximum, the best point stands in for one.
        highest = torch.zeros_like(keep).scatter(0, modes.value.argmax(0, keepdim=True), True)
        start, datum = (keep | (highest & ~best.isfinite())).nonzero(as_tuple=True)
        near = modes.value > modes.value.amax(0) - _PLATEAU
        factor = _factor(modes.precision[start, datum])
        at = Gaussian(modes.point[start, datum], factor)
        improper = (near & ~log_mass.isfinite()).any(0)
        return cls(at, datum, log_mass[start, datum], improper)

    @cached_property
    def table(self) -> Int[Tensor, "batch modes"]:
        """The rows of each datum, one after another; -1 where a datum has fewer modes."""
        same = self.datum.unsqueeze(1) == self.datum
        position = same.tril(-1).sum(1)
        table = self.datum.new_full((len(self.improper), int(position.max()) + 1), -1)
        table[self.datum, position] = torch.arange(len(self.datum), device=table.device)
        return table

    @property
    def share(self) -> Float[Tensor, " rows"]:
        """Of the datum's mass that the row has, by Laplace's approximation."""
        total = torch.logsumexp(self.padded(self.log_mass), 1)
        return (self.log_mass - total[self.datum]).exp().nan_to_num(nan=1.0)

    def padded(self, values: Float[Tensor, " rows"]) -> Float[Tensor, "batch modes"]:
        """Values by datum and mode; -inf where a datum has fewer modes."""
        return torch.where(self.table >= 0, values[self.table], -torch.inf)

    def distances(
        self, datum: Tensor, u: Float[Tensor, "points batch dim"]
    ) -> Float[Tensor, "points batch modes"]:
        """Of a point of each datum from its modes, in standard deviations; inf for no mode."""
        rows = self.table[datum]
        known = [self.at.rows(row).distance(u) for row in rows.unbind(1)]
        return torch.where(rows >= 0, torch.stack(known, -1), torch.inf)

    def log_responsibility(
        self, rows: Tensor, u: Float[Tensor, "points rows dim"]
    ) -> Float[Tensor, "points rows"]:
        """How much of the density at u belongs to each row's mode, among its datum's: sums to 1."""
        datum = self.datum[rows]
        log_scale = (self.log_mass.nan_to_num(neginf=0.0) - self.at.log_det)[self.table[datum]]
        scores = torch.log_softmax(log_scale - 0.5 * self.distances(datum, u).square(), -1)
        own = (self.table[datum] == rows.unsqueeze(1)).nonzero()[:, 1]
        index = own.expand(len(u), -1).unsqueeze(-1)
        return scores.gather(-1, index).squeeze(-1)


def integrate_modes(
    log_joint: LogJoint, placement: Placement, order: int, tolerance: Float[Tensor, " batch"]
) -> Integral:
    """The sum over a datum's modes of ``integral p(x, u) r_mode(u) du``; r sums to 1."""
    alone = len(placement.datum) == len(placement.improper)

    def part(rows: Tensor, u: Tensor) -> Tensor:
        values = log_joint(placement.datum[rows], u)
        return values if alone else values + placement.log_responsibility(rows, u)

    allowed = tolerance[placement.datum] / placement.share
    rows = integrate(part, placement.at, order, allowed)
    values = placement.padded(rows.log_value)
    share = torch.softmax(values, 1)
    sums = torch.zeros_like(tolerance)
    return Integral(
        log_value=torch.logsumexp(values, 1),
        error=(share * placement.padded(rows.error).clamp(min=0)).nan_to_num(nan=torch.inf).sum(1),
        evaluations=sums.index_add(0, placement.datum, rows.evaluations),
        reach=-placement.padded(-rows.reach).amax(1),
    )


def _repeated(modes: Modes, log_mass: Tensor) -> Bool[Tensor, "starts batch"]:
    """Ascents that end where another of more mass, or an earlier one, has ended."""
    between = modes.point.unsqueeze(0) - modes.point.unsqueeze(1)
    squared = torch.einsum("abni,bnij,abnj->abn", between, modes.precision, between)
    same = squared.abs() < _SAME**2
    mass = log_mass.nan_to_num(neginf=-torch.finfo(log_mass.dtype).max)
    order = torch.arange(len(mass), device=mass.device)
    # [a, b]: b comes before a.
    earlier = (order.unsqueeze(0) < order.unsqueeze(1)).unsqueeze(-1)
    before = (mass.unsqueeze(0) > mass.unsqueeze(1)) | (
        (mass.unsqueeze(0) == mass.unsqueeze(1)) & earlier
    )
    return (same & before).any(1)


def _factor(precision: Float[Tensor, "rows dim dim"]) -> Float[Tensor, "rows dim dim"]:
    """L of ``L L' = precision^-1``, of a matrix made positive definite where it is not."""
    eigenvalues, vectors = torch.linalg.eigh(precision)
    size = eigenvalues.abs()
    size = size.clamp(min=1e-8).maximum(1e-6 * size.amax(-1, keepdim=True))
    covariance = (vectors / size.unsqueeze(-2)) @ vectors.mT
    factor: Tensor = torch.linalg.cholesky(0.5 * (covariance + covariance.mT))
    return factor
