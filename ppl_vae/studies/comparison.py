"""Statistics of a comparison: several arms, each over the same seeds and the same data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ppl_vae.evidence import Evidence


@final
@dataclass(frozen=True)
class CrossedMean:
    """The mean of values over seeds and data, with its sources of error apart; all in nats.

    The values are taken as ``y_si = mu + seed_s + datum_i + rest_si``, with seeds and data both
    random and crossed. With the mean squares of the two-way analysis of variance,
    ``Var(mean) = (MS_seed + MS_datum - MS_rest) / (S N)``, and Satterthwaite's degrees of freedom.
    One seed says nothing of the seeds: ``Var(mean) = s^2 / N``, for that training run only.

    Attributes:
        mean: Over all seeds and data.
        error: Standard error of the mean, all sources joined.
        degrees_of_freedom: Of the error.
        seed_error: From the finite number of seeds; NaN with one seed.
        data_error: From the finite number of data, the Monte Carlo noise removed.
        monte_carlo_error: From the finite number of particles.
        seed_spread: Standard deviation over seeds of the per-seed means; NaN with one seed.
        per_seed: The per-seed means.

    References:
        Satterthwaite, 1946, An approximate distribution of estimates of variance components.
        Searle, Casella and McCulloch, 1992, Variance components, chapter 4.
    """

    mean: float
    error: float
    degrees_of_freedom: float
    seed_error: float
    data_error: float
    monte_carlo_error: float
    seed_spread: float
    per_seed: tuple[float, ...]

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student-t confidence interval of the mean."""
        half = self.error * float(stats.t.ppf(0.5 + confidence / 2, self.degrees_of_freedom))
        return self.mean - half, self.mean + half


def crossed_mean(
    values: Float[Tensor, "seeds data"], monte_carlo_variance: Float[Tensor, "seeds data"]
) -> CrossedMean:
    """Estimate the mean over seeds and data with its errors.

    Args:
        values: One value a seed and datum, in nats.
        monte_carlo_variance: The squared Monte Carlo standard error of each.

    Raises:
        ValueError: If there are fewer than 2 data.
    """
    values = values.double()
    num_seeds, num_data = values.shape
    if num_data < 2:
        raise ValueError(f"a comparison needs at least 2 data, got {num_data}.")
    cells = num_seeds * num_data
    mean, seed_means, datum_means = values.mean(), values.mean(1), values.mean(0)
    datum_ms = num_seeds * datum_means.var().item()
    if num_seeds == 1:
        seed_ms = rest_ms = 0.0
    else:
        seed_ms = num_data * seed_means.var().item()
        rest = values - seed_means[:, None] - datum_means[None, :] + mean
        rest_ms = rest.square().sum().item() / ((num_seeds - 1) * (num_data - 1))
    # By chance the difference can fall below one of its parts, which no variance here can.
    mean_square = max(seed_ms + datum_ms - rest_ms, seed_ms, datum_ms)
    monte_carlo_ms = monte_carlo_variance.double().mean().item()
    return CrossedMean(
        mean=mean.item(),
        error=math.sqrt(mean_square / cells),
        degrees_of_freedom=_satterthwaite(seed_ms, datum_ms, rest_ms, num_seeds, num_data),
        seed_error=_root((seed_ms - rest_ms) / cells) if num_seeds > 1 else math.nan,
        data_error=_root((datum_ms - max(rest_ms, monte_carlo_ms)) / cells),
        monte_carlo_error=math.sqrt(monte_carlo_ms / cells),
        seed_spread=seed_means.std().item() if num_seeds > 1 else math.nan,
        per_seed=tuple(seed_means.tolist()),
    )


def _satterthwaite(
    seed_ms: float, datum_ms: float, rest_ms: float, num_seeds: int, num_data: int
) -> float:
    total = max(seed_ms + datum_ms - rest_ms, seed_ms, datum_ms)
    if total == 0:
        return float(num_data - 1)
    # Shares, not squares: values that agree to rounding would underflow.
    inverse = (datum_ms / total) ** 2 / (num_data - 1)
    if num_seeds > 1:
        inverse += (seed_ms / total) ** 2 / (num_seeds - 1)
        inverse += (rest_ms / total) ** 2 / ((num_seeds - 1) * (num_data - 1))
    return 1 / inverse


def _root(value: float) -> float:
    return math.sqrt(max(0.0, value))


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
