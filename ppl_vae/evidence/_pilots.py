"""Pilots of an automatic estimate: what each datum needs, by draws that do not count."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.evidence._chunk import Chunk, of_mixture
from ppl_vae.evidence._doubt import doubt_by_tail
from ppl_vae.evidence._weighing import measured
from ppl_vae.particles import Programs, Replays
from ppl_vae.weights import RunningWeights

BLOCK = 250
"""Draws of a datum that are made together."""
_FROM_PRIOR = 25
"""Draws of a block that come from the prior, where the guide's support is a part of the prior's."""
CHAINS = 16
"""Chains of a datum that are annealed together."""
_MARGIN = 1.2
"""More draws than a pilot asks for, which is itself uncertain."""
_LEAST_EFFECTIVE = 20.0
_NEARLY_ALL = 0.98
"""Share of effective samples from which on a guide is as good as the posterior."""
_LOOKS = 3, 0.2
"""Largest doubt at the first and the second look, in that of the goal: what looks good by chance is
not taken."""
_SECOND = 3
"""Blocks of the second look."""
_SEEN = 4
"""Draws of a plan for each that the looks before it saw, above which there is a third look."""
_HELD = 20_000_000
"""Log-weights held at once."""
_HOPELESS = 20
"""Blocks of draws where more are not expected to help."""


@final
@dataclass(frozen=True)
class Goal:
    """What an estimate of a datum is to reach.

    Attributes:
        doubt: Doubt in nats.
        error: Standard error in nats.
        most: Decoder evaluations that it may cost.
    """

    doubt: float
    error: float
    most: int


@final
@dataclass(frozen=True)
class Work:
    """A chunk of the data with what it is estimated by.

    Attributes:
        programs: Model and a guide for these data.
        x: The data.
        at_once: Data of a whole chunk, all with 16 particles each, that are decoded together.
        replays: Compiled forms.
        defensive: Whether a tenth of the draws come from the prior.
    """

    programs: Programs
    x: Tensor
    at_once: int
    replays: Replays
    defensive: bool = False

    def rows(self, index: Tensor) -> "Work":
        """Select some of the data; one may be there several times."""
        programs = self.programs.rows(index)
        return Work(programs, self.x[index], self.at_once, self.replays, self.defensive)

    def log_weights(
        self, blocks: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "draws slots"], torch.dtype]:
        """Log w of blocks of draws, those of a datum side by side, and the densities' type."""
        slots = torch.arange(len(blocks)).repeat_interleave(blocks)
        # Batches of one size, so that one compiled graph serves all; what is too much is cut off.
        missing = -len(slots) % min(self.at_once, max(len(slots), 1))
        padded = torch.cat([slots, slots[:1].expand(missing)])
        drawn = [list(self.rows(part)._block()) for part in padded.split(self.at_once)]
        log_weight = torch.cat([torch.cat([each for each, _ in block]) for block in drawn], 1)
        return log_weight[:, : len(slots)], drawn[0][0][1]

    def exact_weights(
        self, latents: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "draws batch"]]:
        """Log w of one draw of each datum, and the share of each place of a block to put it in.

        Args:
            latents: Site name to one draw of the posterior of each datum.
        """
        particles = self.programs.evaluate(self.x, latents)
        if not self.defensive:
            log_weight = particles.log_weight[0].double().cpu()
            return log_weight, torch.full((BLOCK, len(self.x)), 1 / BLOCK, dtype=torch.float64)
        log_weight, from_prior = (each[0] for each in of_mixture(particles, _FROM_PRIOR / BLOCK))
        # Among the draws of the part of the mixture that it is likely to have come from.
        places = torch.empty(BLOCK, len(self.x), dtype=torch.float64)
        places[: BLOCK - _FROM_PRIOR] = (1 - from_prior) / (BLOCK - _FROM_PRIOR)
        places[BLOCK - _FROM_PRIOR :] = from_prior / _FROM_PRIOR
        return log_weight, places

    def _block(self) -> Iterator[tuple[Tensor, torch.dtype]]:
        chunk = Chunk(self.programs, self.x, CHAINS, self.replays)
        if not self.defensive:
            for part in chunk.log_weights(BLOCK):
                yield part.double().cpu(), part.dtype
            return
        for prior, size in ((False, BLOCK - _FROM_PRIOR), (True, _FROM_PRIOR)):
            yield from chunk.mixture_weights(size, _FROM_PRIOR / BLOCK, prior=prior)


@final
@dataclass(frozen=True)
class Fresh:
    """Fresh draws of some data, as many of each.

    Attributes:
        rows: Indices of the data among those that were asked for.
        log_weight: Log w, or log W of chains.
        computed_in: Type of the densities.
        spent: Decoder evaluations of a datum.
    """

    rows: Tensor
    log_weight: Tensor
    computed_in: torch.dtype
    spent: int


