"""Gauss-Hermite rules placed at a Gaussian, and the order raised until two of them agree."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from scipy.special import roots_hermitenorm
from torch import Tensor

from ppl_vae.evidence.exact.modes import LogJoint

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

    def distance(self, u: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch"]:
        """``|L^-1 (u - mean)|``."""
        centred = (u - self.mean).movedim(0, -1)
        standard: Tensor = torch.linalg.solve_triangular(self.factor, centred, upper=False)
        distance: Tensor = standard.norm(dim=1)
        return distance.mT

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
    """Orders to try: each half as large again, while the grid stays below 65536 nodes."""
    largest = min(_LARGEST_ORDER, int(_MOST_NODES ** (1 / dim)))
    found = [min(first, largest)]
    while found[-1] < largest:
        found.append(min(largest, math.ceil(_RAISE * found[-1])))
    return found


def integrate(
    log_joint: LogJoint, at: Gaussian, order: int, tolerance: Float[Tensor, " batch"]
) -> Integral:
    """Raise the order until three rules agree to the tolerance, or the grid would be too large.

    Two can agree by accident where the density has a kink.

    Row i of the placement is integrated by ``log_joint`` at row i.
    """
    batch, dim = at.mean.shape
    known, change, error, reach = (at.mean.new_full((batch,), torch.inf) for _ in range(4))
    spent, before = torch.zeros_like(known), 0.0
    open_data = torch.arange(batch, device=at.mean.device)
    for number in orders(order, dim):
        t, log_weight = (part.to(at.mean.device) for part in hermite_nodes(number, dim))
        value = _apply_rule(log_joint, open_data, at.rows(open_data), t, log_weight)
        moved = (value - known[open_data]).abs().nan_to_num(nan=torch.inf)
        error[open_data] = moved + change[open_data]
        known[open_data], change[open_data] = value, moved
        spent[open_data] += len(t)
        reach[open_data], before = before, t.max().item()
        open_data = open_data[error[open_data] > tolerance[open_data]]
        if not len(open_data):
            break
    return Integral(known, error, spent, reach)


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
