"""Hamiltonian transitions of many chains for many data at once."""

import math
from dataclasses import dataclass
from typing import Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.annealing._path import Chains, GeometricPath, select

_JITTER = 0.5
"""Each trajectory's step is drawn within this fraction of the tuned one. Trajectories of one length
can be half a period of the target, after which every quadratic is back where it began: on a
50-dimensional normal, 3 steps then lose 6 nats where 2 steps lose 1."""


class Transition(Protocol):
    """A Markov kernel that leaves each f_b invariant, chain by chain."""

    def __call__(
        self, path: GeometricPath, chains: Chains, level: Tensor, step: Tensor, scale: Tensor
    ) -> tuple[Chains, Float[Tensor, "chains batch"]]:
        """The chains after it, and the probability with which each was to be moved."""
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
        leapfrog_steps: L.
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
        chains = self._refreshed(chains)
        jitter = 1 + _JITTER * (2 * torch.rand_like(chains.base) - 1)
        stride = (step * jitter).unsqueeze(-1) * scale
        proposal = self._trajectory(path, chains, level, stride)
        difference = _energy(chains, level) - _energy(proposal, level)
        # A proposal without a density is none, whichever way it is infinite.
        difference = torch.where(proposal.log_density(level).isfinite(), difference, -math.inf)
        accepted = torch.rand_like(difference).log() < difference
        reversed_ = chains._replace(momentum=-chains.momentum)
        return select(accepted, proposal, reversed_), difference.nan_to_num(-math.inf).exp().clamp(
            max=1
        )

    def _refreshed(self, chains: Chains) -> Chains:
        noise = torch.randn_like(chains.momentum)
        kept = math.sqrt(1 - self.refreshment**2)
        return chains._replace(momentum=kept * chains.momentum + self.refreshment * noise)

    def _trajectory(
        self, path: GeometricPath, chains: Chains, level: Tensor, stride: Tensor
    ) -> Chains:
        for _ in range(self.leapfrog_steps):
            momentum = chains.momentum + 0.5 * stride * chains.gradient(level)
            chains = path.moved(chains.position + stride * momentum, momentum)
            momentum = momentum + 0.5 * stride * chains.gradient(level)
            chains = chains._replace(momentum=momentum)
        return chains


def _energy(chains: Chains, level: Tensor) -> Tensor:
    return 0.5 * chains.momentum.square().sum(-1) - chains.log_density(level)
