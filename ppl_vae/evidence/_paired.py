"""Difference of two models in log p(x), over the same data."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, final

from ppl_vae.evidence._doubt import NORMAL
from ppl_vae.evidence._result import Evidence, remainder, standard_error_of_mean
from ppl_vae.identity import share_measure
from ppl_vae.names import require_instance


class MeanDoubt(NamedTuple):
    """Doubt of a mean log p(x), or of the difference of two, in nats.

    Attributes:
        shift: How much higher it is estimated to be than the estimates say.
        rise: How much higher than that it may be (95%).
        fall: How much lower than that it may be: no lower than the estimates say, of one mean.
        below: Whether nothing bounds how much lower it is, as of a second arm without any bound.
        above: The same of higher, and an arm itself or the first of two.
    """

    shift: float = 0.0
    rise: float = 0.0
    fall: float = 0.0
    below: bool = False
    above: bool = False

    def minus(self, other: "MeanDoubt") -> "MeanDoubt":
        """The doubt of a difference: where both are low by as much, its shift is 0.

        The draws of the two are independent, and so is what is not known of each.
        """
        return MeanDoubt(
            self.shift - other.shift,
            math.hypot(self.rise, other.fall),
            math.hypot(self.fall, other.rise),
            self.below or other.above,
            self.above or other.below,
        )

    def widened(self, mean: float, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of the difference with what either arm may be low by.

        Of the interval, and of one that is moved by the shift and as much wider as independent
        errors make it, the lower end of the two and the upper.
        """
        middle = mean + self.shift
        below, above = math.hypot(mean - low, self.fall), math.hypot(high - mean, self.rise)
        return (
            -math.inf if self.below else min(low, middle - below),
            math.inf if self.above else max(high, middle + above),
        )

    def hides(self, mean: float) -> bool:
        """Whether 0 stays in the interval of such a difference, however little sampling leaves."""
        if mean < 0:
            return self.above or self.shift >= -mean
        return self.below or -self.shift >= mean > 0


def doubt_of(result: Evidence) -> MeanDoubt:
    """Doubt of the mean log p(x) of a run.

    What is not known of single data is independent: the half widths ``d - b`` add up as roots of
    sums of squares. Data whose doubt nothing bounds are left out; where there are no others, the
    upper side is open. An estimator that does not tell counts as exact.
    """
    if result.direction == "exact" or math.isnan(result.mean_doubt):
        return MeanDoubt()
    if math.isinf(result.mean_doubt):
        return MeanDoubt(above=True)
    shift = result.mean_bias
    rise = result.mean_doubt - shift
    # The estimate is low by something between 0 and its doubt: it is not high.
    return MeanDoubt(shift, rise, min(rise, shift))


@final
@dataclass(frozen=True)
class PairedDifference:
    """Mean over the same data of log p_a(x_i) - log p_b(x_i), in nats per datum.

    Attributes:
        mean: The mean difference.
        monte_carlo_error: Its standard error from the particles, the data held fixed.
        total_error: Its standard error as an estimate for the data's population, both sources.
        doubt: What either estimate may be low by, which is in no error.
    """

    mean: float
    monte_carlo_error: float
    total_error: float
    doubt: MeanDoubt = field(default=MeanDoubt(), kw_only=True)

    @property
    def data_error(self) -> float:
        """The part of the total error from the finite number of data."""
        return remainder(self.total_error, self.monte_carlo_error)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the difference for the data's population, in nats per datum.

        The mean plus or minus 1.96 total errors, as much wider as either estimate may be low;
        an end is infinite where nothing bounds that.
        """
        half = NORMAL * self.total_error
        return self.doubt.widened(self.mean, self.mean - half, self.mean + half)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"difference in log p(x) = {self.mean:+.3f} nats per datum (error of the mean: Monte "
            f"Carlo {self.monte_carlo_error:.3f}, finite data {self.data_error:.3f}, together "
            f"{self.total_error:.3f}; 95% interval [{low:+.3f}, {high:+.3f}] with what either "
            "estimate may be low by)"
        )


def paired_difference(a: Evidence, b: Evidence) -> PairedDifference:
    """Compare two models evaluated on the same data, datum by datum.

    Raises:
        TypeError: If one is no estimate of log p(x).
        ValueError: If the two have different numbers of data, or are known to be of other data.
    """
    for name, each in (("a", a), ("b", b)):
        require_instance(name, each, Evidence, "an estimator of log p(x) gives one")
    sources = ""
    if a.identity and b.identity:
        sources = f", from {a.identity.source} and {b.identity.source}"
    if len(a) != len(b):
        raise ValueError(
            f"paired evidence needs the same data, got {len(a)} and {len(b)} values{sources}."
        )
    differing = a.identity.differences(b.identity, "rows") if a.identity and b.identity else []
    if differing:
        raise ValueError(
            f"paired evidence needs the same data in the same order, got {differing[0]}{sources}: "
            "evaluate both on the same rows."
        )
    if a.identity and b.identity and not share_measure(a.identity.measure, b.identity.measure):
        raise ValueError(
            f"p(x) is a {a.identity.measure} of one and a {b.identity.measure} of the other: their "
            "log p(x) do not compare; give both models a likelihood of one kind."
        )
    difference = a.log_prob - b.log_prob
    # Two estimates have draws of their own: their Monte Carlo variances add.
    monte_carlo = math.hypot(a.monte_carlo_error, b.monte_carlo_error)
    mean = difference.mean().item()
    return PairedDifference(
        mean=mean,
        monte_carlo_error=math.nan if math.isnan(mean) else monte_carlo,
        # What all data of a model share is in no spread over data.
        total_error=math.hypot(
            standard_error_of_mean(difference), a.shared_error or 0.0, b.shared_error or 0.0
        ),
        doubt=doubt_of(a).minus(doubt_of(b)),
    )
