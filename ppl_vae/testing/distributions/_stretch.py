"""Coordinates in which heavy tails are light."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_STRAIGHT = 3.0
"""Scales from the centre where the coordinates turn from linear to logarithmic."""
FARTHEST = _STRAIGHT * math.asinh(1e12 / _STRAIGHT)
"""Farthest point, at 1e12 scales: beyond it a Cauchy law has less than 1e-12 of its mass."""


@final
@dataclass(frozen=True)
class Stretch:
    """``u = centre + sides 3 sinh(w / 3)``: about the identity near the centre, in units of draws.

    A tail ``|u|^-(df + 1)`` becomes ``exp(-df |w| / 3)``.
    """

    centre: Float[Tensor, " dim"]
    sides: Float[Tensor, "dim dim"]

    @classmethod
    def of(cls, draws: Float[Tensor, "draws dim"]) -> "Stretch":
        """Fitted to draws, by quantiles, which heavy tails do not sway."""
        centre, scale = placement(draws)
        inner = ((draws - centre) / scale).clamp(-_STRAIGHT, _STRAIGHT)
        correlation = inner.T @ inner / len(inner) + 1e-3 * torch.eye(len(centre)).to(draws)
        return cls(centre, scale.unsqueeze(-1) * torch.linalg.cholesky(correlation))

    def inverse(self, u: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim"]:
        """``w``, from u."""
        away = torch.linalg.solve_triangular(self.sides, (u - self.centre).T, upper=False).T
        w: Tensor = _STRAIGHT * (away / _STRAIGHT).asinh()
        return w

    def __call__(self, w: Float[Tensor, "points dim"]) -> tuple[Tensor, Tensor]:
        """``u``, and ``log |du/dw|``."""
        away, log_det = w / _STRAIGHT, self.sides.diagonal().log().sum()
        u = self.centre + _STRAIGHT * away.sinh() @ self.sides.T
        return u, log_det + away.cosh().log().sum(-1)


def placement(draws: Float[Tensor, "draws dim"]) -> tuple[Tensor, Tensor]:
    """Median and scale of each coordinate, by quartiles; the scale of one that stays put is 1."""
    quarter, centre, three = torch.quantile(draws, torch.tensor([0.25, 0.5, 0.75]).to(draws), dim=0)
    scale = (three - quarter) / 1.35
    return centre, torch.where(scale > 0, scale, 1.0)
