"""Bounds of other divergences (Renyi, chi, tail-adaptive) and of the thermodynamic path."""

import math
from dataclasses import replace
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives._base import Claims, Objective, PerDatum, PerDraw
from ppl_vae.objectives._paths import path_term
from ppl_vae.particles import Particles
from ppl_vae.weights import log_mean_exp, normalized_weights

_NEAR_ONE = 1e-6
"""Closer to 1 than this, 1 / (1 - alpha) only amplifies rounding."""


@final
class Renyi(Objective):
    """``1/(1 - alpha) log mean_k w_k^(1 - alpha)``.

    alpha = 1 is the ELBO (the limit), 0 the importance-weighted bound, negative alpha goes past it
    and -inf is :class:`VRMax`. The exact bound is lower for alpha >= 0 and upper for alpha < 0; the
    estimate from K particles is biased for it, towards the ELBO, so that for alpha >= 0 its
    expectation is a lower bound for every K and for alpha < 0 neither. Gradients are unbiased for
    that expectation. Costs K decoder evaluations per datum.

    Args:
        num_particles: Number of particles K.
        alpha: Order, any finite number.

    References:
        Li and Turner, 2016, Renyi divergence variational inference.
    """

    claims = Claims(
        name="renyi:K,alpha=A",
        formula="1/(1 - alpha) log mean_k w_k^(1 - alpha)",
        gradient="unbiased for theta and phi, of the K-particle value",
        bias="O(1/K) towards the ELBO; no bound for alpha < 0",
        use="between mass-covering (alpha < 1) and mode-seeking (alpha > 1) guides",
        reference="Li and Turner, 2016, Renyi divergence variational inference",
    )

    def __init__(self, num_particles: int, *, alpha: float) -> None:
        super().__init__(num_particles)
        if not math.isfinite(alpha):
            raise ValueError(f"Renyi needs a finite alpha, got {alpha}; -inf is vr-max:K.")
        self.alpha = alpha
        # K = 1 is the ELBO for every alpha. More particles move the value towards the exact bound:
        # past log p(x) for alpha < 0, down for alpha > 1.
        if alpha < 0:
            self.claims = replace(self.claims, direction="neither")
        if alpha > 1:
            self.claims = replace(self.claims, grows=False)

    def bound(self, particles: Particles) -> PerDatum:
        """The K-particle estimate, in nats."""
        order = 1 - self.alpha
        mean = particles.log_weight.mean(0)
        if abs(order) < _NEAR_ONE:
            return mean
        # Centred, so that what is divided by a small order has no large common part.
        return mean + log_mean_exp(order * (particles.log_weight - mean)) / order


@final
class VRMax(Objective):
    """``max_k log w_k``: the Renyi bound at alpha = -inf.

    Its expectation can lie on either side of log p(x). The gradient is that of the largest weight
    alone. Costs K decoder evaluations per datum.

    References:
        Li and Turner, 2016, Renyi divergence variational inference.
    """

    claims = Claims(
        name="vr-max:K",
        formula="max_k log w_k",
        direction="neither",
        gradient="unbiased for theta and phi, of the K-particle value",
        bias="no bound on log p(x)",
        use="a fast approximation of iwae; for comparison",
        reference="Li and Turner, 2016, Renyi divergence variational inference",
    )

    def bound(self, particles: Particles) -> PerDatum:
        """The largest log-weight, in nats."""
        return particles.log_weight.amax(0)


