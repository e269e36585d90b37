"""Checks that a density integrates or sums to 1, and that draws have that density."""

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
from ppl_vae.reference_models import same_draws
from ppl_vae.testing._comparison import Answer, Discrepancy, same
from ppl_vae.testing.distributions._cubature import MOST_DIMENSIONS, Integral, integrate
from ppl_vae.testing.distributions._functions import (
    NUM_DRAWS,
    BoundedFunctions,
    means_agree,
    means_are,
)
from ppl_vae.testing.distributions._proposals import OnSphere, OnValues, StudentMixture
from ppl_vae.testing.distributions._target import TargetDistribution
from ppl_vae.weights import RunningWeights

_UNSEEN = 5
"""Number of draws whose share of the mass may lie where none of the draws is."""
_FEW = 4000
"""Draws that show where a lattice is."""
_MOST_UNSEEN = 0.05
"""Largest share of values that no draw has shown, above which the sum says nothing."""
_MOST_DIMENSIONS = 32
_MOST_STATES = 2**16
_HEAVY = 0.5
"""Pareto k from which weights have no finite variance."""
_LARGEST_SHARE = 0.01
"""Largest share of the sum of all weights that one discrete vector may have."""
_LEAST_OVERLAP = 0.01
_NEGLIGIBLE = 1e-12
_ROUNDED = 10.0
"""Factor on the share of a density where rounding sets in, for what may lie beyond."""


@dataclass(frozen=True)
class Examination(ABC):
    """Examination of a target distribution and its draws, in the way that its space allows.

    Attributes:
        target: Target distribution.
        seed: Seed of all draws.
    """

    target: TargetDistribution
    seed: int

    def draws(self, number: int, count: int) -> tuple[Tensor, Tensor]:
        """Draws of a numbered stream, and their log-densities."""
        with same_draws(derive_seed(self.seed, number)):
            # Moments and identities are compared in double precision; draws may be whole numbers.
            draws = self.target.draw(count).double()
        return draws, self.target.log_prob(draws).double()

    @cached_property
    def placing(self) -> tuple[Tensor, Tensor]:
        """Draws that functions, boxes and proposals are fitted to; others are tested."""
        # Levels fitted to the draws under test would have the right means by construction.
        return self.draws(0, NUM_DRAWS)

    @cached_property
    def tested(self) -> tuple[Tensor, Tensor]:
        """Draws under test, independent of the others."""
        return self.draws(1, NUM_DRAWS)

    @cached_property
    def functions(self) -> BoundedFunctions:
        """Functions whose means are compared."""
        return BoundedFunctions.fit(*self.placing, derive_seed(self.seed, 2))

    @abstractmethod
    def normalised(self) -> Answer:
        """Compare the density's integral, or sum, with 1."""

    @abstractmethod
    def followed(self) -> Answer:
        """Compare the draws with the density."""


def examination(target: TargetDistribution, seed: int) -> Examination | None:
    """Choose the way to examine a target distribution; None where there is none."""
    with same_draws(seed):
        few, space = target.draw(16), target.space
        if space == "discrete":
            states = _states(target, few)
            if states is not None:
                return ByStates(target, seed, states)
        if few.shape[-1] > _MOST_DIMENSIONS:
            return None
        if space == "discrete":
            return ByProposal(target, seed, OnValues)
        if space == "sphere":
            return ByProposal(target, seed, OnSphere)
        if space == "unknown":
            return None
        # The points of cubature grow exponentially with the dimension: more take a proposal.
        free = target.unconstrained()
        if free.draw(1).shape[-1] <= MOST_DIMENSIONS:
            return ByCubature(free, seed)
        return ByProposal(free, seed, StudentMixture)


