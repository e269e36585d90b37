"""Stages that the data of an automatic estimate go through, and the estimates that they end at."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, final

import torch
from torch import Tensor

from ppl_vae.evidence._annealed_pilots import Annealing
from ppl_vae.evidence._choice import (
    ANNEALED,
    DEFENSIVE,
    FROM_PRIOR,
    LAPLACE,
    PLAIN,
    Candidate,
    Choice,
    carried_out,
    planned,
)
from ppl_vae.evidence._loop import Call, Purpose, Streams
from ppl_vae.evidence._pilots import BLOCK, Goal, Work, plan_sampling
from ppl_vae.evidence._result import Columns
from ppl_vae.evidence.annealing._chains import Start
from ppl_vae.particles import Evaluation, LatentDensity, Programs, Refiner, count_evaluations
from ppl_vae.randomness import seeded

_CHEAP, _MODERATE = 2_000, 4_000
"""Decoder evaluations of a datum up to which no dearer pilot is worth its own cost."""
_LEAST = 2 * BLOCK
"""Decoder evaluations of a datum that the first pilot and as many fresh draws take."""
_FAR_OFF = 0.3
"""Share of effective samples below which no better guide of the same family is hoped for."""


class Limits(Protocol):
    """What an estimate is to reach, and may cost in all."""

    @property
    def goal(self) -> Goal:
        """For each datum."""

    @property
    def leapfrog_steps(self) -> int:
        """Of a transition."""

    @property
    def max_evaluations(self) -> int | None:
        """Decoder evaluations for all data together."""

    @property
    def max_seconds(self) -> float | None:
        """Seconds for all data together."""


@final
@dataclass
class Stages:
    """Stages of the estimate, chunk by chunk.

    Attributes:
        auto: What is to be reached.
        call: How it was called.
        look: Programs and data.
        refiners: Stage to how its guide is made, in the order in which they are tried.
        guided: Whether there is a guide to draw from.
        pointed: Whether the guide is a point, which Laplace's approximation starts at.
        annealable: Whether all latents are continuous.
        defensive: Whether the guide's support is a part of the prior's.
    """

    auto: Limits
    call: Call
    look: Evaluation
    refiners: Mapping[str, Refiner]
    guided: bool = field(default=False, init=False)
    pointed: bool = field(default=False, init=False)
    annealable: bool = field(default=False, init=False)
    defensive: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        look, guided = self.look, False
        # A guide that is a point has no weights; nothing is drawn from it.
        with suppress(ValueError):
            look.require_density("")
            guided = True
        with seeded(0), torch.no_grad(), suppress(ValueError):
            LatentDensity(look.programs.with_guide(None), look.x[:1].to(look.device), 1)
            self.annealable = True
        if not guided and not self.annealable:
            raise ValueError(
                "there is no guide with a density, and the latents are neither continuous nor few "
                "enough to be summed over: give a guide."
            )
        asked = self.auto.max_evaluations
        if guided and asked is not None and asked < _LEAST * len(look.x):
            raise ValueError(
                f"max_evaluations {asked} is below what the first pilot and its draws take, "
                f"{_LEAST} a datum: give {_LEAST * len(look.x)} or more for {len(look.x)} data, or "
                "fewer data."
            )
        self.guided = guided
        self.pointed = not guided and look.programs.guide is not None
        self.defensive = guided and look.support_gap() is not None

    @property
    def goal(self) -> Goal:
        """The goal for a datum, which may cost no more than its part of what all may."""
        goal, most = self.auto.goal, self.auto.max_evaluations
        if most is None:
            return goal
        return replace(goal, most=max(1, min(goal.most, most // len(self.look.x))))

    @property
    def programs(self) -> Programs:
        """Model and guide, if there is one to draw from."""
        return self.look.programs if self.guided else self.look.programs.with_guide(None)

    def estimate(self, look: Evaluation, x: Tensor, streams: Streams) -> Columns:
        """Values of each datum of a chunk."""
        with self.chosen(look, x, streams) as (choice, share):
            return carried_out(choice, share)

    @contextmanager
    def chosen(
        self, look: Evaluation, x: Tensor, streams: Streams
    ) -> Iterator[tuple[Choice, float]]:
        """What to draw for a chunk, by its pilots, and the share of it that may be spent.

        Inside, the stream is that of the fresh draws.
        """
        own = self.programs.rows(slice(streams.first, streams.first + len(x)))
        work = Work(own, x, look.data_at_once, look.replays, self.defensive)
        began = time.perf_counter()
        with streams.stream(Purpose.PILOT):
            choice = self.choose(work)
        speed = float(choice.spent.sum()) / (time.perf_counter() - began)
        share = self._share(choice, streams.first, speed)
        with streams.stream(Purpose.FORWARD):
            yield choice, share

    def choose(self, work: Work) -> Choice:
        """The pilots, each on the data for which none before it found a cheap way."""
        everything = torch.arange(len(work.x))
        choice = Choice(len(everything))
        if work.programs.guide is not None:
            plan = plan_sampling(work, self.goal)
            stage = DEFENSIVE if self.defensive else PLAIN
            choice.offer(Candidate(stage, work, everything, plan), plan.spent)
        if self.annealable:
            most = self.goal.most
            if work.programs.guide is None:
                if self.pointed:
                    self._approximate(work, choice)
                self._anneal(work, choice)
                return choice
            # A pilot that costs more than a datum may has nothing left to be a pilot of.
            if most >= _CHEAP:
                self._refine(work, choice)
            if most >= _MODERATE:
                self._anneal(work, choice)
        return choice

    def _refine(self, work: Work, choice: Choice) -> None:
        """Importance sampling from guides of each datum's own."""
        for stage in self.refiners:
            data = choice.above(_CHEAP)
            if stage == LAPLACE:
                # It is for posteriors that the guide's family does not hold.
                data = data[choice.effective(data).amax(0) < _FAR_OFF * BLOCK]
            if not len(data):
                return
            part = replace(work.rows(data), defensive=False)
            self._offer_refined(stage, part, data, choice)

    def _approximate(self, work: Work, choice: Choice) -> None:
        """Importance sampling from Laplace's approximation at the mode next to a point guide."""
        programs = work.programs.with_guide(self.look.programs.required_guide)
        everything = torch.arange(len(work.x))
        self._offer_refined(LAPLACE, replace(work, programs=programs), everything, choice)

    def _offer_refined(self, stage: str, part: Work, data: Tensor, choice: Choice) -> None:
        # A guide or prior that a refiner cannot work on goes without it.
        with suppress(ValueError), count_evaluations() as counter:
            guide = self.refiners[stage](part.programs, part.x, seed=None)
            made = counter.rows
            own = replace(part, programs=part.programs.with_guide(guide))
            plan = plan_sampling(own, self.goal)
            spent = plan.spent + made / len(data)
            choice.offer(Candidate(stage, own, data, plan), spent)

    def _anneal(self, work: Work, choice: Choice) -> None:
        """Annealing, from the guide whose draws were worth most."""
        data = choice.above(_MODERATE)
        if not len(data):
            return
        if not any(each.stage in ANNEALED for each in choice.candidates):
            self._anneal_from("prior", work.rows(data), data, FROM_PRIOR, choice)
            return
        best = choice.effective(data).argmax(0)
        for number in best.unique().tolist():
            start, own = choice.candidates[number], data[best == number]
            # Indices among the data of the candidate, which are in ascending order.
            part = start.work.rows(torch.searchsorted(start.data, own))
            self._anneal_from("guide", part, own, ANNEALED[start.stage], choice)

    def _anneal_from(
        self, start: Start, part: Work, data: Tensor, stage: str, choice: Choice
    ) -> None:
        plan = Annealing(start, self.auto.leapfrog_steps).plan(part, self.goal)
        choice.offer(Candidate(stage, part, data, plan), plan.spent)

    def _share(self, choice: Choice, first: int, speed: float) -> float:
        """The part of what the plans ask for that may be spent."""
        auto, total, num_data = self.auto, len(self.look.x), len(choice.cost)
        asked_for = planned(choice)
        allowed = [asked_for]
        if auto.max_evaluations is not None:
            allowed.append(auto.max_evaluations * num_data / total - float(choice.spent.sum()))
        if auto.max_seconds is not None:
            left = (auto.max_seconds - self.call.seconds) * num_data / (total - first)
            allowed.append(left * speed)
        return max(0.0, min(allowed) / asked_for)
