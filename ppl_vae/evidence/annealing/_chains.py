"""Markov chains along a path of densities: where they stand, how they move and are resampled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ppl_vae.capture import Function, iterated
from ppl_vae.particles import LatentDensity, Replays

Start = Literal["prior", "guide"]

_JITTER = 0.5
"""Each trajectory's step is drawn within this fraction of the tuned one. Trajectories of one length
can be half a period of the target, after which every quadratic is back where it began: on a
50-dimensional normal, 3 steps then lose 6 nats where 2 steps lose 1."""
_AT_ONCE = 6
"""Most leapfrog steps that are compiled as one function. Such a function computes log-densities at
its end alone and saves calls; the time that compiling takes grows with its steps."""


class Chains(NamedTuple):
    """Positions of Markov chains and, at these, everything a transition needs.

    Attributes:
        position: u, shape (chains, batch, dim).
        momentum: Standard normal under every f_b; same shape.
        base: ``log f_0(u)``, shape (chains, batch).
        ratio: ``d/db log f_b(u)``, shape (chains, batch).
        base_gradient: Of base in u, shape (chains, batch, dim).
        ratio_gradient: Of ratio in u, shape (chains, batch, dim).
    """

    position: Tensor
    momentum: Tensor
    base: Tensor
    ratio: Tensor
    base_gradient: Tensor
    ratio_gradient: Tensor

    def log_density(self, level: Float[Tensor, " levels"]) -> Float[Tensor, "chains batch"]:
        """``log f_b(u)`` at temperature b, one number for each datum or for all."""
        return self.base + level * self.ratio


def select(condition: Bool[Tensor, "chains batch"], new: Chains, old: Chains) -> Chains:
    """Select the new chains where the condition holds, elsewhere the old ones.

    A choice, and no arithmetic: ``condition * new + (1 - condition) * old`` would let a new NaN
    into the chains that it was rejected for.
    """
    wide = condition.unsqueeze(-1)
    pairs = zip(new, old, strict=True)
    return Chains(*(torch.where(wide if a.dim() == 3 else condition, a, b) for a, b in pairs))


@final
class GeometricPath:
    """``log f_b(u) = (1 - b) log f_0(u) + b log p(x, u)``, for b from 0 to 1.

    From the prior, f_0 = p(z) and ``d/db log f_b = log p(x|z)``; from the guide, f_0 = q(z|x) and
    ``d/db log f_b = log p(x, z) - log q(z|x)``. f_0 integrates to 1, f_1 to p(x). From the prior
    the path goes on beyond b = 1, towards the z that x is most likely under.

    Args:
        density: The three log-densities, of a batch.
        start: What f_0 is.
        replays: Compiled forms of leapfrog steps, which are taken where that pays.
        calls: Number of gradients that are planned.
    """

    def __init__(
        self,
        density: LatentDensity,
        start: Start,
        replays: Replays | None = None,
        calls: int = 0,
    ) -> None:
        self.density, self.start = density, start
        self._replays, self._calls = replays, calls
        self._runs: dict[int, Function] = {}

    def draw(self) -> Chains:
        """Chains at exact, independent draws from f_0."""
        density = self.density
        return self.at(density.draw_prior() if self.start == "prior" else density.draw_guide())

    def at(self, position: Float[Tensor, "chains batch dim"]) -> Chains:
        """Chains at these positions, with fresh momentum. One gradient evaluation."""
        return Chains(position.detach(), _normal(position), *self._gradients(position))

    def leapfrog(
        self,
        chains: Chains,
        level: Float[Tensor, "..."],
        stride: Float[Tensor, "..."],
        num_steps: int,
    ) -> Chains:
        """Chains after leapfrog steps along f_b. A gradient evaluation each.

        Args:
            chains: Where they are.
            level: Temperature b.
            stride: How far a momentum of 1 moves a chain.
            num_steps: Number of steps.
        """
        # In memory of its own, where one operation moves all: it is one number for each chain else.
        # Of its type, too: a likelihood in double precision would make chains double by the steps
        # that its acceptance tunes, and a compiled form reads numbers of one type.
        stride = stride.expand_as(chains.position).to(chains.position.dtype).contiguous()
        tempered = stride * level.unsqueeze(-1).to(stride.dtype)
        at_once = max(n for n in range(1, _AT_ONCE + 1) if num_steps % n == 0)
        # Half a kick at the end of a step and half of one at the start of the next are one: half
        # of one goes before the first step, and half of the last one is taken back.
        chains = _kicked(chains, stride, tempered, 0.5)
        if at_once not in self._runs:
            self._runs[at_once] = self._run(at_once, [*chains, stride, tempered])
        for _ in range(num_steps // at_once):
            chains = Chains(*self._runs[at_once](*chains, stride, tempered))
        return _kicked(chains, stride, tempered, -0.5)

    def _run(self, num_steps: int, inputs: Sequence[Tensor]) -> Function:
        """Whole steps, compiled if that pays."""
        steps = iterated(self._step, num_steps)
        if self._replays is None:
            return steps
        made = self._replays.of(
            "leapfrog", self._step, inputs, 2 * inputs[0].shape[:2].numel(), self._calls,
            holds=True, times=num_steps,
        )  # fmt: skip
        return made or steps

    def _step(self, *inputs: Tensor) -> Chains:
        *fields, stride, tempered = inputs
        chains = Chains(*fields)
        position = chains.position.addcmul(stride, chains.momentum)
        moved = Chains(position, chains.momentum, *self._gradients(position))
        return _kicked(moved, stride, tempered, 1.0)

    def _gradients(self, position: Tensor) -> list[Tensor]:
        """The fields of :class:`Chains` that follow from a position."""
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            base, other = self._base_and_other(leaf)
            # Two backward passes, of which one is cheap: the sum of gradients is wanted at two
            # temperatures, that of the last transition and that of the next.
            base_gradient = _gradient(base, leaf, keep=True)
            other_gradient = _gradient(other, leaf, keep=False)
        base, other = base.detach(), other.detach()
        if self.start == "prior":
            return [base, other, base_gradient, other_gradient]
        return [base, other - base, base_gradient, other_gradient - base_gradient]

    def _base_and_other(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``log f_0``, and ``log p(x|u)`` after the prior, ``log p(x, u)`` after the guide."""
        if self.start == "prior":
            return self.density.of_model(u)
        at = self.density(u)
        return at.guide, at.likelihood + at.prior


