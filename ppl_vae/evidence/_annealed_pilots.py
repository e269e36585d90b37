"""Pilots of an annealing: temperatures, chains and step sizes that each datum needs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.evidence._doubt import NORMAL
from ppl_vae.evidence._pilots import CHAINS, Fresh, Goal, Work, by_count, share_of
from ppl_vae.evidence._weighing import weight_columns
from ppl_vae.evidence.annealing._chains import GeometricPath, HamiltonianTransition, Start
from ppl_vae.evidence.annealing._pilot import (
    Annealer,
    Mass,
    Pilot,
    Tuning,
    linear,
    precisions,
    sigmoidal,
)
from ppl_vae.particles import LatentDensity

_PILOTS = 8
"""Chains of a datum that tune its steps."""
FIRST = 32
"""Temperatures of the first pilot of an annealing."""
_ALLOWANCE = 1.3
"""Factor on a variance of log W that few chains have shown."""
_SECOND, _LARGE = 4, 24
"""Blocks of a second look, and of a plan from which on it is taken."""
_ACCEPTANCE = 0.65
_MOST_TEMPERATURES = 4096
_RUNG = 4
_FITTING = 2.0
"""Variance of log W up to which it falls in proportion to the temperatures, and is near normal."""
_BLOCKS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of blocks of chains to choose from: at least 32 chains, which tell their variance."""


@final
@dataclass(frozen=True)
class AnnealingPlan:
    """Temperatures and blocks of chains that annealing needs for each datum.

    Attributes:
        temperatures: Number of temperatures.
        blocks: Number of blocks of 16 chains.
        cost: Decoder evaluations.
        spent: Decoder evaluations of the pilot.
        tuning: Step sizes along the first pilot's schedule.
        annealing: Start and transitions.
    """

    temperatures: Int[Tensor, " batch"]
    blocks: Int[Tensor, " batch"]
    cost: Float[Tensor, " batch"]
    spent: Float[Tensor, " batch"]
    tuning: Tuning
    annealing: "Annealing"

    def rows(self, index: Tensor) -> "AnnealingPlan":
        """Select some of the data."""
        return AnnealingPlan(
            self.temperatures[index],
            self.blocks[index],
            self.cost[index],
            self.spent[index],
            self.tuning.rows(index),
            self.annealing,
        )

    @property
    def asked_for(self) -> Float[Tensor, " batch"]:
        """Decoder evaluations that are planned, whether or not they are enough."""
        return self.cost

    def fresh(self, work: Work, local: Tensor, share: float) -> Iterator[Fresh]:
        """As large a share of the planned chains of some data."""
        own = replace(self.rows(local), blocks=share_of(self.blocks[local], share))
        for rows, log_weight, length in self.annealing.run(work.rows(local), own):
            spent = len(log_weight) * self.annealing.steps(length)
            yield Fresh(rows, log_weight, self.tuning.schedule.dtype, spent)

    def values(self, fresh: Fresh, log_weight: Tensor) -> dict[str, Tensor]:
        """Values of each datum by the log-weights of chains, which have no tail to fit."""
        values = weight_columns(log_weight, fresh.spent, fresh.computed_in)
        # The pilots measure the excess over log-normal weights themselves.
        left_out = "pareto_k", "tail_share", "evaluations", "skewness_z"
        return {name: value for name, value in values.items() if name not in left_out}

    def exact(
        self, work: Work, local: Tensor, fresh: Fresh, latents: Mapping[str, Tensor], dim: int
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "draws batch"]]:
        """Log W of a chain that ends at an exact draw, and the share of each place it may take.

        Args:
            work: The candidate's data.
            local: Those of the chains.
            fresh: Their chains.
            latents: Site name to one draw of the posterior of each of them.
            dim: Dimension of the data in the latents.
        """
        exact = self.annealing.backwards(work.rows(local), self.rows(local), latents, dim)
        count = len(fresh.log_weight)
        return exact, torch.full((count, len(exact)), 1 / count, dtype=torch.float64)


