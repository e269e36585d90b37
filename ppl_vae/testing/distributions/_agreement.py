"""Whether a law's density sums to 1, and whether its draws have that density."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from scipy.stats import kstwobign, norm
from torch import Tensor

from ppl_vae.evidence import SiteStates, pareto_tail
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, Discrepancy, same
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._cubature import (
    MOST_DIMENSIONS,
    CellIntegral,
    cells_among,
    integrate_cells,
)
from ppl_vae.testing.distributions._law import Law
from ppl_vae.testing.distributions._probes import NUM_DRAWS, Probes, means_agree, means_are
from ppl_vae.testing.distributions._proposals import OnSphere, OnValues, StudentMixture
from ppl_vae.weights import RunningWeights

_UNSEEN = 5
"""Draws that a part of a law may have and not be looked at closely."""
_FEW = 4000
"""Draws that tell where a lattice is."""
_MOST_UNSEEN = 0.05
"""Share of a law on values that no draw has shown, above which its sum says nothing."""
_MOST_DIMENSIONS = 32
_MOST_STATES = 2**16
_HEAVY = 0.5
"""Pareto's k of weights whose variance is not finite."""
_LARGEST_SHARE = 0.01
"""Largest share of the sum of all weights that one discrete vector may have."""
_LEAST_OVERLAP = 0.01
_NEGLIGIBLE = 1e-12
_ROUNDED = 10.0
"""Factor on the share of a density where rounding sets in, for what may lie beyond."""


@dataclass(frozen=True)
class Examination(ABC):
    """A law with its draws, looked at in the way its space allows.

    Attributes:
        law: The law.
        seed: Of all draws.
    """

    law: Law
    seed: int

    def draws(self, number: int, count: int) -> tuple[Tensor, Tensor]:
        """So many draws of a stream, and their log-densities."""
        with same_draws(derive_seed(self.seed, number)):
            draws = self.law.draw(count).double()
        return draws, self.law.log_prob(draws).double()

    @cached_property
    def placing(self) -> tuple[Tensor, Tensor]:
        """Draws that say where to look; others are tested."""
        return self.draws(0, NUM_DRAWS)

    @cached_property
    def tested(self) -> tuple[Tensor, Tensor]:
        """Draws to test, independent of the others."""
        return self.draws(1, NUM_DRAWS)

    @cached_property
    def probes(self) -> Probes:
        """Functions whose means are compared."""
        return Probes.fit(*self.placing, derive_seed(self.seed, 2))

    @abstractmethod
    def normalised(self) -> Answer:
        """Whether the density's integral, or sum, is 1."""

    @abstractmethod
    def followed(self) -> Answer:
        """Whether the draws have the density."""


def examination(law: Law, seed: int) -> Examination | None:
    """The way to look at a law; None where there is none."""
    with same_draws(seed):
        few, space = law.draw(16), law.space
        if space == "discrete":
            states = _states(law, few)
            if states is not None:
                return ByStates(law, seed, states)
        if few.shape[-1] > _MOST_DIMENSIONS:
            return None
        if space == "discrete":
            return ByProposal(law, seed, OnValues)
        if space == "sphere":
            return ByProposal(law, seed, OnSphere)
        if space == "unknown":
            return None
        free = law.unconstrained()
        if free.draw(1).shape[-1] <= MOST_DIMENSIONS:
            return ByCells(free, seed)
        return ByProposal(free, seed, StudentMixture)


@final
@dataclass(frozen=True)
class ByStates(Examination):
    """All values that there are, or all counts with any probability to speak of."""

    states: Float[Tensor, "states size"]

    @cached_property
    def log_probs(self) -> Float[Tensor, " states"]:
        """Of all states."""
        return self.law.log_prob(self.states).double()

    def normalised(self) -> Answer:
        """By their sum."""
        total = self.log_probs.exp().sum()
        what = f"sum of {self.law.name} over {len(self.states)} values"
        if self.law.log_error:
            return [Discrepancy(what, total.item(), 1.0, self.law.log_error)]
        return [same(what, total, 1.0)]

    def followed(self) -> Answer:
        """Means over draws are those over all states."""
        values = self.probes.values(self.states.double(), self.log_probs)
        expected = (self.log_probs.exp().unsqueeze(-1) * values).sum(0)
        found = self.probes.values(*self.tested)
        what, error = f"mean under {self.law.name} of", self.law.log_error
        return means_are(what, self.probes.names, found, expected, error)


@final
@dataclass(frozen=True)
class ByCells(Examination):
    """Cubature, in one or two dimensions of the whole space."""

    @cached_property
    def integral(self) -> CellIntegral:
        """Of 1 and of every probe, times the density."""

        def integrand(w: Tensor) -> Tensor:
            log_prob = self.law.log_prob(w)
            values = self.probes.values(w, log_prob)[:, : self.probes.num_smooth]
            rounded = self.law.rounded(w).to(values).unsqueeze(-1)
            values = torch.cat([torch.ones_like(rounded), rounded, values], -1)
            return log_prob.exp().unsqueeze(-1) * values

        return integrate_cells(integrand, cells_among(self.placing[0]))

    @property
    def error(self) -> float:
        """Of the integrals: the rule's, and shares that are unseen, or elsewhere by rounding."""
        rounded = _ROUNDED * self.integral.total[1].item()
        own = self.integral.error + rounded + _UNSEEN / len(self.placing[0])
        return math.hypot(own, self.law.log_error)

    def normalised(self) -> Answer:
        """By the integral."""
        found = self.integral.total[0].item()
        return [Discrepancy(f"integral of {self.law.name}", found, 1.0, self.error)]

    def followed(self) -> Answer:
        """Means over draws are the integrals; in one dimension the distribution functions agree."""
        found = self.probes.values(*self.tested)[:, : self.probes.num_smooth]
        names = self.probes.names[: self.probes.num_smooth]
        expected, what = self.integral.total[2:], f"mean under {self.law.name} of"
        comparisons = means_are(what, names, found, expected, self.error)
        if self.tested[0].shape[-1] == 1:
            comparisons.append(self._kolmogorov())
        return comparisons

    def _kolmogorov(self) -> Discrepancy:
        """The largest difference at the cells' ends, which is at most that anywhere."""
        cells = self.integral.cells
        order = cells.low[:, 0].argsort()
        share = self.integral.value[order, 0].cumsum(0)
        ends = (cells.low + cells.width)[order, 0]
        draws = self.tested[0][:, 0].sort().values
        below = torch.searchsorted(draws, ends, right=True) / len(draws)
        distance = max(0.0, (below - share).abs().max().item() - self.error)
        tail = kstwobign.sf(math.sqrt(len(draws)) * distance)
        z = float(norm.isf(tail / 2))
        what = f"distance of distribution functions of {self.law.name} (Kolmogorov)"
        return Discrepancy(what, distance, 0.0, distance / z if z > 0 else 1.0, "<=")


