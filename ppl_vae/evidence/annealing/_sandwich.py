"""log p(x) between a lower and an upper bound, on simulated data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from jaxtyping import Shaped
from torch import Tensor

from ppl_vae import plots
from ppl_vae.display import Axes, Panel, Result, Row, intervals_of
from ppl_vae.evidence._result import Evidence
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Variable, numpy_of


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

    _group: ClassVar[str] = "sandwich"

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

    def _values(self) -> dict[str, Any]:
        sides = {"lower": self.lower.summary(), "upper": self.upper.summary()}
        own = {"gap": self.gap, "gap_error": self.gap_error, "num_data": len(self)}
        return {**own, **sides, "identity": self.identity}

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


def plot_sandwiches(sandwiches: Mapping[int, Sandwich], ax: Axes | None = None) -> Any:
    """Draw both bounds of log p(x) on simulated data against the number of temperatures.

    Args:
        sandwiches: Number of temperatures to what it gave.
        ax: Where to draw; a new figure if not given.

    Returns:
        The axes that were given, or the new figure.
    """
    lengths = sorted(sandwiches)
    sides = {
        "upper bound, backwards": [sandwiches[T].upper for T in lengths],
        "lower bound, forwards": [sandwiches[T].lower for T in lengths],
    }
    curves = []
    for index, (name, found) in enumerate(sides.items()):
        pairs = [(side.mean, 2 * side.monte_carlo_error) for side in found]
        values = [value for value, _ in pairs]
        low, high = [v - half for v, half in pairs], [v + half for v, half in pairs]
        curves.append(plots.Curve(plots.style_of(index), lengths, values, low, high, name))

    def draw(ax: Axes) -> None:
        plots.draw_against(ax, curves, "temperatures", "log p(x), nats per datum")
        plots.remark(ax, "bars: two standard errors")
        plots.legend(ax)

    return plots.draw_on([(draw, plots.HEIGHT)], ax)
