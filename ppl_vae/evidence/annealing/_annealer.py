"""Chains taken along the path, and the weights they gather."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.annealing._hmc import Transition
from ppl_vae.evidence.annealing._path import Chains, GeometricPath
from ppl_vae.evidence.annealing._pilot import Tuning


@final
@dataclass(frozen=True)
class Annealer:
    """A path with the transitions along it, all settings frozen.

    Attributes:
        path: The densities f_b of a batch of data.
        transition: A kernel that leaves f_b invariant.
        tuning: The temperatures, and the step sizes at each.
    """

    path: GeometricPath
    transition: Transition
    tuning: Tuning

    @property
    def computed_in(self) -> torch.dtype:
        """Type of the log-densities along the path."""
        return self.tuning.schedule.dtype

    @property
    def last(self) -> int:
        """Number T of the last temperature; b_T = 1 where p(x) is wanted."""
        return len(self.tuning.schedule) - 1

    def forward(self) -> tuple[Float[Tensor, "chains batch"], Chains]:
        """``log W`` of chains from draws of f_0 along b_0..b_T: E[W] = p(x).

        Also the chains, of which those with weights W stand for the posterior.
        """
        return self.anneal(self.path.draw(), range(self.last + 1))

    def reverse(self, chains: Chains) -> Float[Tensor, "chains batch"]:
        """``log W`` of chains along b_T..b_0: E[W] = 1 / p(x) if they start at posterior draws."""
        return self.anneal(chains, range(self.last, -1, -1))[0]

    def anneal(
        self, chains: Chains, points: Iterable[int]
    ) -> tuple[Float[Tensor, "chains batch"], Chains]:
        """``log W = sum_t (b_t - b_(t-1)) d/db log f_b`` at the states before each transition.

        The transition at a temperature comes after the weight has been taken to it, and there is
        none at the last one, where it would change no weight.
        """
        points = list(points)
        log_weight = torch.zeros_like(chains.base, dtype=torch.float64)
        for here, there in pairwise(points):
            log_weight = log_weight + self.increment(chains, here, there)
            if there != points[-1]:
                chains, _ = self.move(chains, there)
        return log_weight, chains

    def increment(self, chains: Chains, here: int, there: int) -> Float[Tensor, "chains batch"]:
        """``log f_there(u) - log f_here(u)``, in double precision: many small terms add up."""
        schedule = self.tuning.schedule
        return (schedule[there].double() - schedule[here].double()) * chains.ratio.double()

    def move(self, chains: Chains, point: int) -> tuple[Chains, Float[Tensor, "chains batch"]]:
        """One transition at temperature ``b_point``."""
        return self.tuning.move(self.transition, self.path, chains, point)
