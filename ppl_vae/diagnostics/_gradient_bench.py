"""Results of a gradient bench: a table, plain values, a data frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import numpy as np

from ppl_vae import plots
from ppl_vae.diagnostics._gradient_statistics import Bias, Interval, Slope, fit_slope
from ppl_vae.display import Axes, Panel, Result, Row, fields_of
from ppl_vae.netcdf import Variable

Group = Literal["theta", "phi"]
Claim = Literal["unbiased", "biased by design", "follows another target"]
_SLOPE_NOTES = (
    "As K grows: IWAE's phi loses its signal as K^(-1/2), its theta gains as K^(1/2) (Rainforth et "
    "al., 2018);",
    "DReG's phi gains as K^(1/2) (Tucker et al., 2019). Intervals: 95%, all of them together.",
)
GROUPS: tuple[Group, Group] = ("theta", "phi")


@final
@dataclass(frozen=True)
class GroupGradient:
    """The gradient of one group of parameters, by one objective with K particles.

    The gradient is of the reported bound summed over the data, to be ascended, in nats per unit of
    each parameter.

    Attributes:
        objective: Its name without K.
        num_particles: Number of particles K, draws per datum.
        group: theta (the model's parameters) or phi (the guide's).
        replicates: Independent gradients that were taken.
        signal_to_noise: Median over coordinates of the absolute mean / standard deviation.
        variance: Mean over coordinates of the variance of one gradient.
        bias: Against the gradient of the expectation of the reported bound.
        claim: What the objective says of this gradient.
        biased: Whether the largest absolute z-score is beyond the limit of the whole bench.
        reference: What the bias was taken against.
        coordinates: Coordinates compared.
        live: Coordinates whose gradient is not 0 in every replicate, to rounding; the others have
            no signal-to-noise ratio.
        worst: Name of the coordinate of the largest absolute z-score.
        seconds: Of one step (loss and gradient), the median of several.
        decoder_evaluations: Per datum and step.
    """

    objective: str
    num_particles: int
    group: Group
    replicates: int
    signal_to_noise: Interval
    variance: Interval
    bias: Bias
    claim: Claim
    biased: bool
    reference: str
    coordinates: int
    live: int
    worst: str
    seconds: float
    decoder_evaluations: int

    @property
    def verdict(self) -> str:
        """Meaning of the bias, in words."""
        if self.claim == "unbiased":
            return "BIASED, against its claim" if self.biased else "no bias found"
        return self.claim + (", found" if self.biased else ", not seen here")


@final
@dataclass(frozen=True, repr=False)
class GradientBench(Result):
    """Gradients of several objectives on the same model, guide and data.

    Attributes:
        rows: One for each objective, K and group.
        slopes: ``(objective, group)`` to the slope of log SNR against log K, where several K were
            measured and their ratios stand out of the noise.
        expected_slopes: The same keys to the slope that theory gives as K grows, where it does.
        shared: Parameters in both groups: the gradient of such a one is the sum of both effects.
        parameters: Group to the names of its parameters.
        limit: The absolute z-score beyond which a bias counts as found, for all rows together.
        false_alarm: Probability of any false alarm in the table that the limit was made for.
        num_data: Data in the batch.
    """

    _group: ClassVar[str] = "gradients"

    rows: tuple[GroupGradient, ...]
    slopes: dict[tuple[str, Group], Slope]
    expected_slopes: dict[tuple[str, Group], float]
    parameters: dict[Group, tuple[str, ...]]
    shared: tuple[str, ...]
    limit: float
    false_alarm: float
    num_data: int

    def row(self, objective: str, num_particles: int, group: Group) -> GroupGradient:
        """The row of an objective, K and group.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if (row.objective, row.num_particles, row.group) == (objective, num_particles, group):
                return row
        raise KeyError(f"no row {objective} K = {num_particles} {group}.")

    def curve(self, objective: str, group: Group) -> dict[int, Interval]:
        """K to signal-to-noise ratio."""
        rows = (row for row in self.rows if (row.objective, row.group) == (objective, group))
        return {row.num_particles: row.signal_to_noise for row in rows}

    def slope_interval(
        self, objective: str, group: Group, confidence: float = 0.95
    ) -> tuple[float, float]:
        """The interval of one slope; those of all slopes hold together at the confidence."""
        # Bonferroni, so that all intervals hold at once.
        each = 1 - (1 - confidence) / len(self.slopes)
        return self.slopes[objective, group].interval(each)

    def agrees(self, objective: str, group: Group) -> bool | None:
        """Whether the slope of theory lies in the interval; None where there is no theory."""
        expected = self.expected_slopes.get((objective, group))
        if expected is None:
            return None
        low, high = self.slope_interval(objective, group)
        return low <= expected <= high

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names without K, in order."""
        return tuple(dict.fromkeys(row.objective for row in self.rows))

    def _values(self) -> dict[str, Any]:
        return {
            "unit": "nats per unit of the parameter, summed over the data",
            "num_data": self.num_data,
            "parameters": self.parameters,
            "shared": self.shared,
            "largest_innocent_z": self.limit,
            "false_alarm": self.false_alarm,
            "rows": [fields_of(row) | {"verdict": row.verdict} for row in self.rows],
            "slopes": [self._slope_values(*key) for key in self.slopes],
        }

    def _slope_values(self, objective: str, group: Group) -> dict[str, Any]:
        return {
            "objective": objective,
            "group": group,
            **fields_of(self.slopes[objective, group]),
            "interval": self.slope_interval(objective, group),
            "expected": self.expected_slopes.get((objective, group)),
        }

    def _rows(self) -> list[Row]:
        return [fields_of(row) | {"verdict": row.verdict} for row in self.rows]

    def _variables(self) -> tuple[dict[str, Variable], dict[str, Sequence[Any]]]:
        """The table, its rows named ``OBJECTIVE K GROUP``."""
        named = [f"{row.objective} {row.num_particles} {row.group}" for row in self.rows]
        frame = self.to_frame().drop(columns=["objective"])
        numbers = frame.select_dtypes(["number", "bool"])
        return {str(n): (["row"], numbers[n].to_numpy()) for n in numbers}, {"row": named}

    def _panels(self) -> list[Panel]:
        panels: dict[Group, str] = {"phi": "phi, of the guide", "theta": "theta, of the model"}
        return [
            (partial(self._draw, group=group, ylabel=f"signal-to-noise ratio of {name}"), 4.0)
            for group, name in panels.items()
        ]

    def _draw(self, ax: Axes, group: Group, ylabel: str) -> None:
        """Signal-to-noise ratio against K; behind it, grey, lines of the slopes 1/2 and -1/2.

        An arrow ends at the upper limit of a ratio that does not stand out of its replicates'
        noise.
        """
        curves = []
        for index, objective in enumerate(self.objectives):
            found, slope = self.curve(objective, group), self.slopes.get((objective, group))
            words = f"\n{slope.slope:+.2f} ± {slope.error:.2f}" if slope else ""
            values = [ratio.value for ratio in found.values()]
            # On the log axis an interval that reaches 0 becomes an arrow.
            low = [ratio.low if ratio.resolved else 0.0 for ratio in found.values()]
            high = [ratio.high for ratio in found.values()]
            style = plots.style_of(index)
            curves.append(plots.Curve(style, list(found), values, low, high, objective + words))
        plots.draw_against(ax, curves, "particles K", ylabel, log_y=True)
        _guide_lines(ax)
        plots.remark(ax, "median over coordinates, 95% intervals; arrows: upper limits")
        plots.legend(ax, "slope ± error" if self.slopes else None)

    def __str__(self) -> str:
        return "\n".join([*self._table(), "", *self._slope_lines(), *self._notes()])

    def _table(self) -> list[str]:
        width = max(9, *(len(row.objective) for row in self.rows))
        head = (
            f"{'objective':{width}} {'K':>5} {'group':5} {'SNR':>8} {'95% interval':>19} "
            f"{'variance':>9} {'bias, rms':>10} {'its error':>10} {'max |z|':>8} {'ms/step':>8} "
            f"{'decoder':>7}  verdict"
        )
        return [head, *(f"{row.objective:{width}} {_cells(row)}" for row in self.rows)]

    def _slope_lines(self) -> list[str]:
        if not self.slopes:
            return []
        width = max(len(objective) for objective, _ in self.slopes)
        head = (
            f"{'slope of log SNR against log K':{width + 6}} {'error':>7} {'interval':>16}   "
            f"{'theory':7}"
        )
        lines = [head]
        for (objective, group), slope in self.slopes.items():
            low, high = self.slope_interval(objective, group)
            particles = ",".join(map(str, slope.particles))
            lines.append(
                f"{objective:{width}} {group:5} {slope.slope:+11.3f} {slope.error:>7.3f} "
                f"[{low:+.3f}, {high:+.3f}]   {self._theory(objective, group)}  K = {particles}"
            )
        return [*lines, *self._without_slope(), *_SLOPE_NOTES, ""]

    def _without_slope(self) -> list[str]:
        """Curves over several K of which too little stands out of the noise for a slope."""
        curves = ((objective, group) for objective in self.objectives for group in GROUPS)
        return [
            f"{objective} {group}: no slope, too few ratios stand out of the noise; take more "
            "replicates."
            for objective, group in curves
            if (objective, group) not in self.slopes
            # With fewer than two K above 1 no slope is expected.
            and sum(K > 1 for K in self.curve(objective, group)) > 1
        ]

    def _theory(self, objective: str, group: Group) -> str:
        agrees = self.agrees(objective, group)
        if agrees is None:
            return f"{'none':22}"
        words = "inside" if agrees else "OUTSIDE"
        return f"{self.expected_slopes[objective, group]:+.1f}, {words:16}"

    def _notes(self) -> list[str]:
        counts = sorted({row.replicates for row in self.rows})
        coordinates = {row.group: row.coordinates for row in self.rows}
        listed = ", ".join(f"{count} of {group}" for group, count in coordinates.items())
        notes = [
            f"N = {self.num_data} data, {' or '.join(map(str, counts))} replicates, coordinates: "
            f"{listed}.",
            "SNR: median over coordinates of |mean| / standard deviation. Bias: against the "
            "gradient of the reported bound's expectation,",
            f"found if a |z| exceeds {self.limit:.2f} (any false alarm in the table: "
            f"{self.false_alarm:g}). Decoder: evaluations per datum and step.",
        ]
        if self.shared:
            notes.append(f"In both groups, with one gradient: {', '.join(self.shared)}.")
        return notes


def slopes_of(rows: tuple[GroupGradient, ...]) -> dict[tuple[str, Group], Slope]:
    """The slope of every objective and group that has one."""
    curves: dict[tuple[str, Group], dict[int, Interval]] = {}
    for row in rows:
        curve = curves.setdefault((row.objective, row.group), {})
        curve[row.num_particles] = row.signal_to_noise
    fitted = {key: fit_slope(curve) for key, curve in curves.items()}
    return {key: slope for key, slope in fitted.items() if slope is not None}


def _cells(row: GroupGradient) -> str:
    ratio, bias = row.signal_to_noise, row.bias
    interval = f"[{ratio.low:.3g}, {ratio.high:.3g}]" if math.isfinite(ratio.value) else "-"
    value = f"{ratio.value:.3g}" if math.isfinite(ratio.value) else "-"
    return (
        f"{row.num_particles:>5} {row.group:5} {value:>8} {interval:>19} "
        f"{row.variance.value:>9.3g} {bias.rms:>10.2g} {bias.rms_error:>10.2g} "
        f"{abs(bias.largest_z):>8.2f} {1e3 * row.seconds:>8.2f} {row.decoder_evaluations:>7}  "
        f"{row.verdict}"
    )


def _guide_lines(ax: Axes) -> None:
    """Grey lines of slope 1/2 and -1/2, a factor of 10 apart, behind the data."""
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    if not 0 < low < high < math.inf:
        # No ratio above 0 was found: there is no scale for lines.
        return
    K = np.array([left, right])
    span = (right / left) ** 0.5
    for start in 10.0 ** np.arange(np.floor(np.log10(low / span)), np.log10(high * span) + 1):
        for slope in (0.5, -0.5):
            ax.plot(K, start * (K / left) ** slope, color=plots.GRID, lw=0.8, zorder=0)
    # The lines must not stretch the axes that they were made for.
    ax.set(xlim=(left, right), ylim=(low, high))