def _kicked(chains: Chains, stride: Tensor, tempered: Tensor, fraction: float) -> Chains:
    momentum = chains.momentum.addcmul(stride, chains.base_gradient, value=fraction)
    return chains._replace(
        momentum=momentum.addcmul_(tempered, chains.ratio_gradient, value=fraction)
    )


def _gradient(value: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(
        value.sum(), leaf, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return gradient


class Transition(Protocol):
    """Markov kernel that leaves each f_b invariant, chain by chain."""

    def __call__(
        self, path: GeometricPath, chains: Chains, level: Tensor, step: Tensor, scale: Tensor
    ) -> tuple[Chains, Float[Tensor, "chains batch"]]:
        """Chains after it, and the probability with which each was to be moved."""
        ...


@final
@dataclass(frozen=True)
class HamiltonianTransition:
    """A trajectory of L leapfrog steps, accepted with probability ``min(1, exp(-dH))``.

    H is ``-log f_b(u) + |r|^2 / 2``; a step moves u by ``step * scale * r``, so that ``scale``
    stands for a diagonal mass matrix with entries ``1 / scale^2``. Before the trajectory the
    momentum becomes ``sqrt(1 - a^2) r + a * noise``; a rejected chain goes back to where it was
    with its momentum reversed. Costs L gradient evaluations.

    Args:
        leapfrog_steps: Leapfrog steps L.
        refreshment: a; 1 draws a new momentum every time.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.
        Horowitz, 1991, A generalized guided Monte Carlo algorithm.
    """

    leapfrog_steps: int
    refreshment: float = 1.0

    def __call__(
        self,
        path: GeometricPath,
        chains: Chains,
        level: Float[Tensor, " levels"],
        step: Float[Tensor, " batch"],
        scale: Float[Tensor, "..."],
    ) -> tuple[Chains, Float[Tensor, "chains batch"]]:
        """Move every chain once.

        Args:
            path: The path of densities.
            chains: Where they are.
            level: Temperature b of each datum, or of all.
            step: Step size of each datum.
            scale: By dimension, shape ``(batch, dim)``, or one number.
        """
        noise, kept = _normal(chains.momentum), math.sqrt(1 - self.refreshment**2)
        momentum = kept * chains.momentum + self.refreshment * noise
        chains = chains._replace(momentum=momentum)
        jitter = 1 + _JITTER * (2 * _uniform(chains.base) - 1)
        stride = (step * jitter).unsqueeze(-1) * scale
        proposal = path.leapfrog(chains, level, stride, self.leapfrog_steps)
        difference = _energy(chains, level) - _energy(proposal, level)
        # A proposal without a density is none, whichever way it is infinite.
        difference = torch.where(proposal.log_density(level).isfinite(), difference, -math.inf)
        # With momentum that is partly kept, f_b is invariant only if a rejected chain turns back.
        accepted = _uniform(difference).log() < difference
        reversed_ = chains._replace(momentum=-chains.momentum)
        probability = difference.nan_to_num(-math.inf).exp().clamp(max=1)
        return select(accepted, proposal, reversed_), probability


def _normal(like: Tensor) -> Tensor:
    # In the order of its indices: compiled steps lay chains out in another way than plain ones.
    return torch.randn_like(like, memory_format=torch.contiguous_format)


def _uniform(like: Tensor) -> Tensor:
    return torch.rand_like(like, memory_format=torch.contiguous_format)


def _energy(chains: Chains, level: Tensor) -> Tensor:
    return 0.5 * chains.momentum.square().sum(-1) - chains.log_density(level)


def systematic_ancestors(
    log_weight: Float[Tensor, "groups chains batch"],
) -> Int[Tensor, "groups chains batch"]:
    """Indices of chains, each drawn ``K w_k / sum w`` times on average.

    One uniform number for each datum and group moves a comb of K teeth over the cumulative weights:
    every chain has as many descendants as it should, rounded up or down.

    References:
        Carpenter, Clifford and Fearnhead, 1999, An improved particle filter for
        non-linear problems.
    """
    count = log_weight.shape[1]
    weight = torch.softmax(log_weight.double(), 1).transpose(1, 2).contiguous()
    cumulative = weight.cumsum(-1)
    # The last cumulative weight is 1 up to rounding: teeth are spread over what there is.
    offset = torch.rand_like(cumulative[..., :1])
    teeth = (torch.arange(count, device=weight.device) + offset) / count * cumulative[..., -1:]
    # A tooth that rounding puts beyond the last weight belongs to the last chain.
    return torch.searchsorted(cumulative, teeth).clamp(max=count - 1).transpose(1, 2)


def resampled(
    chains: Chains,
    log_weight: Float[Tensor, "chains batch"],
    num_groups: int,
    where: Bool[Tensor, "groups batch"] | None = None,
) -> Chains:
    """Put their ancestors in the place of chains, within groups of consecutive chains.

    Args:
        chains: Of all groups, one group after the other.
        log_weight: Their weights.
        num_groups: How many groups.
        where: Which groups of which data to resample; all if not given.
    """
    grouped = log_weight.unflatten(0, (num_groups, -1))
    size = grouped.shape[1]
    ancestors = systematic_ancestors(grouped)
    if where is not None:
        themselves = torch.arange(size, device=ancestors.device).reshape(1, -1, 1)
        ancestors = torch.where(where.unsqueeze(1), ancestors, themselves)
    first = size * torch.arange(num_groups, device=ancestors.device).reshape(-1, 1, 1)
    rows = (first + ancestors).flatten(0, 1)
    wide = rows.unsqueeze(-1).expand_as(chains.position)
    return Chains(*(value.gather(0, wide if value.dim() == 3 else rows) for value in chains))
