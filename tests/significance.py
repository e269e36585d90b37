"""One false-alarm rate for the whole suite, split over its statistical tests.

A statistical test compares an estimate with what it should be by a z-score from the estimate's own
standard error. The limit on |z| follows from the suite's rate, the number of statistical tests and
(Bonferroni) the number of comparisons within the test; no test chooses it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import binom, norm
from torch import Tensor

SUITE_FALSE_ALARM = 1e-3
NUM_STATISTICAL_TESTS = 800
TEST_FALSE_ALARM = SUITE_FALSE_ALARM / NUM_STATISTICAL_TESTS


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


def mean_of(draws: Tensor) -> Estimate:
    """Mean of independent draws and its standard error."""
    draws = draws.double().flatten()
    return Estimate(draws.mean().item(), draws.std().item() / len(draws) ** 0.5)


def variance_of(draws: Tensor) -> Estimate:
    """Variance of independent draws and its standard error, from their fourth moment."""
    draws = draws.double().flatten()
    return mean_of((draws - draws.mean()).square() * len(draws) / (len(draws) - 1))


@dataclass
class Significance:
    """The comparisons of one test."""

    comparisons: int = 1

    def split(self, comparisons: int) -> "Significance":
        """The same, for a test that makes so many comparisons in all."""
        return Significance(comparisons)

    @property
    def rate(self) -> float:
        """False-alarm rate of one comparison."""
        return TEST_FALSE_ALARM / self.comparisons

    @property
    def limit(self) -> float:
        """Largest |z| of an innocent comparison."""
        return float(norm.isf(self.rate / 2))

    def require_equal(self, estimate: Estimate, expected: float | Estimate) -> None:
        """Fail if the estimate differs from a number, or from an independent estimate."""
        z = _z_score(estimate, expected)
        assert abs(z) < self.limit, f"{estimate} against {expected}: z = {z:.2f}"

    def require_less(self, estimate: Estimate, other: float | Estimate) -> None:
        """Fail unless the estimate is below the other, beyond doubt."""
        z = _z_score(estimate, other)
        assert z < -self.limit, f"{estimate} against {other}: z = {z:.2f}, not clearly less"

    def require_count(self, count: int, trials: int, probability: float) -> None:
        """Fail if a number of successes is improbable under the binomial."""
        low = binom.ppf(self.rate / 2, trials, probability)
        high = binom.isf(self.rate / 2, trials, probability)
        assert low <= count <= high, f"{count} of {trials}, expected {low:.0f} to {high:.0f}"


def _z_score(estimate: Estimate, expected: float | Estimate) -> float:
    other = expected if isinstance(expected, Estimate) else Estimate(float(expected), 0.0)
    return (estimate.value - other.value) / (estimate.error**2 + other.error**2) ** 0.5