@final
class CUBO(Objective):
    """``1/n log mean_k w_k^n``; phi descends it, theta ascends ``log mean_k w_k``.

    With the exact expectation of w^n it is an upper bound on log p(x), n >= 1; the estimate from K
    particles is biased down and is no bound. An upper bound is to be made small by the guide, and
    says nothing about how to move the model, so theta follows L_K, unbiased. phi descends the
    estimate: the gradient of exp(n CUBO), divided by the estimate of exp(n CUBO), whose bias is
    O(1/K). Given ``log_reference``, phi descends ``exp(n (CUBO - log_reference)) / n`` instead,
    without bias. Costs K decoder evaluations per datum, and one more backward pass.

    Args:
        num_particles: Number of particles K.
        order: n, at least 1.
        log_reference: A rough log p(x) in nats, the same for all data, or None.

    References:
        Dieng et al., 2017, Variational inference via chi upper bound minimization.
    """

    graph = "split"
    climbs = False
    claims = Claims(
        name="cubo:K,order=N",
        formula="1/n log mean_k w_k^n",
        direction="neither",
        gradient="phi descends it, bias O(1/K); theta ascends log mean_k w_k, unbiased",
        bias="an upper bound only as K grows: the estimate is low",
        use="an overdispersed guide, good as a proposal",
        reference="Dieng et al., 2017, Variational inference via chi upper bound minimization",
        unbiased=frozenset(),
    )

    def __init__(
        self, num_particles: int, *, order: float, log_reference: float | None = None
    ) -> None:
        super().__init__(num_particles)
        if not (order >= 1 and math.isfinite(order)):
            raise ValueError(f"CUBO needs an order n >= 1, got {order}.")
        self.order, self.log_reference = order, log_reference

    def bound(self, particles: Particles) -> PerDatum:
        """The K-particle estimate, in nats."""
        return log_mean_exp(self.order * particles.log_weight) / self.order

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Theta up the importance-weighted bound, phi down this one."""
        log_weight = particles.log_weight.detach()
        # Normalised weights w^n are the gradient of exp(n CUBO) over the estimate of it.
        down = normalized_weights(self.order * log_weight)
        if self.log_reference is not None:
            # Undoes the normalisation but for a constant: w^n / K, whose gradient is unbiased.
            down = down * (self.order * (bound.detach() - self.log_reference)).exp()
        direct = normalized_weights(log_weight) * particles.log_joint
        # log w holds -log q: to descend log w is to raise log q, and to go down its path.
        score = down * particles.log_proposal
        return (direct + score).sum(0) - path_term(particles, particles.log_weight, down)


@final
class TailAdaptive(Objective):
    """ELBO reported and followed by theta; phi: ``sum_k g_k (d log w_k/dz_k)(dz_k/dphi)``.

    g_k is 1 over the fraction of particles whose weight is at least w_k, normalised: it depends on
    the rank of w_k alone, so that it has all moments however heavy the tail of w, and leans the
    guide towards covering mass. theta is unbiased for the ELBO; phi follows a divergence that
    adapts to the tail, and no bound. Costs K decoder evaluations per datum, and one more backward
    pass.

    References:
        Wang, Liu and Liu, 2018, Variational inference with tail-adaptive f-divergence.
    """

    graph = "split"
    claims = Claims(
        name="tail-adaptive:K",
        formula="mean_k log w_k",
        gradient="theta unbiased; phi for an f-divergence that adapts to the tail of w",
        bias="phi follows no bound",
        use="a guide that covers mass, with bounded weights",
        reference="Wang, Liu and Liu, 2018, Variational inference with tail-adaptive f-divergence",
        unbiased=frozenset({"theta"}),
        zero_at_posterior=True,
    )

    def bound(self, particles: Particles) -> PerDatum:
        """Mean log-weight, in nats."""
        return particles.log_weight.mean(0)

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Direct part of log p(x, z), path of log w by rank weights."""
        weight = rank_weights(particles.log_weight.detach())
        return particles.log_joint.mean(0) + path_term(particles, particles.log_weight, weight)


