"""Statistics of a comparison: several arms, each over the same seeds and the same data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from ppl_vae.comparison.crossed import CrossedMean, crossed_mean
from ppl_vae.evidence import Evidence


@final
@dataclass(frozen=True)
class Comparison:
    """Arms evaluated on the same data over the same seeds, and their differences.

    Attributes:
        arms: Arm to its mean log p(x), in nats per datum.
        differences: ``(a, b)`` to the mean of log p_a(x) - log p_b(x), paired by seed and datum.
        confidence: Of every interval of a difference, all of them together (Bonferroni).
        warnings: Arm to why its log p(x) should not be trusted.
        num_data, num_seeds, num_particles: What the numbers rest on.
    """

    arms: dict[str, CrossedMean]
    differences: dict[tuple[str, str], CrossedMean]
    confidence: float
    warnings: dict[str, str]
    num_data: int
    num_seeds: int
    num_particles: int

    def interval(self, pair: tuple[str, str]) -> tuple[float, float]:
        """The interval of one difference; all of them hold together at :attr:`confidence`."""
        each = 1 - (1 - self.confidence) / len(self.differences)
        return self.differences[pair].interval(each)

    def verdict(self, pair: tuple[str, str]) -> str:
        """Which arm is higher, if the interval excludes 0, in words."""
        low, high = self.interval(pair)
        if low > 0:
            return f"{pair[0]} higher"
        if high < 0:
            return f"{pair[1]} higher"
        return "no difference shown"

    def summary(self) -> dict[str, Any]:
        """The comparison as plain values, for JSON."""
        return {
            "unit": "nats per datum",
            "num_data": self.num_data,
            "num_seeds": self.num_seeds,
            "num_particles": self.num_particles,
            "confidence": self.confidence,
            "arms": {
                arm: {
                    **_plain(mean),
                    "interval": mean.interval(),
                    "warning": self.warnings.get(arm),
                }
                for arm, mean in self.arms.items()
            },
            "differences": [
                {
                    "a": pair[0],
                    "b": pair[1],
                    **_plain(mean),
                    "interval": self.interval(pair),
                    "verdict": self.verdict(pair),
                }
                for pair, mean in self.differences.items()
            ],
        }


def compare(evidence: Mapping[str, Sequence[Evidence]], *, confidence: float = 0.95) -> Comparison:
    """Compare arms, each a sequence of results over the same seeds in the same order.

    Raises:
        ValueError: If arms differ in their seeds or data.
    """
    shapes = {arm: [len(result) for result in results] for arm, results in evidence.items()}
    if len({tuple(shape) for shape in shapes.values()}) != 1:
        raise ValueError(f"arms need the same seeds and data, got sizes {shapes}.")
    values = {arm: torch.stack([r.log_prob for r in results]) for arm, results in evidence.items()}
    # One particle has no standard error (NaN); its spread over data still counts.
    variance = {
        arm: torch.stack([r.standard_error for r in results]).square().nan_to_num()
        for arm, results in evidence.items()
    }
    names = list(evidence)
    pairs = [(a, b) for i, b in enumerate(names) for a in names[i + 1 :]]
    warnings = {arm: [r.warning for r in results if r.warning] for arm, results in evidence.items()}
    first = evidence[names[0]][0]
    return Comparison(
        arms={arm: crossed_mean(values[arm], variance[arm]) for arm in names},
        differences={
            (a, b): crossed_mean(values[a] - values[b], variance[a] + variance[b]) for a, b in pairs
        },
        confidence=confidence,
        warnings={arm: found[0] for arm, found in warnings.items() if found},
        num_data=len(first),
        num_seeds=len(evidence[names[0]]),
        num_particles=first.num_particles,
    )


def _plain(mean: CrossedMean) -> dict[str, Any]:
    values = {
        "mean": mean.mean,
        "error": mean.error,
        "degrees_of_freedom": mean.degrees_of_freedom,
        "seed_error": mean.seed_error,
        "data_error": mean.data_error,
        "monte_carlo_error": mean.monte_carlo_error,
        "seed_spread": mean.seed_spread,
    }
    plain: dict[str, Any] = {k: v if math.isfinite(v) else None for k, v in values.items()}
    return {**plain, "per_seed": list(mean.per_seed)}
