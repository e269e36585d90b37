"""Gauss-Hermite rules placed at the modes of a datum, which share its integral among them."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import final

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ppl_vae.evidence.exact._joint import LogJoint, Modes, curvature

_RAISE = 1.5
_MOST_NODES = 2**16
_LARGEST_ORDER = 200
_ROWS = 200_000
_SAME = 0.1
"""Two ascents that end closer than this, in standard deviations, found one mode."""
_PLATEAU = 30.0
"""An ascent that ends where there is no maximum matters if it comes so close to the best, nats."""


@final
@dataclass(frozen=True)
class Gaussian:
    """Place of a rule: a mean (batch, dim) and a factor L of the covariance L L'."""

    mean: Float[Tensor, "batch dim"]
    factor: Float[Tensor, "batch dim dim"]

    def rows(self, index: Tensor) -> "Gaussian":
        """Gaussians of some of the data."""
        return Gaussian(self.mean[index], self.factor[index])

    def place(self, t: Float[Tensor, "points dim"]) -> Float[Tensor, "points batch dim"]:
        """``mean + L t``."""
        return self.mean + torch.einsum("bij,pj->pbi", self.factor, t)

    def standardize(
        self, u: Float[Tensor, "points batch dim"]
    ) -> Float[Tensor, "points batch dim"]:
        """``L^-1 (u - mean)``."""
        centred = (u - self.mean).movedim(0, -1)
        standard: Tensor = torch.linalg.solve_triangular(self.factor, centred, upper=False)
        return standard.movedim(-1, 0)

    def distance(self, u: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch"]:
        """``|L^-1 (u - mean)|``."""
        distance: Tensor = self.standardize(u).norm(dim=-1)
        return distance

    @property
    def log_det(self) -> Float[Tensor, " batch"]:
        """``log det L``."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@final
@dataclass(frozen=True)
class Integral:
    """``log integral p(x, u) du`` per datum.

    Attributes:
        log_value: In nats, shape (batch,).
        error: What the last two steps from rule to rule have changed, in nats, shape (batch,).
        evaluations: Decoder evaluations, shape (batch,).
        reach: How many standard deviations from the mean the last rule but one looks, (batch,).
    """

    log_value: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    evaluations: Float[Tensor, " batch"]
    reach: Float[Tensor, " batch"]


def orders(first: int, dim: int) -> list[int]:
    """Orders to try: each half as large again, while the grid stays below 65536 nodes.

    There are three or more, whose changes are the error.
    """
    largest = min(_LARGEST_ORDER, int(_MOST_NODES ** (1 / dim)))
    tried = [min(first, int(largest / _RAISE**2))]
    while tried[-1] < largest:
        tried.append(min(largest, math.ceil(_RAISE * tried[-1])))
    return tried


def integrate(
    log_joint: LogJoint, at: Gaussian, order: int, tolerance: Float[Tensor, " batch"]
) -> Integral:
    """Raise the order until three rules agree to the tolerance, or the grid would be too large.

    Row i of the placement is integrated by ``log_joint`` at row i. Where the density has kinks the
    changes from rule to rule are erratic, and two small ones in turn an accident: where rules do
    not agree, the changes of two more rules count as error too.
    """
    batch, dim = at.mean.shape
    value, error, reach = (at.mean.new_full((batch,), torch.inf) for _ in range(3))
    spent, before, changes = torch.zeros_like(value), 0.0, []
    rows = torch.arange(batch, device=at.mean.device)
    for number in orders(order, dim):
        t, log_weight = (part.to(at.mean.device) for part in hermite_nodes(number, dim))
        known = value.clone()
        own = at.rows(rows)
        pieces = t.split(max(1, _ROWS // len(rows)))
        values = torch.cat([log_joint(rows, own.place(piece)) for piece in pieces])
        value[rows] = torch.logsumexp(values + log_weight.unsqueeze(-1), 0) + own.log_det
        changes.append((value - known).abs().nan_to_num(nan=torch.inf))
        error[rows] = torch.stack(changes[-2:]).sum(0)[rows]
        spent[rows] += len(t)
        reach[rows], before = before, t.max().item()
        rows = rows[error[rows] > tolerance[rows]]
        if not len(rows):
            break
    if len(rows):
        error[rows] = torch.stack(changes[1:][-4:]).sum(0)[rows]
    return Integral(value, error, spent, reach)


@lru_cache(maxsize=64)
def hermite_nodes(order: int, dim: int) -> tuple[Tensor, Tensor]:
    r"""Nodes t (order^dim, dim) and log-weights such that ``sum w f(t) = \int f(t) dt``.

    Exact for a polynomial of degree ``2 order - 1`` in each dimension times exp(-\|t\|^2/2).
    """
    roots, weights = scipy.special.roots_hermitenorm(order)
    node, weight = torch.from_numpy(roots), torch.from_numpy(weights)
    kept = weight > 0  # the outermost weights of a high order are below the smallest number
    node, weight = node[kept], weight[kept]
    # The weights hold exp(-t^2/2), which is taken out: f is the density itself.
    log_weight = weight.log() + 0.5 * node.square()
    t = torch.cartesian_prod(*[node] * dim).reshape(-1, dim)
    return t, torch.cartesian_prod(*[log_weight] * dim).reshape(-1, dim).sum(-1)


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
        # Where a precision is not positive definite, a Gaussian of its size stands in.
        size, vectors = curvature(modes.precision[start, datum])
        covariance = (vectors / size.unsqueeze(-2)) @ vectors.mT
        factor = torch.linalg.cholesky(0.5 * (covariance + covariance.mT))
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

    def padded(self, values: Float[Tensor, " rows"]) -> Float[Tensor, "batch modes"]:
        """Values by datum and mode; -inf where a datum has fewer modes."""
        return torch.where(self.table >= 0, values[self.table], -torch.inf)

    def distances(
        self, datum: Tensor, u: Float[Tensor, "points batch dim"]
    ) -> Float[Tensor, "points batch modes"]:
        """Distances of points from their datum's modes, in standard deviations; inf for no mode."""
        rows = self.table[datum]
        known = [self.at.rows(row).distance(u) for row in rows.unbind(1)]
        return torch.where(rows >= 0, torch.stack(known, -1), torch.inf)

    def log_responsibility(
        self, rows: Tensor, u: Float[Tensor, "points rows dim"]
    ) -> Float[Tensor, "points rows"]:
        """Log share of each row's mode in the density at u, among its datum's: shares sum to 1."""
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
    # With one mode for each datum all responsibilities are 1.
    alone = len(placement.datum) == len(placement.improper)

    def part(rows: Tensor, u: Tensor) -> Tensor:
        values = log_joint(placement.datum[rows], u)
        return values if alone else values + placement.log_responsibility(rows, u)

    # A mode with a small share of a datum's mass may be off by more.
    total = torch.logsumexp(placement.padded(placement.log_mass), 1)
    mode_share = (placement.log_mass - total[placement.datum]).exp().nan_to_num(nan=1.0)
    allowed = tolerance[placement.datum] / mode_share
    rows = integrate(part, placement.at, order, allowed)
    values = placement.padded(rows.log_value)
    share = torch.softmax(values, 1)
    sums = torch.zeros_like(tolerance)
    return Integral(
        log_value=torch.logsumexp(values, 1),
        error=(share * placement.padded(rows.error).clamp(min=0)).nan_to_num(nan=torch.inf).sum(1),
        evaluations=sums.index_add(0, placement.datum, rows.evaluations),
        # The least of a datum's modes; padding is -inf, hence the signs.
        reach=-placement.padded(-rows.reach).amax(1),
    )


def _repeated(modes: Modes, log_mass: Tensor) -> Bool[Tensor, "starts batch"]:
    """Ascents that end where another of more mass, or an earlier one, has ended."""
    between = modes.point.unsqueeze(0) - modes.point.unsqueeze(1)
    squared = torch.einsum("abni,bnij,abnj->abn", between, modes.precision, between)
    # A precision that is not positive definite makes squares below 0.
    same = squared.abs() < _SAME**2
    mass = log_mass.nan_to_num(neginf=-torch.finfo(log_mass.dtype).max)
    order = torch.arange(len(mass), device=mass.device)
    # [a, b]: b comes before a.
    earlier = (order.unsqueeze(0) < order.unsqueeze(1)).unsqueeze(-1)
    before = (mass.unsqueeze(0) > mass.unsqueeze(1)) | (
        (mass.unsqueeze(0) == mass.unsqueeze(1)) & earlier
    )
    return (same & before).any(1)
