"""log p(x) between a lower and an upper bound, on simulated data."""

import math
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.display import Result
from ppl_vae.evidence.result import Evidence
from ppl_vae.identity import Identity


@final
@dataclass(frozen=True, repr=False)
class Sandwich(Result):
    """A lower and an upper bound, in expectation, of log p(x) for the same simulated data.

    Attributes:
        x: The simulated data, on the CPU.
        lower: By annealing forwards.
        upper: By annealing backwards. Its standard error does not hold what all chains of a datum
            share, the one exact posterior draw that they start from; that of the gap does.
        identity: What it was computed from; its rows are the simulated ones.
    """

    x: Shaped[Tensor, "num_data *event"]
    lower: Evidence
    upper: Evidence
    identity: Identity | None = None

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def gap(self) -> float:
        """Mean of upper - lower over the data, in nats: bounds the mean error of either side."""
        return self.upper.mean - self.lower.mean

    @property
    def gap_error(self) -> float:
        """Standard error of the gap from the spread over the data, which are independent."""
        if len(self) < 2:
            return math.nan
        width = self.upper.log_prob - self.lower.log_prob
        return width.std().item() / math.sqrt(len(self))

    def __str__(self) -> str:
        rows = [
            ("upper", self.upper.mean, self.upper.monte_carlo_error),
            ("lower", self.lower.mean, self.lower.monte_carlo_error),
            ("gap", self.gap, self.gap_error),
        ]
        lines = [f"log p(x), nats per datum, {len(self)} simulated data; {self.lower.method}"]
        lines += [f"  {name:<6}{value:>12.3f}  +- {error:.3f}" for name, value, error in rows]
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """Both sides and their gap as plain values, for JSON."""
        return {
            "gap": self.gap,
            "gap_error": None if math.isnan(self.gap_error) else self.gap_error,
            "lower": self.lower.summary(),
            "upper": self.upper.summary(),
            "identity": None if self.identity is None else self.identity.to_dict(),
        }