@final
@dataclass(frozen=True)
class ByStates(Examination):
    """Sums over all values, or over all counts with any probability to speak of."""

    states: Float[Tensor, "states size"]

    @cached_property
    def log_probs(self) -> Float[Tensor, " states"]:
        """Log-probabilities of all states, in nats."""
        return self.target.log_prob(self.states).double()

    def normalised(self) -> Answer:
        """Compare the sum with 1."""
        total = self.log_probs.exp().sum()
        what = f"sum of {self.target.name} over {len(self.states)} values"
        if self.target.log_error:
            # An error of the logarithm is, near 1, that of the sum itself.
            return [Discrepancy(what, total.item(), 1.0, self.target.log_error)]
        return [same(what, total, 1.0)]

    def followed(self) -> Answer:
        """Compare means over draws with those over all states."""
        values = self.functions.values(self.states.double(), self.log_probs)
        expected = (self.log_probs.exp().unsqueeze(-1) * values).sum(0)
        found = self.functions.values(*self.tested)
        what, error = f"mean under {self.target.name} of", self.target.log_error
        return means_are(what, self.functions.names, found, expected, error)


@final
@dataclass(frozen=True)
class ByCubature(Examination):
    """Cubature, in one or two dimensions of the whole space."""

    @cached_property
    def integral(self) -> Integral:
        """Integrals of 1, of where rounding sets in, and of every function, times the density."""

        def integrand(w: Tensor) -> Tensor:
            log_prob = self.target.log_prob(w)
            # Levels jump, and rules of cubature converge for smooth integrands only.
            values = self.functions.values(w, log_prob)[:, : self.functions.num_smooth]
            rounded = self.target.rounded(w).to(values).unsqueeze(-1)
            values = torch.cat([torch.ones_like(rounded), rounded, values], -1)
            return log_prob.exp().unsqueeze(-1) * values

        return integrate(integrand, self.placing[0])

    @property
    def error(self) -> float:
        """Error of the integrals: the rule's, and shares that are unseen, or lost by rounding."""
        rounded = _ROUNDED * self.integral.total[1].item()
        # Errors of the integral are bounds and add up; the constant's is random and independent.
        own = self.integral.error + rounded + _UNSEEN / len(self.placing[0])
        return math.hypot(own, self.target.log_error)

    def normalised(self) -> Answer:
        """Compare the integral with 1."""
        total = self.integral.total[0].item()
        return [Discrepancy(f"integral of {self.target.name}", total, 1.0, self.error)]

    def followed(self) -> Answer:
        """Compare means over draws with integrals and, in one dimension, distribution functions."""
        values = self.functions.values(*self.tested)[:, : self.functions.num_smooth]
        names = self.functions.names[: self.functions.num_smooth]
        expected, what = self.integral.total[2:], f"mean under {self.target.name} of"
        comparisons = means_are(what, names, values, expected, self.error)
        if self.tested[0].shape[-1] == 1:
            comparisons.append(self._kolmogorov())
        return comparisons

    def _kolmogorov(self) -> Discrepancy:
        """Compare distribution functions at the boxes' ends, by their largest difference.

        It is at most the largest difference anywhere, so that the test keeps its level.
        """
        ends, order = self.integral.high[:, 0].sort()
        share = self.integral.value[order, 0].cumsum(0)
        draws = self.tested[0][:, 0].sort().values
        below = torch.searchsorted(draws, ends, right=True) / len(draws)
        distance = max(0.0, (below - share).abs().max().item() - self.error)
        tail = kstwobign.sf(math.sqrt(len(draws)) * distance)
        # As a z-score with the same p-value, so that one limit holds for all comparisons.
        z = float(norm.isf(tail / 2))
        what = f"distance of distribution functions of {self.target.name} (Kolmogorov)"
        return Discrepancy(what, distance, 0.0, distance / z if z > 0 else 1.0, "<=")


