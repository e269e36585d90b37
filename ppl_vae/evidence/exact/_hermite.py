"""Gauss-Hermite rules placed at a Gaussian, and the order raised until two of them agree."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from scipy.special import roots_hermitenorm
from torch import Tensor

from ppl_vae.evidence.exact._modes import LogJoint

_RAISE = 1.5
_MOST_NODES = 2**16
_LARGEST_ORDER = 200
_ROWS = 200_000


@final
@dataclass(frozen=True)
class Gaussian:
    """Where a rule is placed: a mean (batch, dim) and a factor L of the covariance L L'."""

    mean: Float[Tensor, "batch dim"]
    factor: Float[Tensor, "batch dim dim"]

    def rows(self, index: Tensor) -> "Gaussian":
        """Of some of the data."""
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
    found = [min(first, int(largest / _RAISE**2))]
    while found[-1] < largest:
        found.append(min(largest, math.ceil(_RAISE * found[-1])))
    return found


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
        value[rows] = _apply_rule(log_joint, rows, at.rows(rows), t, log_weight)
        changes.append((value - known).abs().nan_to_num(nan=torch.inf))
        error[rows] = _sum_of_last(changes, 2)[rows]
        spent[rows] += len(t)
        reach[rows], before = before, t.max().item()
        rows = rows[error[rows] > tolerance[rows]]
        if not len(rows):
            break
    if len(rows):
        error[rows] = _sum_of_last(changes[1:], 4)[rows]
    return Integral(value, error, spent, reach)


def _sum_of_last(changes: list[Tensor], number: int) -> Float[Tensor, " batch"]:
    return torch.stack(changes[-number:]).sum(0)


def _apply_rule(
    log_joint: LogJoint, rows: Tensor, at: Gaussian, t: Tensor, log_weight: Tensor
) -> Float[Tensor, " batch"]:
    pieces = t.split(max(1, _ROWS // len(rows)))
    values = torch.cat([log_joint(rows, at.place(piece)) for piece in pieces])
    return torch.logsumexp(values + log_weight.unsqueeze(-1), 0) + at.log_det


@lru_cache(maxsize=64)
def hermite_nodes(order: int, dim: int) -> tuple[Tensor, Tensor]:
    r"""Nodes t (order^dim, dim) and log-weights such that ``sum w f(t) = \int f(t) dt``.

    Exact for a polynomial of degree ``2 order - 1`` in each dimension times exp(-\|t\|^2/2).
    """
    roots, weights = roots_hermitenorm(order)
    node, weight = torch.from_numpy(roots), torch.from_numpy(weights)
    kept = weight > 0  # the outermost weights of a high order are below the smallest number
    node, weight = node[kept], weight[kept]
    log_weight = weight.log() + 0.5 * node.square()
    t = torch.cartesian_prod(*[node] * dim).reshape(-1, dim)
    return t, torch.cartesian_prod(*[log_weight] * dim).reshape(-1, dim).sum(-1)
