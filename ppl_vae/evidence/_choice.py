"""What is drawn for each datum of an automatic estimate, and the estimates by these draws."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from ppl_vae.evidence._pilots import Fresh, SamplingPlan, Work
from ppl_vae.evidence._result import STAGES, Columns

REFINED, LAPLACE = "importance sampling, refined guide", "importance sampling, Laplace guide"
PLAIN, DEFENSIVE = "importance sampling", "defensive importance sampling"
ANNEALED = {
    PLAIN: "annealing from the guide",
    REFINED: "annealing from the refined guide",
}
"""Guides that annealing may start from: Laplace's approximation is often too narrow for that, and
its draws then look better than they are."""
FROM_PRIOR = "annealing from the prior"


class Plan(Protocol):
    """What some data need, and how it is carried out."""

    @property
    def cost(self) -> Tensor:
        """Decoder evaluations; infinite where no number is expected to be enough."""

    @property
    def asked_for(self) -> Tensor:
        """Decoder evaluations that are planned, whether or not they are enough."""

    def fresh(self, work: Work, local: Tensor, share: float) -> Iterator[Fresh]:
        """As large a share of the planned draws of some data."""
        ...

    def values(self, fresh: Fresh, log_weight: Tensor) -> dict[str, Tensor]:
        """Values of each datum by its log-weights."""
        ...

    def exact(
        self, work: Work, local: Tensor, fresh: Fresh, latents: Mapping[str, Tensor], dim: int
    ) -> tuple[Tensor, Tensor]:
        """Log-weight of an exact draw of each datum, and the share of each place it may take."""
        ...


@final
@dataclass(frozen=True)
class Candidate:
    """A way to estimate some of the data of a chunk.

    Attributes:
        stage: Its name.
        work: These data, with the guide that it takes.
        data: Their indices in the chunk.
        plan: What it needs.
    """

    stage: str
    work: Work
    data: Tensor
    plan: Plan


@final
class Choice:
    """The cheapest candidate for each datum of a chunk, as far as they are known.

    Attributes:
        candidates: All that were offered.
        cost: Decoder evaluations of the best.
        which: Its number.
        spent: Decoder evaluations of all pilots.
    """

    def __init__(self, num_data: int) -> None:
        self.candidates: list[Candidate] = []
        self.cost = torch.full((num_data,), math.inf, dtype=torch.float64)
        self.which = torch.zeros(num_data, dtype=torch.long)
        self.spent = torch.zeros_like(self.cost)

    def counts(self) -> dict[str, int]:
        """Number of data that end at each stage."""
        return {
            each.stage: int((self.which[each.data] == number).sum())
            for number, each in enumerate(self.candidates)
            if bool((self.which[each.data] == number).any())
        }

    def offer(self, candidate: Candidate, spent: float | Tensor) -> None:
        """Take a candidate in, and what its pilot has cost."""
        data, cost = candidate.data, candidate.plan.cost
        # What may end in doubt is taken only where there is nothing yet.
        better = (cost < self.cost[data]) | (not self.candidates)
        self.cost[data] = torch.where(better, cost, self.cost[data])
        self.which[data] = torch.where(better, len(self.candidates), self.which[data])
        self.spent[data] += spent
        self.candidates.append(candidate)

    def above(self, cost: float) -> Tensor:
        """Indices of the data whose best candidate costs more."""
        return (self.cost > cost).nonzero().squeeze(1)

    def effective(self, data: Tensor) -> Tensor:
        """Effective samples under the guide of each candidate that annealing may start from."""
        effective = torch.full((len(self.candidates), len(self.cost)), -1.0, dtype=torch.float64)
        for number, each in enumerate(self.candidates):
            if isinstance(each.plan, SamplingPlan) and each.stage in ANNEALED:
                effective[number, each.data] = each.plan.effective
        return effective[:, data]


def planned(choice: Choice) -> float:
    """Decoder evaluations that the chosen plans ask for."""
    total = 0.0
    for number, each in enumerate(choice.candidates):
        total += float(each.plan.asked_for[choice.which[each.data] == number].sum())
    return total


@final
@dataclass(frozen=True)
class Drawn:
    """Fresh draws of some data of a candidate.

    Attributes:
        candidate: What they are draws of.
        local: Indices of the data among the candidate's.
        fresh: The draws.
    """

    candidate: Candidate
    local: Tensor
    fresh: Fresh

    def values(self, log_weight: Tensor) -> dict[str, Tensor]:
        """Values of each datum by log-weights of the candidate's kind."""
        return self.candidate.plan.values(self.fresh, log_weight)


def values_of(drawn: Drawn) -> dict[str, Tensor]:
    """Values of each datum by its draws."""
    return drawn.values(drawn.fresh.log_weight)


def carried_out(
    choice: Choice, share: float, values_of: Callable[[Drawn], dict[str, Tensor]] = values_of
) -> Columns:
    """The estimates by fresh draws, of as large a share of those planned.

    Args:
        choice: What to draw for each datum.
        share: Of the planned draws.
        values_of: What is kept of them.
    """
    columns: dict[str, Tensor] = {}
    for drawn in _draws(choice, share):
        data, log_weight = drawn.candidate.data[drawn.local], drawn.fresh.log_weight
        stage = float(STAGES.index(drawn.candidate.stage))
        values = {
            **values_of(drawn),
            "stage": torch.full_like(log_weight[0], stage).cpu(),
            "draws": torch.full_like(log_weight[0], float(len(log_weight))).cpu(),
            "evaluations": drawn.fresh.spent + choice.spent[data],
        }
        for name, value in values.items():
            empty = torch.full((len(choice.cost),), math.nan, dtype=torch.float64)
            columns.setdefault(name, empty)[data] = value.double()
    return columns


def _draws(choice: Choice, share: float) -> Iterator[Drawn]:
    for number, each in enumerate(choice.candidates):
        local = (choice.which[each.data] == number).nonzero().squeeze(1)
        if len(local):
            for fresh in each.plan.fresh(each.work, local, share):
                yield Drawn(each, local[fresh.rows], fresh)
