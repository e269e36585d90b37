"""The thermodynamic variational objective."""

import math
from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Objective
from ppl_vae.objectives._claims import Claims
from ppl_vae.particles import Graph, Particles

Partition = Literal["log", "linear", "moment"]
_GRID = 101
"""Points at which the curve of E[log w] is taken for the moment partition."""


@final
class TVO(Objective):
    r"""``sum_s (b_(s+1) - b_s) E_(pi_b) log w``, pi_b ~ q^(1-b) p(x, z)^b, b at the left ends.

    log p(x) is the integral over b in [0, 1] of E_(pi_b) log w, which grows with b: the left
    Riemann sum is a lower bound, the right sum an upper bound; the left sum with one term is the
    ELBO. The expectations are by self-normalised weights w^b over the same particles, a bias of
    O(1/K); draw by draw, the log of the mean weight is the same integral over the weights at hand,
    so that the left sum lies between the ELBO's value and that of IWAE, and is a lower bound for
    every K. The gradient of each term is the covariance gradient ``E[grad log w] + Cov(log w, grad
    log pi_b~)``: unbiased at b = 0, else biased by O(1/K). Any latents. Costs K >= 2 decoder
    evaluations per datum, none differentiated to z, whatever S.

    With ``side="right"`` phi descends (an upper bound is to be made small) and theta ascends.

    Args:
        num_particles: K.
        num_terms: S, terms of the sum.
        partition: ``log`` (b_1 = smallest, then a constant ratio), ``linear``, or ``moment``
            (equal steps of E[log w], found from the batch).
        smallest: b_1 of the log partition, between 0 and 1.
        side: ``left`` or ``right``.

    References:
        Masrani, Le and Wood, 2019, The thermodynamic variational objective.
        Brekelmans et al., 2020, All in the exponential family: Bregman duality in thermodynamic
        variational inference.
    """

    graph: ClassVar[Graph] = "score"
    # One draw has no covariance: phi would get a score of expectation 0 and never learn.
    least_particles: ClassVar[int] = 2
    claims = Claims(
        name="tvo:K,num_terms=S,partition=P,side=SIDE",
        formula="sum_s (b_(s+1) - b_s) E_(pi_(b_s)) log w",
        gradient="covariance gradient of theta and phi, bias O(1/K)",
        bias="O(1/K) of self-normalised expectations",
        use="a bound between the ELBO and log p(x); any latents",
        reference="Masrani, Le and Wood, 2019, The thermodynamic variational objective",
        unbiased=frozenset(),
        grows=False,
    )

    def __init__(
        self,
        num_particles: int,
        *,
        num_terms: int,
        partition: Partition = "log",
        side: Literal["left", "right"] = "left",
        smallest: float = 0.1,
    ) -> None:
        super().__init__(num_particles)
        if not isinstance(num_terms, int) or num_terms < 1:
            raise ValueError(f"TVO needs S >= 1 terms (a whole number), got {num_terms}.")
        if partition not in ("log", "linear", "moment"):
            raise ValueError(f"TVO's partition is log, linear or moment, got {partition!r}.")
        if side not in ("left", "right"):
            raise ValueError(f"TVO's side is left or right, got {side!r}.")
        if not 0 < smallest < 1:
            raise ValueError(f"TVO's smallest b must be between 0 and 1, got {smallest}.")
        self.num_terms, self.partition, self.side = num_terms, partition, side
        self.smallest = smallest
        if side == "right":
            self.claims = replace(self.claims, direction="neither")
        if partition == "moment":
            self.claims = replace(self.claims, per_datum=False)

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The Riemann sum of self-normalised expectations, in nats."""
        log_weight = particles.log_weight
        ends = self.ends(log_weight.detach())
        means = torch.stack([_mean(log_weight, b) for b in self._nodes(ends)])
        return (ends.diff().unsqueeze(-1) * means).sum(0)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Terms with the covariance gradient."""
        ends = self.ends(particles.log_weight.detach())
        total = torch.zeros_like(bound)
        for width, b in zip(ends.diff(), self._nodes(ends), strict=True):
            total = total + width * self._term(particles, b)
        return total

    def _term(self, particles: Particles, b: Tensor) -> Float[Tensor, " batch"]:
        log_weight = particles.log_weight.detach()
        weight = torch.softmax(b * log_weight, 0)
        # A sample covariance about its own mean is low by (K - 1)/K; at b = 0 exactly so.
        correction = particles.num_particles / (particles.num_particles - 1)
        centred = correction * weight * (log_weight - (weight * log_weight).sum(0))
        log_joint, log_guide = particles.log_joint, particles.log_proposal
        # An upper bound is a lower one's mirror image for the guide.
        sign = -1.0 if self.side == "right" else 1.0
        model = weight * log_joint + centred * b * log_joint
        guide = -weight * log_guide + centred * (1 - b) * log_guide
        return (model + sign * guide).sum(0)

    def _nodes(self, ends: Float[Tensor, " ends"]) -> Float[Tensor, " terms"]:
        return ends[:-1] if self.side == "left" else ends[1:]

    def ends(self, log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " ends"]:
        """b_0 = 0 < b_1 < ... < b_S = 1, without gradient."""
        steps = torch.linspace(0, 1, self.num_terms + 1, dtype=log_weight.dtype)
        steps = steps.to(log_weight.device)
        if self.partition == "linear" or self.num_terms == 1:
            return steps
        if self.partition == "log":
            within = steps[:-1] * self.num_terms / max(1, self.num_terms - 1)
            powers = torch.exp(math.log(self.smallest) * (1 - within))
            return torch.cat([steps[:1], powers])
        return _moment_ends(log_weight, steps)


def _mean(log_weight: Tensor, b: Tensor) -> Float[Tensor, " batch"]:
    weight = torch.softmax(b * log_weight.detach(), 0)
    return (weight * log_weight).sum(0)


def _moment_ends(log_weight: Tensor, steps: Float[Tensor, " ends"]) -> Float[Tensor, " ends"]:
    """Points at equal steps of the batch mean of E_(pi_b) log w, by linear interpolation."""
    grid = torch.linspace(0, 1, _GRID, dtype=log_weight.dtype, device=log_weight.device)
    curve = torch.stack([_mean(log_weight, b).mean() for b in grid])
    curve = curve.cummax(0).values
    wanted = curve[0] + steps * (curve[-1] - curve[0])
    right = torch.searchsorted(curve, wanted).clamp(1, _GRID - 1)
    low, high = curve[right - 1], curve[right]
    share = torch.where(high > low, (wanted - low) / (high - low).clamp(min=1e-30), 0.5)
    ends = grid[right - 1] + share.clamp(0, 1) / (_GRID - 1)
    return torch.cat([steps[:1], ends[1:-1], steps[-1:]])