@final
@dataclass(frozen=True)
class ByProposal(Examination):
    """Importance weights from a proposal that is fitted to draws, and wider.

    With the law's density p and the proposal's q, both positive, any bounded f has

        E_q [f p / (p + q)] = E_p [f q / (p + q)],

    if the draws of p have the density p; both sides are means of bounded values, however badly q
    fits.

    References:
        Meng and Wong, 1996, Simulating ratios of normalizing constants via a simple identity.
    """

    kind: type[StudentMixture] | type[OnSphere] | type[OnValues]

    @cached_property
    def proposal(self) -> StudentMixture | OnSphere | OnValues:
        """Fitted to draws."""
        return self.kind.fit(self.placing[0])

    @cached_property
    def others(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of the proposal, with log p and log q."""
        with same_draws(derive_seed(self.seed, 3)):
            draws = self.proposal.draw(len(self.tested[0]))
        log_prob = self.law.log_prob(draws).double()
        # A row of values that each occur may be none of the law's, as two ones in a one-hot vector.
        inside = self.law.support.check(draws)
        return draws, log_prob.where(inside, -torch.inf), self.proposal.log_prob(draws)

    def normalised(self) -> Answer:
        """By the mean importance weight, where its variance is finite."""
        _, log_p, log_q = self.others
        log_weight = log_p - log_q
        if self._is_heavy(log_weight) or self.proposal.unseen > _MOST_UNSEEN:
            return "not looked"
        weight, error = log_weight.exp(), math.hypot(self.law.log_error, self.proposal.unseen)
        what = [f"integral of {self.law.name}"]
        return means_are("", what, weight.unsqueeze(-1), torch.ones(1).to(weight), error)

    def _is_heavy(self, log_weight: Float[Tensor, " draws"]) -> bool:
        """Whether few weights would make up the mean: by their tail, which discrete ones lack."""
        if not isinstance(self.proposal, OnValues):
            tail = pareto_tail(RunningWeights.of(log_weight.unsqueeze(-1)))
            return not tail.pareto_k.item() <= _HEAVY
        draws, log_p = self.tested
        own = log_p - self.proposal.log_prob(draws)
        largest = torch.cat([log_weight, own[own < math.inf]]).max().item()
        return largest > math.log(_LARGEST_SHARE * len(log_weight))

    def followed(self) -> Answer:
        """By the two sides of the identity, for 1 and for every probe."""
        (z, log_p), (y, log_p_y, log_q_y) = self.tested, self.others
        of_draws = torch.sigmoid(self.proposal.log_prob(z) - log_p)
        of_others = torch.sigmoid(log_p_y - log_q_y)
        if max(of_draws.mean(), of_others.mean()) < _LEAST_OVERLAP:
            return "not looked"
        what = f"under {self.law.name} against its density, mean of"
        return means_agree(
            what,
            ["1", *self.probes.names],
            self._weighed(of_draws, z, log_p),
            self._weighed(of_others, y, log_p_y),
            self.law.log_error,
        )

    def _weighed(self, weight: Tensor, points: Tensor, log_prob: Tensor) -> Tensor:
        values = self.probes.values(points, log_prob)
        return weight.unsqueeze(-1) * torch.cat([torch.ones_like(values[:, :1]), values], -1)


def _states(law: Law, few: Tensor) -> Tensor | None:
    """Every value of a discrete law, or all with any probability to speak of; None if too many."""
    try:
        sites = SiteStates.of("z", law, few[:1].unsqueeze(0), 0)
    except ValueError:
        return _lattice(law) if few.shape[-1] == 1 else None
    if sites.count > _MOST_STATES:
        return None
    return sites.at(torch.arange(sites.count), 1).flatten(0, 1)


def _lattice(law: Law) -> Tensor | None:
    """Equally spaced numbers, both ways from the draws, until nothing is left."""
    draws = law.draw(_FEW).unique()
    if len(draws) < 2:
        return None
    step, reach = draws.diff().min(), 64
    while reach <= _MOST_STATES:
        span = int((draws[-1] - draws[0]) / step) + 1
        values: Tensor = (draws[0] + step * torch.arange(-reach, span + reach)).unsqueeze(-1)
        values = values[law.support.check(values)]
        outer = (values < draws[0] - step * reach / 2) | (values > draws[-1] + step * reach / 2)
        outside = values[outer[:, 0]]
        if not len(outside) or float(law.log_prob(outside).exp().sum()) < _NEGLIGIBLE:
            return values
        reach *= 2
    return None
