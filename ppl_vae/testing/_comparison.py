"""Comparisons of numbers with their expected values, rungs of comparisons, and their report."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from scipy.stats import binom, norm
from torch import Tensor

from ppl_vae.names import require_share

ROUNDING = 1e-8
"""Error of an identity in double precision, through a few hundred operations or a central
difference, relative to values of 1 and more. No mistake in a formula is as small."""

Skip = Literal["not claimed", "not applicable", "not looked", "not reached"]
"""Reason why a rung has no comparisons. ``not looked``: the question is open, since there was no
way to answer it, and the whole check has not passed."""
_Outcome = Literal["passed", "failed"] | Skip


@final
@dataclass(frozen=True)
class Discrepancy:
    """Comparison of a number with its expected value, and how far apart they may be.

    Attributes:
        what: Name of the quantity.
        found: Number under test.
        expected: Number that it is compared with.
        error: Standard error of their difference; None where they should be equal to rounding.
        relation: ``found`` equals ``expected``, or is at most or at least that.
        skewness: Skewness of the difference: that of the replicates over the root of their number.
    """

    what: str
    found: float
    expected: float
    error: float | None = None
    relation: Literal["=", "<=", ">="] = "="
    skewness: float = 0.0

    @property
    def deviation(self) -> float:
        """Deviation in standard errors (z) or, for an identity, relative; positive if too large.

        z is made normal to second order: products of weights are skewed, and the mean of a
        thousand would raise false alarms far out in the tail, where the limit lies.

        References:
            Hall, 1992, On the removal of skewness by transformation.
        """
        difference = self.found - self.expected
        unit = 1 + abs(self.expected)
        if self.error is None:
            return difference / unit
        # Estimates that are equal draw by draw have no standard error but that of rounding.
        z = difference / math.hypot(self.error, ROUNDING * unit)
        s = self.skewness
        # The cubic is monotone in z for every skewness: a larger deviation never counts for less.
        return z + s * (z**2 / 3 + 1 / 6) + s**2 * z**3 / 27

    def excess(self, limit: float) -> float:
        """Ratio of the deviation to what it may be, given the limit of z; above 1 it fails.

        A deviation to the side that the relation allows counts for nothing.
        """
        allowed = ROUNDING if self.error is None else limit
        wrong = {"=": abs(self.deviation), "<=": self.deviation, ">=": -self.deviation}
        size = wrong[self.relation] / allowed
        # Every comparison with NaN is false: it would pass.
        return math.inf if math.isnan(size) else max(size, 0.0)

    def __str__(self) -> str:
        relation = {"=": "", "<=": "at most ", ">=": "at least "}[self.relation]
        measure = "relative error" if self.error is None else "z ="
        return (
            f"{self.what}: expected {relation}{self.expected:.6g}, found {self.found:.6g}, "
            f"{measure} {self.deviation:.3g}"
        )


Answer = list[Discrepancy] | Skip
"""Result of a rung: its comparisons, or why there are none."""


@final
@dataclass(frozen=True)
class Rung:
    """Rung of the ladder, with its comparisons.

    Attributes:
        name: Name of the rung.
        comparisons: All comparisons that were made.
        skipped: Reason why none were made, if so.
        raised: Exception that was raised instead of an answer.
    """

    name: str
    comparisons: tuple[Discrepancy, ...] = ()
    skipped: Skip | None = None
    raised: Exception | None = None

    @property
    def num_statistical(self) -> int:
        """Number of comparisons by a z-score."""
        return sum(comparison.error is not None for comparison in self.comparisons)

    def failed(self, limit: float) -> list[Discrepancy]:
        """List the comparisons that do not hold, worst first."""
        ordered = sorted(self.comparisons, key=lambda c: -c.excess(limit))
        return [comparison for comparison in ordered if comparison.excess(limit) > 1]

    def outcome(self, limit: float) -> _Outcome:
        """Outcome of the rung, given the limit of z."""
        if self.raised is not None or self.failed(limit):
            return "failed"
        return self.skipped or "passed"

    @property
    def largest(self) -> str:
        """Largest error and z, for the table; z has a sign where one side is allowed."""
        statistical = [c for c in self.comparisons if c.error is not None]
        relative = [abs(c.deviation) for c in self.comparisons if c.error is None]
        parts = [f"error {max(relative):.0e}"] if relative else []
        if statistical:
            worst = max(statistical, key=lambda c: abs(c.deviation))
            z = worst.deviation
            parts.append(f"|z| {abs(z):.1f}" if worst.relation == "=" else f"z {z:+.1f}")
        return ", ".join(parts)

    def complaint(self, limit: float) -> str:
        """Describe what is wrong in one line."""
        if self.raised is not None:
            # An AssertionError is a check's own sentence; of others the type says what happened.
            kind = (
                "" if isinstance(self.raised, AssertionError) else f"{type(self.raised).__name__}: "
            )
            return f"{self.name}: {kind}{' '.join(str(self.raised).split())}"
        worst, *others = self.failed(limit)
        more = f" (and {len(others)} more)" if others else ""
        return f"{self.name}: {worst}{more}"


@final
@dataclass(frozen=True)
class Report:
    """Report of a check: its rungs in order; prints as a table.

    Attributes:
        subject: Name of what was checked.
        rungs: All rungs.
        limit: Largest absolute z of an innocent comparison: the false-alarm rate of the whole
            check, split over its statistical comparisons (Bonferroni).
    """

    subject: str
    rungs: tuple[Rung, ...]
    limit: float

    @classmethod
    def of(cls, subject: str, rungs: list[Rung], false_alarm: float) -> "Report":
        """Make a report whose limit of z follows from the rate and the number of comparisons."""
        # Two-sided, and split over statistical comparisons alone: identities raise no false alarm.
        count = sum(rung.num_statistical for rung in rungs)
        return cls(subject, tuple(rungs), float(norm.isf(false_alarm / 2 / max(count, 1))))

    def require_passed(self) -> None:
        """Raise an AssertionError with one line for each rung that failed."""
        failed = [rung for rung in self.rungs if rung.outcome(self.limit) == "failed"]
        if failed:
            lines = "".join(f"\n- {rung.complaint(self.limit)}" for rung in failed)
            raise AssertionError(
                f"{self.subject} fails {len(failed)} of {len(self.rungs)} rungs "
                f"(|z| may be {self.limit:.1f}):{lines}"
            ) from next((rung.raised for rung in failed if rung.raised is not None), None)

    @property
    def not_looked(self) -> tuple[str, ...]:
        """Names of the rungs whose question could not be looked at."""
        return tuple(rung.name for rung in self.rungs if rung.skipped == "not looked")

    @property
    def verdict(self) -> str:
        """``passed``, or the reason why the check has neither passed nor failed."""
        if not self.not_looked:
            return "passed"
        return f"not passed, could not look whether {', '.join(self.not_looked)}"

    def __str__(self) -> str:
        width = max(len(rung.name) for rung in self.rungs)
        lines = [f"{self.subject}, |z| below {self.limit:.1f}: {self.verdict}"]
        for rung in self.rungs:
            line = f"  {rung.name:<{width}}  {rung.outcome(self.limit):<14}  {rung.largest}"
            lines.append(line.rstrip())
        return "\n".join(lines)


def same(what: str, found: Tensor | float, expected: Tensor | float) -> Discrepancy:
    """Compare two tensors, or numbers, for equality to rounding, by their worst entries."""
    values = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (found, expected))
    a, b = torch.broadcast_tensors(*values)
    worst = int(((a - b).abs() / (1 + b.abs())).nan_to_num(nan=math.inf).argmax())
    return Discrepancy(what, a.flatten()[worst].item(), b.flatten()[worst].item())


def mean_is(
    what: str,
    found: Float[Tensor, " rows"],
    expected: Float[Tensor, " rows"],
    relation: Literal["=", "<=", ">="] = "=",
) -> Discrepancy:
    """Compare the mean of independent ``found - expected`` with 0, or with one side of it."""
    difference = (found - expected).detach().double()
    centred, count = difference - difference.mean(), len(difference)
    # Powers of a spread at the level of rounding would be 0 / 0.
    spread = centred.square().mean().sqrt().clamp(min=ROUNDING)
    return Discrepancy(
        what,
        found.mean().item(),
        expected.mean().item(),
        # The spread divides by n; n - 1 here makes the variance of the mean unbiased.
        error=spread.item() / math.sqrt(count - 1),
        relation=relation,
        skewness=((centred / spread) ** 3).mean().item() / math.sqrt(count),
    )


def share_is(
    what: str, hits: Bool[Tensor, " rows"], share: float, relation: Literal["<=", ">="]
) -> Discrepancy:
    """Compare the share of independent trials that hit with a probability that bounds it.

    On the wrong side z has the binomial's exact tail probability.
    """
    count, trials = int(hits.sum()), len(hits)
    # sf is P(> k): count - 1 makes the tail hold the count itself, as cdf does.
    tail = {"<=": binom.sf(count - 1, trials, share), ">=": binom.cdf(count, trials, share)}
    z = float(norm.isf(tail[relation]))
    found, error = count / trials, math.sqrt(share * (1 - share) / trials)
    # The error that gives this z. Near the share the normal error agrees with it; where the tail
    # underflows to 0, z is infinite and either error fails.
    error = abs(found - share) / z if 1 < z < math.inf else error
    return Discrepancy(what, found, share, error, relation)


def run_ladder(
    subject: str,
    ladder: Mapping[str, Callable[[], Answer]],
    false_alarm: float,
    *,
    foundation: str | None = None,
) -> Report:
    """Test every rung, in order.

    Args:
        subject: Name of what is checked, for the report.
        ladder: Name to the rung.
        false_alarm: Probability that a right subject fails, over all rungs together (Bonferroni).
        foundation: Rung without which those after it would only repeat its failure.

    Raises:
        AssertionError: If a rung fails; one line for each.
        ValueError: If ``false_alarm`` is not between 0 and 1.
    """
    require_share(false_alarm=false_alarm)
    rungs: list[Rung] = []
    # A caller may have switched autograd off; rungs compare gradients.
    with torch.enable_grad():
        for name, rung in ladder.items():
            # A foundation that raised has no results: each later rung would raise the same.
            broken = any(r.name == foundation and r.raised is not None for r in rungs)
            rungs.append(Rung(name, skipped="not reached") if broken else _run(name, rung))
    report = Report.of(subject, rungs, false_alarm)
    report.require_passed()
    return report


def _run(name: str, rung: Callable[[], Answer]) -> Rung:
    try:
        answer = rung()
    except Exception as error:  # code under test may raise anything
        return Rung(name, raised=error)
    return Rung(name, skipped=answer) if isinstance(answer, str) else Rung(name, tuple(answer))
