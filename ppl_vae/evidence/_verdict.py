"""Reasons not to trust an estimate of log p(x)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Float
from torch import Tensor

MIN_EFFECTIVE_SAMPLE_SIZE = 5.0
"""Least number of effective samples: below it a delta-method standard error is itself an
accident."""

LEAST_EFFECTIVE_SHARE = 0.9
"""Share of K weights, where K is so small that fewer than 5 effective samples are no sign of
anything."""

TOLERATED_ROUNDING = 0.05
"""Nats of an estimate that rounding may leave open."""

TOLERATED_FRACTION = 0.05
"""Largest share of the data with too few effective samples before the mean is in doubt."""

TOLERATED_DOUBT = 0.05
"""Nats by which log p(x) may be low before it is said."""

TOLERATED_UNBOUNDED = 0.1
"""Largest share of the data whose doubt nothing bounds before the mean is in doubt: of tails that
are light enough, as many look heavy by chance where draws are few."""

_BY_CHANCE = 0.02
"""Share of the data whose doubt may be unbounded by chance alone: nothing is said of them."""

TOLERATED_TAIL = 0.02
"""Largest share of an estimate from a heavy tail's excess: about as many nats are then in doubt."""

_SKEWED = 3.0
"""Standard errors by which the skewness of log-weights is above that of normal ones."""

_EVEN = 0.05
"""Standard error, in nats, below which weights are even enough for their skewness not to matter:
the delta method's bias, half of its square, is then about 0.001."""

TOLERATED_GAP = 0.1
"""Nats between the two sides of a sandwich on simulated data before a schedule is in doubt."""


@final
@dataclass(frozen=True)
class Finding:
    """Reason against an estimate; serious if the mean over the data is in doubt."""

    text: str
    serious: bool


def verdict(findings: Sequence[Finding | None]) -> str | None:
    """All findings in words, serious ones first; None if there are none."""
    # A stable sort: findings that are as serious keep their order.
    known = sorted((f for f in findings if f is not None), key=lambda f: not f.serious)
    if not known:
        return None
    trust = "not to be trusted" if known[0].serious else "limited"
    return f"{trust}: {'; '.join(finding.text for finding in known)}"


def required_effective(num_weights: int, least: float = MIN_EFFECTIVE_SAMPLE_SIZE) -> float:
    """Effective samples below which a standard error is an accident.

    ``least``, or 0.9 of the weights where there are so few that ``least`` cannot be reached.
    """
    return min(least, LEAST_EFFECTIVE_SHARE * num_weights)


def outside_support(support_gap: str | None) -> Finding | None:
    """Finding that the guide draws from a part of the prior's support only."""
    if support_gap is None:
        return None
    text = (
        f"{support_gap}: what lies outside is never drawn, and log p(x) is too low by that part, "
        "whatever the number of draws"
    )
    return Finding(text, serious=True)


def no_weight(log_prob: Float[Tensor, " batch"]) -> Finding | None:
    """Finding that some data have weights of 0 only."""
    poor = int(log_prob.isneginf().sum())
    text = (
        f"{poor} of {len(log_prob)} data have weights of 0 only: under none of their draws is x "
        "possible, or its density is below the smallest number of its type, which double precision "
        "may hold"
    )
    return Finding(text, serious=True) if poor else None


def few_effective(below: Bool[Tensor, " batch"], least: float, direction: str) -> Finding | None:
    """Finding that some data have fewer than ``least`` effective samples."""
    side = {"lower": "too low", "upper": "too high"}.get(direction, "off")
    low = f"their log p(x) is likely {side} and its error understated"
    few = "a few replicates make their log p(x) and its error"
    return _some(
        below,
        f"have fewer than {least:.2g} effective samples, so that "
        f"{few if direction == 'unbiased' else low}",
        TOLERATED_FRACTION,
    )


def unbounded(doubt: Float[Tensor, " batch"]) -> Finding | None:
    """Finding that nothing bounds how low log p(x) of some data may be."""
    if int(doubt.isinf().sum()) <= _BY_CHANCE * len(doubt):
        return None
    text = "have weights whose tail leaves open how low their log p(x) is"
    return _some(doubt.isinf(), text, TOLERATED_UNBOUNDED)


def low(bias: float, doubt: float, tolerated: float) -> Finding | None:
    """Finding that the mean of log p(x) may be low by more than is tolerated."""
    if not doubt > tolerated:
        return None
    text = f"log p(x) may be low by {bias:.3g} nats (95%: by less than {doubt:.3g})"
    return Finding(text, serious=False)


def skewed(
    skewness_z: Float[Tensor, " batch"], standard_error: Float[Tensor, " batch"]
) -> Finding | None:
    """Finding that log-weights have a longer upper tail than normal ones, over all data.

    A few chains seldom show the skewness of a single datum: the mean over the data does, in which
    z-scores of N data have a standard error of ``1 / sqrt(N)``.
    """
    known = skewness_z.isfinite()
    total = skewness_z[known].sum().item() / math.sqrt(max(int(known.sum()), 1))
    uneven = standard_error[known].square().mean().sqrt().item() > _EVEN
    if not (total > _SKEWED and uneven):
        return None
    text = (
        f"log-weights are skewed ({total:.1f} standard errors above normal ones): chains that are "
        "seldom drawn carry the mean, so that log p(x) is likely too low, and its error and doubt "
        "understated"
    )
    return Finding(text, serious=False)


def rounded(rounding: Float[Tensor, " batch"]) -> Finding | None:
    """Finding that some data have log-densities that are too large for their type."""
    return _some(
        rounding > TOLERATED_ROUNDING,
        "have log-densities so large that rounding leaves up to "
        f"{rounding.max().item():.2g} nats of log p(x) open: compute in double precision, or look "
        "for a model that has diverged",
        TOLERATED_FRACTION,
    )


def wide_gap(gap: float | None) -> Finding | None:
    """Finding that a sandwich by the same settings is wide."""
    if gap is None or gap <= TOLERATED_GAP:
        return None
    text = (
        f"on simulated data the same settings leave log p(x) uncertain by {gap:.2f} nats, more "
        f"than {TOLERATED_GAP:g}"
    )
    return Finding(text, serious=True)


def _some(poor: Bool[Tensor, " batch"], text: str, tolerated: float) -> Finding | None:
    """Finding about the data that are poor; serious if their share is not tolerated."""
    count = int(poor.sum())
    serious = count > tolerated * len(poor)
    return Finding(f"{count} of {len(poor)} data {text}", serious) if count else None