def rank_weights(log_weight: PerDraw) -> PerDraw:
    """``1 / #{j: w_j >= w_k}``, normalised over the particles; ties share one weight."""
    # torch.searchsorted wants rows that ascend, and counts those up to a value.
    descending = torch.sort(-log_weight, dim=0).values.mT.contiguous()
    at_least = torch.searchsorted(descending, -log_weight.mT.contiguous(), right=True).mT
    weight = 1 / at_least.to(log_weight.dtype)
    return weight / weight.sum(0)


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
        num_particles: Number of particles K.
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

    graph = "score"
    # One draw has no covariance: phi would get a score of expectation 0 and never learn.
    least_particles = 2
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
            self.climbs = False
        if partition == "moment":
            # Steps are found from the batch: a datum's value depends on the others.
            self.claims = replace(self.claims, per_datum=False)
            self.couples = "steps found from the mean over a batch"

    def bound(self, particles: Particles) -> PerDatum:
        """The Riemann sum of self-normalised expectations, in nats."""
        log_weight = particles.log_weight
        ends = self.ends(log_weight.detach())
        means = torch.stack([_mean(log_weight, b) for b in self._nodes(ends)])
        return (ends.diff().unsqueeze(-1) * means).sum(0)

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Terms with the covariance gradient."""
        log_weight = particles.log_weight.detach()
        log_joint, log_guide = particles.log_joint, particles.log_proposal
        # A sample covariance about its own mean is low by (K - 1)/K; at b = 0 exactly so.
        correction = particles.num_particles / (particles.num_particles - 1)
        # The guide makes an upper bound small: it descends what it ascends of a lower one.
        sign = -1.0 if self.side == "right" else 1.0
        ends = self.ends(log_weight)
        total = torch.zeros_like(bound)
        for width, b in zip(ends.diff(), self._nodes(ends), strict=True):
            weight = torch.softmax(b * log_weight, 0)
            centred = correction * weight * (log_weight - (weight * log_weight).sum(0))
            # log pi_b~ = b log p(x, z) + (1 - b) log q: the covariance has a gradient for either.
            model = weight * log_joint + centred * b * log_joint
            guide = -weight * log_guide + centred * (1 - b) * log_guide
            total = total + width * (model + sign * guide).sum(0)
        return total

    def _nodes(self, ends: Float[Tensor, " ends"]) -> Float[Tensor, " terms"]:
        return ends[:-1] if self.side == "left" else ends[1:]

    def ends(self, log_weight: PerDraw) -> Float[Tensor, " ends"]:
        """b_0 = 0 < b_1 < ... < b_S = 1, without gradient."""
        steps = torch.linspace(0, 1, self.num_terms + 1, dtype=log_weight.dtype)
        steps = steps.to(log_weight.device)
        if self.partition == "linear" or self.num_terms == 1:
            return steps
        if self.partition == "log":
            # b_0 = 0 has no logarithm: it stands before S points of constant ratio.
            within = steps[:-1] * self.num_terms / max(1, self.num_terms - 1)
            powers = torch.exp(math.log(self.smallest) * (1 - within))
            return torch.cat([steps[:1], powers])
        return _moment_ends(log_weight, steps)


def _mean(log_weight: Tensor, b: Tensor) -> PerDatum:
    weight = torch.softmax(b * log_weight.detach(), 0)
    return (weight * log_weight).sum(0)


def _moment_ends(log_weight: Tensor, steps: Float[Tensor, " ends"]) -> Float[Tensor, " ends"]:
    """Points at equal steps of the batch mean of E_(pi_b) log w, by linear interpolation."""
    grid = torch.linspace(0, 1, _GRID, dtype=log_weight.dtype, device=log_weight.device)
    curve = torch.stack([_mean(log_weight, b).mean() for b in grid])
    # The exact curve grows; rounding may not, and a search needs sorted values.
    curve = curve.cummax(0).values
    wanted = curve[0] + steps * (curve[-1] - curve[0])
    right = torch.searchsorted(curve, wanted).clamp(1, _GRID - 1)
    low, high = curve[right - 1], curve[right]
    # Where all weights are equal the curve is flat, and any point of the interval would do.
    share = torch.where(high > low, (wanted - low) / (high - low).clamp(min=1e-30), 0.5)
    ends = grid[right - 1] + share.clamp(0, 1) / (_GRID - 1)
    # 0 and 1 themselves: interpolation would return them only up to rounding.
    return torch.cat([steps[:1], ends[1:-1], steps[-1:]])
