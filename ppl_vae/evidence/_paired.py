"""Difference of two models in log p(x), over the same data."""

import math
from dataclasses import dataclass
from typing import final

from ppl_vae.evidence._result import Evidence, remainder, standard_error_of_mean
from ppl_vae.names import require_instance


@final
@dataclass(frozen=True)
class PairedDifference:
    """Mean over the same data of log p_a(x_i) - log p_b(x_i), in nats per datum.

    Attributes:
        mean: The mean difference.
        monte_carlo_error: Its standard error from the particles, the data held fixed.
        total_error: Its standard error as an estimate for the data's population, both sources.
    """

    mean: float
    monte_carlo_error: float
    total_error: float

    @property
    def data_error(self) -> float:
        """The part of the total error from the finite number of data."""
        return remainder(self.total_error, self.monte_carlo_error)


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
    )