@final
@dataclass(frozen=True)
class Shown:
    """What chains have shown of log W.

    Attributes:
        variance: Variance of log W.
        length: Temperatures of these chains.
        excess: Relative variance of W over that of a log-normal W, where it is larger.
    """

    variance: Float[Tensor, " batch"]
    length: Float[Tensor, " batch"]
    excess: Float[Tensor, " batch"]

    def take(self, data: Tensor, log_weight: Float[Tensor, "chains rows"], length: int) -> None:
        """Put what further chains of some data show in the place of what was known."""
        variance = log_weight.var(0).nan_to_num(nan=math.inf)
        weight = torch.softmax(log_weight, 0) * len(log_weight)
        lognormal = torch.expm1(variance.clamp(max=50))
        self.variance[data], self.length[data] = variance, float(length)
        self.excess[data] = (weight.var(0) / lognormal).nan_to_num(nan=1.0).clamp(min=1.0)


@final
@dataclass(frozen=True)
class Annealing:
    """Annealing of chunks, with step sizes from a pilot.

    Attributes:
        start: Start of the path.
        leapfrog_steps: Leapfrog steps of a transition.
    """

    start: Start
    leapfrog_steps: int

    def plan(self, work: Work, goal: Goal) -> AnnealingPlan:
        """What annealing needs, by 16 chains of each datum along longer and longer schedules.

        The variance of log W falls as 1 / T once it is small; until then T is raised by fours.
        """
        path = self._path(work, FIRST, _PILOTS)
        like = path.density.draw_prior()
        pilot = Pilot(
            HamiltonianTransition(self.leapfrog_steps), _ACCEPTANCE, False, self.leapfrog_steps,
            warm_up=16, transitions=FIRST,
        )  # fmt: skip
        mass: Mass = "unit" if self.start == "prior" else "guide"
        tuning = pilot(path, self._schedule(FIRST, like), precisions(path, mass, like))
        spent = torch.full((len(work.x),), float(_PILOTS * tuning.evaluations), dtype=torch.float64)
        variance, seen = torch.full_like(spent, math.inf), torch.full_like(spent, float(FIRST))
        todo, length = torch.arange(len(spent)), FIRST
        while len(todo):
            log_weight = self._forward(work.rows(todo), tuning.rows(todo), length)
            spent[todo] += CHAINS * self.steps(length)
            variance[todo] = log_weight.var(0).nan_to_num(nan=math.inf)
            seen[todo] = length
            length *= _RUNG
            # A longer pilot is worth no more than what the estimate may cost.
            if length > _MOST_TEMPERATURES or CHAINS * self.steps(length) > goal.most // 2:
                break
            todo = todo[variance[todo] > _FITTING]
        shown = Shown(variance, seen, torch.ones_like(variance))
        plan = self._choose(shown, goal, spent, tuning)
        # A rare large weight is seldom among 16 chains; where many are asked for, a second look.
        large = (plan.blocks >= _LARGE).nonzero().squeeze(1)
        if not len(large):
            return plan
        second = replace(plan.rows(large), blocks=torch.full_like(large, _SECOND))
        for rows, log_weight, length in self.run(work.rows(large), second):
            spent[large[rows]] += len(log_weight) * self.steps(length)
            shown.take(large[rows], log_weight, length)
        return self._choose(shown, goal, spent, tuning)

    def _choose(self, shown: "Shown", goal: Goal, spent: Tensor, tuning: Tuning) -> AnnealingPlan:
        """The cheapest schedule and number of chains that meet the target."""
        lengths = FIRST * 2 ** torch.arange(int(math.log2(_MOST_TEMPERATURES // FIRST)) + 1)
        blocks = torch.tensor(_BLOCKS)
        length, count = lengths.view(-1, 1, 1), CHAINS * blocks.view(1, -1, 1)
        cost = (count * self.steps(length)).double().expand(-1, -1, len(spent))
        # Long paths lose variance as 1 / T; one is not taken to be shorter than what was seen.
        at = _ALLOWANCE * shown.variance * shown.length / length.double()
        at = torch.where(length < shown.length / 2, math.inf, at)
        error = torch.sqrt(shown.excess * torch.expm1(at.clamp(max=50)) / count)
        meets = (
            (error <= goal.error) & (_expected_doubt(at, count) <= goal.doubt) & (at <= _FITTING)
        )
        allowed = cost <= goal.most
        # Where nothing meets the target, the least variance of log W that may be paid for.
        score = torch.where(meets & allowed, cost, torch.where(allowed, 1e12 * (1 + at), math.inf))
        score = score.nan_to_num(posinf=1e300).flatten(0, 1)
        best = score.argmin(0)
        chosen = cost.flatten(0, 1).gather(0, best.unsqueeze(0))[0]
        return AnnealingPlan(
            lengths[best // len(blocks)], blocks[best % len(blocks)], chosen, spent, tuning, self
        )

    def run(self, work: Work, plan: AnnealingPlan) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Anneal as planned: indices of data with equally many chains, log W, temperatures."""
        for length in plan.temperatures.unique().tolist():
            own = (plan.temperatures == length).nonzero().squeeze(1)
            slots = own.repeat_interleave(plan.blocks[own])
            done = [
                self._forward(work.rows(part), plan.tuning.rows(part), length)
                for part in slots.split(work.at_once)
            ]
            log_weight = torch.cat(done, 1)
            for data, values in by_count(log_weight, plan.blocks[own], own):
                yield data, values, length

    def backwards(
        self, work: Work, plan: AnnealingPlan, latents: Mapping[str, Tensor], dim: int
    ) -> Float[Tensor, " batch"]:
        """Log W of one chain of each datum, annealed back from a draw of the posterior.

        Args:
            work: The data.
            plan: Their schedules.
            latents: Site name to one draw of each datum.
            dim: Dimension of the data in the latents.
        """
        log_weight = torch.empty(len(work.x), dtype=torch.float64)
        for length in plan.temperatures.unique().tolist():
            own = (plan.temperatures == length).nonzero().squeeze(1)
            annealer = self._annealer(work.rows(own), plan.tuning.rows(own), length, num_chains=1)
            at = {
                name: value.index_select(dim, own.to(value.device))
                for name, value in latents.items()
            }
            chains = annealer.path.at(annealer.path.density.pack(at))
            # Backwards, the weight is one over that of the same path forwards.
            log_weight[own] = -annealer.reverse(chains)[0].cpu()
        return log_weight

    def _forward(self, work: Work, tuning: Tuning, length: int) -> Float[Tensor, "chains slots"]:
        return self._annealer(work, tuning, length).forward()[0].cpu()

    def _annealer(
        self, work: Work, tuning: Tuning, length: int, num_chains: int = CHAINS
    ) -> Annealer:
        path = self._path(work, length, num_chains)
        schedule = self._schedule(length, tuning.steps)
        return Annealer(path, HamiltonianTransition(self.leapfrog_steps), tuning.at(schedule))

    def _path(self, work: Work, length: int, num_chains: int = CHAINS) -> GeometricPath:
        programs = work.programs.with_guide(None) if self.start == "prior" else work.programs
        density = LatentDensity(programs, work.x, num_chains)
        # Batches of another size than a whole one's do not come back: nothing is compiled.
        whole = len(work.x) == work.at_once and num_chains == CHAINS
        replays = work.replays if whole else None
        return GeometricPath(density, self.start, replays, length * self.leapfrog_steps)

    def _schedule(self, length: int, like: Tensor) -> Float[Tensor, "points 1"]:
        # From a guide, nothing changes fast at the ends.
        spaced = sigmoidal if self.start == "prior" else linear
        return spaced(length).to(like).unsqueeze(-1)

    def steps(self, length: Any) -> Any:
        """Gradient evaluations of a chain along as many temperatures."""
        return 1 + (length - 1) * self.leapfrog_steps


def _expected_doubt(variance: Tensor, count: Tensor) -> Tensor:
    """Doubt of as many chains whose log W has this variance, a little above its median."""
    least = torch.from_numpy(scipy.special.chdtri(count.numpy() - 1, 1 - 0.025))
    widest = (count - 1) / least - 1
    spread = NORMAL**2 * variance / count + (0.5 * widest * variance).square()
    skew = (NORMAL / 6) ** 2 * variance.pow(3) * 6 / count
    error = torch.sqrt(torch.expm1(variance.clamp(max=50)) / count)
    return (spread + skew).sqrt() - NORMAL * error + variance.pow(1.5) / (6 * count.sqrt())