@final
@dataclass(frozen=True)
class SamplingPlan:
    """Blocks of draws that importance sampling needs for each datum.

    Attributes:
        blocks: Number of blocks.
        cost: Decoder evaluations; infinite where no number is expected to be enough.
        effective: Effective samples of as many draws as a block has.
        spent: Draws of the pilot.
    """

    blocks: Int[Tensor, " batch"]
    cost: Float[Tensor, " batch"]
    effective: Float[Tensor, " batch"]
    spent: Float[Tensor, " batch"]

    def take(self, data: Tensor, other: "SamplingPlan", drawn: int) -> None:
        """Put the plan by further draws of some data in the place of the one that was."""
        self.blocks[data], self.cost[data] = other.blocks, other.cost
        self.effective[data] = other.effective
        self.spent[data] += drawn

    @property
    def asked_for(self) -> Float[Tensor, " batch"]:
        """Decoder evaluations that are planned, whether or not they are enough."""
        return BLOCK * self.blocks.double()

    def fresh(self, work: Work, local: Tensor, share: float) -> Iterator[Fresh]:
        """As large a share of the planned draws of some data."""
        work, blocks = work.rows(local), share_of(self.blocks[local], share)
        # As many data at once as their weights may be held.
        groups = ((blocks.cumsum(0) - 1) * BLOCK) // _HELD
        for group in groups.unique().tolist():
            part = (groups == group).nonzero().squeeze(1)
            log_weight, computed_in = work.rows(part).log_weights(blocks[part])
            for rows, of_each in by_count(log_weight, blocks[part], part):
                yield Fresh(rows, of_each, computed_in, len(of_each))

    def values(self, fresh: Fresh, log_weight: Tensor) -> dict[str, Tensor]:
        """Values of each datum by its log-weights."""
        weights = RunningWeights(len(log_weight))
        weights.add(log_weight, fresh.computed_in)
        return measured(weights)

    def exact(
        self, work: Work, local: Tensor, fresh: Fresh, latents: Mapping[str, Tensor], dim: int
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "draws batch"]]:
        """Log w of an exact draw of each datum, and the share of each place that it may take.

        Args:
            work: The candidate's data.
            local: Those of the draws.
            fresh: Their draws.
            latents: Site name to one draw of the posterior of each of them.
            dim: Dimension of the data in the latents.
        """
        exact, places = work.rows(local).exact_weights(latents)
        repeats = len(fresh.log_weight) // BLOCK
        return exact, places.repeat(repeats, 1) / repeats


def share_of(blocks: Int[Tensor, " batch"], share: float) -> Int[Tensor, " batch"]:
    """As large a share of the blocks, at least one of each datum."""
    return (share * blocks).floor().clamp(min=1).long()


def plan_sampling(work: Work, goal: Goal) -> SamplingPlan:
    """What importance sampling needs, by one block of each datum, or four where it looks easy.

    As many draws as bring the standard error to its goal, where these leave no more doubt than is
    wanted: of a tail that leaves more, more draws of the same kind are not the cure. Where many are
    asked for, a third look sees a quarter of them.
    """
    first = torch.ones(len(work.x), dtype=torch.long)
    log_weight, _ = work.log_weights(first)
    plan = _sampling_plan(log_weight, replace(goal, doubt=_LOOKS[0] * goal.doubt))
    # A tail that few draws have not shown is the likeliest way to be wrong: a second look.
    goal = replace(goal, doubt=_LOOKS[1] * goal.doubt)
    again = (plan.cost.isfinite() & (plan.effective < _NEARLY_ALL * BLOCK)).nonzero().squeeze(1)
    if len(again):
        more, _ = work.rows(again).log_weights(_SECOND * first[again])
        more = more.unflatten(1, (len(again), _SECOND)).movedim(2, 0).flatten(0, 1)
        both = torch.cat([log_weight[:, again], more])
        plan.take(again, _sampling_plan(both, goal), len(more))
    seen = 1 + _SECOND
    large = (plan.cost.isfinite() & (plan.blocks > _SEEN * seen)).nonzero().squeeze(1)
    if len(large):
        blocks = (plan.blocks[large] // _SEEN).clamp(max=max(1, _HELD // (BLOCK * len(large))))
        drawn, _ = work.rows(large).log_weights(blocks)
        for data, of_each in by_count(drawn, blocks, large):
            plan.take(data, _sampling_plan(of_each, goal), len(of_each))
    return plan


def _sampling_plan(log_weight: Float[Tensor, "draws batch"], goal: Goal) -> SamplingPlan:
    weights, drawn = RunningWeights.of(log_weight), len(log_weight)
    error, doubt = weights.standard_error, doubt_by_tail(weights).doubt
    effective = weights.effective_sample_size * BLOCK / drawn
    # No fewer draws than the pilot's: from fewer, the tail would be known less well.
    blocks = (_MARGIN * (error / goal.error).square() * drawn / BLOCK).clamp(min=drawn / BLOCK)
    enough = (blocks * BLOCK <= goal.most) & (effective >= _LEAST_EFFECTIVE)
    # A doubt is taken to fall as the root of the draws.
    enough &= doubt <= goal.doubt * (blocks.nan_to_num() * BLOCK / drawn).sqrt()
    blocks = blocks.ceil()
    # Where nothing bounds the doubt, many draws tell little more than some.
    hopeless = doubt.isinf() | blocks.isnan()
    blocks = torch.where(hopeless, float(_HOPELESS), blocks.nan_to_num(nan=1.0, posinf=1.0))
    blocks = blocks.clamp(max=max(1, goal.most // BLOCK)).long()
    cost = torch.where(enough, BLOCK * blocks.double(), math.inf)
    return SamplingPlan(blocks, cost, effective, torch.full_like(cost, float(drawn)))


def by_count(
    values: Float[Tensor, "draws slots"], blocks: Int[Tensor, " batch"], data: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Slots put together by datum: data with as many blocks at a time.

    Args:
        values: Values of the slots, those of a datum side by side.
        blocks: Number of slots of each datum.
        data: Indices of the data.
    """
    first, groups = blocks.cumsum(0) - blocks, []
    for count in blocks.unique().tolist():
        own = (blocks == count).nonzero().squeeze(1)
        slots = first[own] + torch.arange(count).unsqueeze(1)
        groups.append((data[own], values[:, slots].flatten(0, 1)))
    return groups
