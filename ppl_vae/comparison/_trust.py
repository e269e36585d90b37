"""Trust in the estimates that a comparison is made of: how low they may be, and at what cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from ppl_vae.evidence import (
    TOLERATED_DOUBT,
    Evidence,
    MeanDoubt,
    evaluations_needed,
    paired_difference,
)

_MOST_NAMED = 3
"""Largest number of arms in doubt that a line names."""
_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@final
@dataclass(frozen=True)
class Trust:
    """How far the estimates of an arm are to be trusted; means over its seeds, in nats per datum.

    Attributes:
        bias: How low they are estimated to be, by the data whose doubt is bounded; None where an
            estimator does not tell.
        doubt: How low they may be (95%), beside the Monte Carlo error. None where an estimator does
            not tell, 0 where it is exact, infinite where nothing is bounded.
        unbounded: Share of the data whose doubt nothing bounds.
        stages: Stage of the automatic estimate to the share of data that ended there.
        evaluations: Decoder evaluations spent on a datum.
        needed: Decoder evaluations of a datum that would bring the doubt of each below 0.05 nats;
            infinite where more draws do not, None where an estimator does not tell.
        total: Decoder evaluations spent on all data and seeds.
    """

    bias: float | None
    doubt: float | None
    unbounded: float
    stages: dict[str, float]
    evaluations: float
    needed: float | None
    total: float

    @property
    def cost(self) -> str:
        """What it would cost to bring the doubt down, in words."""
        if self.doubt is None or self.needed is None:
            return "the reason stands below"
        if math.isinf(self.needed) or math.isinf(self.doubt):
            return "it cannot be bounded"
        if self.doubt <= TOLERATED_DOUBT:
            few = f"{max(self.unbounded, 0.001):.1%} of its data cannot be bounded"
            return few if self.unbounded else "the reason stands below"
        more = self.total * (self.needed / self.evaluations)
        return (
            f"low by up to {self.doubt:.2g} nats; about {_short(more)} decoder evaluations in place"
            f" of {_short(self.total)} bring that below {TOLERATED_DOUBT:g}"
        )


def trust_in(results: Sequence[Evidence]) -> Trust:
    """Sum up the estimates of an arm, one of each seed."""
    exact = [each.direction == "exact" for each in results]
    stages: dict[str, float] = {}
    for each in results:
        for name, count in each.stage_counts.items():
            stages[name] = stages.get(name, 0.0) + count / len(each) / len(results)
    pairs = list(zip(results, exact, strict=True))
    unbounded = [
        0.0 if is_exact or each.doubt is None else each.doubt.isinf().double().mean().item()
        for each, is_exact in pairs
    ]
    spent = [each.evaluations_per_datum for each in results]
    return Trust(
        bias=_known([0.0 if is_exact else each.mean_bias for each, is_exact in pairs]),
        doubt=_known([0.0 if is_exact else each.mean_doubt for each, is_exact in pairs]),
        unbounded=_mean(unbounded),
        stages=stages,
        evaluations=_mean(spent),
        needed=_known([evaluations_needed(each, TOLERATED_DOUBT) for each in results]),
        total=sum(cost * len(each) for cost, each in zip(spent, results, strict=True)),
    )


def trust_line(trusts: Mapping[str, Trust], in_doubt: Sequence[str]) -> str:
    """Say in a line whether the estimates may be trusted, or which not and what that would cost.

    Args:
        trusts: Arm to how far its estimates are to be trusted.
        in_doubt: Arms with something against their estimates.
    """
    if in_doubt:
        named = [f"{arm} ({trusts[arm].cost})" for arm in in_doubt[:_MOST_NAMED]]
        if more := len(in_doubt) - len(named):
            named.append(f"{more} more")
        rest = _bounded([trust for arm, trust in trusts.items() if arm not in in_doubt])
        others = "" if rest is None else f"; the others are trusted to {rest}"
        return f"in doubt: {', '.join(named)}{others}"
    bounded = _bounded(list(trusts.values()))
    if bounded is None:
        return "no estimate is in doubt"
    return f"all estimates are trusted to {bounded}"


@final
@dataclass(frozen=True)
class Lowness:
    """Estimate of an arm by another method, and how far below the trusted one it is, in nats.

    Attributes:
        log_prob: Mean log p(x) over the seeds that both have, and the data.
        monte_carlo_error: Its standard error from the finite number of draws.
        low_by: Mean of the trusted estimate minus this one, datum by datum.
        low_by_error: Standard error of that from the draws of both.
        num_seeds: Number of seeds that both have.
    """

    log_prob: float
    monte_carlo_error: float
    low_by: float
    low_by_error: float
    num_seeds: int


def lowness(trusted: Mapping[int, Evidence], other: Mapping[int, Evidence]) -> Lowness | None:
    """How far estimates by another method are below the trusted ones; None without a shared seed.

    Args:
        trusted: Seed to the estimates that an arm is compared by.
        other: Seed to those of the same data by the other method.
    """
    seeds = sorted(trusted.keys() & other.keys())
    if not seeds:
        return None
    pairs = [paired_difference(trusted[seed], other[seed]) for seed in seeds]
    return Lowness(
        log_prob=_mean([other[seed].mean for seed in seeds]),
        # Runs have draws of their own.
        monte_carlo_error=math.hypot(*(other[s].monte_carlo_error for s in seeds)) / len(seeds),
        low_by=_mean([pair.mean for pair in pairs]),
        low_by_error=math.hypot(*(pair.monte_carlo_error for pair in pairs)) / len(seeds),
        num_seeds=len(seeds),
    )


def average_doubt(doubts: Sequence[MeanDoubt]) -> MeanDoubt:
    """Doubt of the mean of independent runs or arms."""
    return MeanDoubt(
        _mean([each.shift for each in doubts]),
        math.hypot(*(each.rise for each in doubts)) / len(doubts),
        math.hypot(*(each.fall for each in doubts)) / len(doubts),
        any(each.below for each in doubts),
        any(each.above for each in doubts),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _known(values: Sequence[float]) -> float | None:
    return None if any(map(math.isnan, values)) else _mean(values)


def _bounded(trusts: Sequence[Trust]) -> str | None:
    """The largest of doubts that are known and bounded, in words; None of none such."""
    known = [each.doubt for each in trusts if each.doubt is not None and math.isfinite(each.doubt)]
    if not known or len(known) < len(trusts):
        return None
    up = f"{math.ceil(1000 * max(known)) / 1000:.3f} nats"
    left_out = max(each.unbounded for each in trusts)
    few = f", beside up to {left_out:.1%} of an arm's data, which nothing bounds"
    return up + few if left_out else up


def _short(count: float) -> str:
    """A large number with two digits, such as 3.1M."""
    for size, letter in _SI:
        if count >= size:
            return (
                f"{count / size:.2g}{letter}"
                if count < 100 * size
                else (f"{count / size:.0f}{letter}")
            )
    return f"{count:.0f}"