@final
@dataclass(frozen=True)
class ByProposal(Examination):
    """Importance weights from a proposal that is fitted to draws, and wider.

    With the target's density p and the proposal's q, both positive, any bounded f has

        E_q [f p / (p + q)] = E_p [f q / (p + q)],

    if the draws of p have the density p; both sides are means of bounded values, however badly q
    fits.

    References:
        Meng and Wong, 1996, Simulating ratios of normalizing constants via a simple identity.
    """

    kind: type[StudentMixture] | type[OnSphere] | type[OnValues]

    @cached_property
    def proposal(self) -> StudentMixture | OnSphere | OnValues:
        """Proposal, fitted to draws."""
        return self.kind.fit(self.placing[0])

    @cached_property
    def others(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of the proposal, with log p and log q."""
        with same_draws(derive_seed(self.seed, 3)):
            draws = self.proposal.draw(len(self.tested[0]))
        log_prob = self.target.log_prob(draws).double()
        # Values that each occur may be no vector of the support, as two ones in a one-hot vector.
        inside = self.target.support.check(draws)
        return draws, log_prob.where(inside, -torch.inf), self.proposal.log_prob(draws)

    def normalised(self) -> Answer:
        """Compare the mean importance weight with 1, where its variance is finite."""
        _, log_p, log_q = self.others
        log_weight = log_p - log_q
        # Without a variance the mean has no z-score; values never seen would be missing in the sum.
        if self._is_heavy(log_weight) or self.proposal.unseen > _MOST_UNSEEN:
            return "not looked"
        weight, error = log_weight.exp(), math.hypot(self.target.log_error, self.proposal.unseen)
        what = [f"integral of {self.target.name}"]
        return means_are("", what, weight.unsqueeze(-1), torch.ones(1).to(weight), error)

    def _is_heavy(self, log_weight: Float[Tensor, " draws"]) -> bool:
        """Judge whether few weights make up the mean: by their tail, or by the largest."""
        if not isinstance(self.proposal, OnValues):
            tail = pareto_tail(RunningWeights.of(log_weight.unsqueeze(-1)))
            # A k that is NaN is heavy, too.
            return not tail.pareto_k.item() <= _HEAVY
        draws, log_p = self.tested
        # Draws of the target itself show large weights that the proposal rarely meets.
        own = log_p - self.proposal.log_prob(draws)
        largest = torch.cat([log_weight, own[own < math.inf]]).max().item()
        return largest > math.log(_LARGEST_SHARE * len(log_weight))

    def followed(self) -> Answer:
        """Compare the two sides of the identity, for 1 and for every function."""
        (z, log_p), (y, log_p_y, log_q_y) = self.tested, self.others
        # sigmoid(log q - log p) = q / (p + q), without overflow of either density.
        of_draws = torch.sigmoid(self.proposal.log_prob(z) - log_p)
        of_others = torch.sigmoid(log_p_y - log_q_y)
        # Where p and q hardly overlap both sides are near 0 and would agree whatever the draws are.
        if max(of_draws.mean(), of_others.mean()) < _LEAST_OVERLAP:
            return "not looked"
        what = f"under {self.target.name} against its density, mean of"
        return means_agree(
            what,
            ["1", *self.functions.names],
            self._weighed(of_draws, z, log_p),
            self._weighed(of_others, y, log_p_y),
            self.target.log_error,
        )

    def _weighed(self, weight: Tensor, points: Tensor, log_prob: Tensor) -> Tensor:
        values = self.functions.values(points, log_prob)
        return weight.unsqueeze(-1) * torch.cat([torch.ones_like(values[:, :1]), values], -1)


def _states(target: TargetDistribution, few: Tensor) -> Tensor | None:
    """Lay out every value of a discrete target, or all with any probability; None if too many."""
    try:
        sites = SiteStates.of("z", target, few[:1].unsqueeze(0), 0)
    except ValueError:
        return _lattice(target) if few.shape[-1] == 1 else None
    if sites.count > _MOST_STATES:
        return None
    return sites.at(torch.arange(sites.count), 1).flatten(0, 1)


def _lattice(target: TargetDistribution) -> Tensor | None:
    """Lay out equally spaced numbers, both ways from the draws, until no mass is left."""
    draws = target.draw(_FEW).unique()
    if len(draws) < 2:
        return None
    # The support names no lattice: the smallest distance between draws is taken for its step.
    step, reach = draws.diff().min(), 64
    while reach <= _MOST_STATES:
        span = int((draws[-1] - draws[0]) / step) + 1
        values: Tensor = (draws[0] + step * torch.arange(-reach, span + reach)).unsqueeze(-1)
        values = values[target.support.check(values)]
        # The outer half of the margin on either side: without mass there, the sum has converged.
        outer = (values < draws[0] - step * reach / 2) | (values > draws[-1] + step * reach / 2)
        outside = values[outer[:, 0]]
        if not len(outside) or float(target.log_prob(outside).exp().sum()) < _NEGLIGIBLE:
            return values
        reach *= 2
    return None
