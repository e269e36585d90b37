"""log p(x) of simulated data between a lower and an upper bound."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.display import Panel, Result, Row, intervals_of
from ppl_vae.evidence._result import Evidence
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Variable, numpy_of


@final
@dataclass(frozen=True)
class Likeness:
    """How hard simulated data are beside the real ones that they stand for.

    Attributes:
        draws: Number of draws of the guide.
        effective: Effective samples of so many, of the median simulated datum and of the median
            real one; None without a guide.
        evaluations: Decoder evaluations that the estimate spent on a simulated datum and on a real
            one, means; None where the estimate was not given.
        easier: Whether the simulated data are easier, beyond what chance makes likely (1%).
    """

    draws: int
    effective: tuple[float, float] | None
    evaluations: tuple[float, float] | None
    easier: bool

    def __str__(self) -> str:
        by = []
        if self.effective is not None:
            a, b = self.effective
            by.append(f"of {self.draws} draws of the guide {a:.0f} and {b:.0f} are effective")
        if self.evaluations is not None:
            a, b = self.evaluations
            by.append(f"they took {a:,.0f} and {b:,.0f} decoder evaluations each")
        if self.easier:
            first = "simulated data are easier than the real ones, of which the gap says less"
        else:
            first = "simulated data are no easier than the real ones"
        return f"{first}: {'; '.join(by)}"


@final
@dataclass(frozen=True, eq=False, repr=False)
class Sandwich(Result):
    """A lower and an upper bound, in expectation, of log p(x) for the same simulated data.

    Attributes:
        x: The simulated data, on the CPU.
        lower: By annealing forwards.
        upper: By annealing backwards. Its standard error does not hold what all chains of a datum
            share, the one exact posterior draw that they start from; that of the gap does.
        identity: What it was computed from; its rows are the simulated ones.
        likeness: How hard the simulated data are beside real ones, where they were compared.
    """

    _group: ClassVar[str] = "sandwich"

    x: Shaped[Tensor, "num_data *event"]
    lower: Evidence
    upper: Evidence
    identity: Identity | None = None
    likeness: Likeness | None = None

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def gap(self) -> float:
        """Mean of upper - lower over the data, in nats; it bounds the mean error of either side."""
        return self.upper.mean - self.lower.mean

    @property
    def gap_error(self) -> float:
        """Standard error of the gap from the spread over the data, which are independent."""
        if len(self) < 2:
            return math.nan
        # Not from the errors of the sides: those leave out that chains backwards share their start.
        width = self.upper.log_prob - self.lower.log_prob
        return width.std().item() / math.sqrt(len(self))

    def __str__(self) -> str:
        rows = [
            ("upper", self.upper.mean, self.upper.monte_carlo_error),
            ("lower", self.lower.mean, self.lower.monte_carlo_error),
            ("gap", self.gap, self.gap_error),
        ]
        lines = [f"log p(x), nats per datum, {len(self)} simulated data; {self.lower.method}"]
        for name, value, error in rows:
            # The gap of one datum has no spread to tell an error by.
            shown = "" if math.isnan(error) else f"  +- {error:.3f}"
            lines.append(f"  {name:<6}{value:>12.3f}{shown}")
        if self.likeness is not None:
            lines.append(str(self.likeness))
        return "\n".join(lines)

    def _values(self) -> dict[str, Any]:
        sides = {"lower": self.lower.summary(), "upper": self.upper.summary()}
        own = {"gap": self.gap, "gap_error": self.gap_error, "num_data": len(self)}
        alike = (
            None if self.likeness is None else vars(self.likeness) | {"text": str(self.likeness)}
        )
        return {**own, **sides, "likeness": alike, "identity": self.identity}

    def _rows(self) -> list[Row]:
        sides = {"upper": self.upper, "lower": self.lower}
        rows = {name: (side.mean, side.monte_carlo_error) for name, side in sides.items()}
        rows["gap"] = self.gap, self.gap_error
        return [{"term": n, "value": v, "standard_error": e} for n, (v, e) in rows.items()]

    def _arrays(self) -> dict[str, Variable]:
        sides = {"upper": self.upper, "lower": self.lower}
        return {name: (["datum"], numpy_of(side.log_prob)) for name, side in sides.items()}

    def _panels(self) -> list[Panel]:
        return intervals_of(self._rows()[:2])
