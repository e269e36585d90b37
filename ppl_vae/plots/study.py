"""What figures of a study draw, on axes they are given: numbers in nats per datum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.markers import CARETDOWN
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ppl_vae.plots.svg import INK, MUTED, PAPER, Style, draw_line

_LONGEST = 50
"""Characters that stand beside each other in a figure."""
_ROW = 0.46
"""Inches that a row with its label above takes."""
_STRETCH = 8.0
"""From this ratio of largest to smallest on, costs are on a log axis."""
_SI = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@final
@dataclass(frozen=True)
class Interval:
    """A row of a forest plot: an estimate, its interval, single values below it."""

    label: str
    mean: float
    low: float
    high: float
    style: Style | None = None
    points: tuple[float, ...] = ()


@final
@dataclass(frozen=True)
class Curve:
    """y against x with bars or a band from low to high."""

    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@final
@dataclass(frozen=True)
class Parts:
    """``ELBO = log-likelihood - sum of KL`` of an arm, and a remark."""

    label: str
    style: Style
    log_likelihood: float
    kl: Sequence[float]
    remark: str = ""


@final
@dataclass(frozen=True)
class Cost:
    """What an arm costs, and what it comes to, with its error."""

    style: Style
    cost: float
    value: float
    error: float


def rows_height(count: int) -> float:
    """Inches of a figure with so many rows, each with its label above."""
    return 0.65 + _ROW * max(count, 1)


def draw_forest(ax: Axes, rows: Sequence[Interval], xlabel: str, *, zero: bool = False) -> None:
    """Estimates with intervals, one below the other; a line at 0 where they are differences.

    An interval that holds 0 has an open marker.
    """
    if zero:
        ax.axvline(0, color=INK, lw=1)
    for height, row in enumerate(rows):
        color = row.style.color if row.style else INK
        marker = row.style.marker if row.style else "o"
        face = PAPER if zero and row.low <= 0 <= row.high else color
        ax.plot([row.low, row.high], [height, height], color=color, lw=2, solid_capstyle="butt")
        ax.plot(row.mean, height, marker, color=color, markerfacecolor=face, markersize=6.5)
        if len(row.points) > 1:
            ax.plot(row.points, [height + 0.2] * len(row.points), "|", color=color, markersize=6)
        _row_label(ax, height, row.label)
    _rows_axis(ax, len(rows), xlabel)


def draw_bands(ax: Axes, curves: Sequence[Curve], ylabel: str, cost: str = "") -> None:
    """A line and a band for each curve; the first fifth may leave the panel.

    Against the epoch, or against the cost that is named, on a log axis.
    """
    for curve in curves:
        ax.fill_between(curve.x, curve.low, curve.high, color=curve.style.color, alpha=0.2, lw=0)
        draw_line(ax, curve.x, curve.y, curve.style, marker=False)
        # Few markers are enough to tell arms apart without their colours.
        few = slice(len(curve.x) - 1, None, -max(1, len(curve.x) // 6))
        ax.plot(
            curve.x[few], curve.y[few], curve.style.marker, color=curve.style.color, markersize=4.5
        )
    later = [
        value
        for curve in curves
        for side in (curve.low, curve.high)
        for value in side[len(side) // 5 :]
        if math.isfinite(value)
    ]
    if later:
        margin = 0.05 * (max(later) - min(later)) or 0.5
        ax.set_ylim(min(later) - margin, max(later) + margin)
    ax.set(xlabel=cost or "epoch", ylabel=ylabel)
    if cost:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _si(value)))
        ax.xaxis.minorticks_off()
    else:
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def draw_against(
    ax: Axes, curves: Sequence[Curve], xlabel: str, ylabel: str, *, log_y: bool = False
) -> None:
    """A line with bars for each curve, against a number on a log axis.

    On a log axis for y, a bar that reaches 0 gives way to an arrow at its upper end.
    """
    for curve in curves:
        x, y, low, high = (np.array(v, dtype=float) for v in (curve.x, curve.y, curve.low,
                                                              curve.high))  # fmt: skip
        seen = (y > 0) & (low > 0) if log_y else np.isfinite(y)
        draw_line(ax, list(x), list(np.where(seen, y, np.nan)), curve.style)
        ax.vlines(x[seen], low[seen], high[seen], color=curve.style.color, lw=1.2)
        ax.plot(x[~seen], high[~seen], ls="none", marker=CARETDOWN, color=curve.style.color)
    ticks = sorted({value for curve in curves for value in curve.x})
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    if log_y:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.minorticks_off()
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.minorticks_off()


def draw_parts(ax: Axes, rows: Sequence[Parts]) -> None:
    """For each arm the log-likelihood from 0, below it the KL of each site from there to the ELBO.

    Full: log-likelihood. Pale: KL, one piece a site. The mark at the end is the ELBO.
    """
    ax.axvline(0, color=INK, lw=1)
    for height, row in enumerate(rows):
        color = row.style.color
        ax.barh(height, row.log_likelihood, 0.22, color=color, lw=0)
        left = row.log_likelihood
        for index, term in enumerate(row.kl):
            ax.barh(height + 0.22, -term, 0.22, left=left, color=color, lw=0,
                    alpha=(0.5, 0.25)[index % 2])  # fmt: skip
            left -= term
        ax.plot(left, height + 0.22, "|", color=INK, markersize=9, markeredgewidth=1.6)
        _row_label(ax, height, row.label, row.remark)
    _rows_axis(ax, len(rows), "nats per datum")


def draw_costs(ax: Axes, points: Sequence[Cost], front: Sequence[Cost], xlabel: str) -> None:
    """Mean log p(x) against cost, two standard errors each; the Pareto front is a line of steps."""
    for point in points:
        bar = [point.value - 2 * point.error, point.value + 2 * point.error]
        ax.plot([point.cost] * 2, bar, color=point.style.color, lw=1.2)
        ax.plot(point.cost, point.value, point.style.marker, color=point.style.color, markersize=6)
    ax.step(
        [point.cost for point in front], [point.value for point in front],
        where="post", color=MUTED, lw=1.2, ls=(0, (3, 2)), zorder=0,
    )  # fmt: skip
    for point in front:
        ax.plot(point.cost, point.value, "o", color=INK, markerfacecolor="none", markersize=12)
    costs = [point.cost for point in points if point.cost > 0]
    if costs and max(costs) > _STRETCH * min(costs):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ax.xaxis.minorticks_off()
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _si(value)))
    ax.margins(x=0.12, y=0.12)
    ax.set(xlabel=xlabel, ylabel="log p(x), nats per datum")


def draw_profiles(ax: Axes, rows: Sequence[Sequence[float]], color: str, xlabel: str) -> None:
    """Data that are no images: one line a row over the features."""
    for row in rows:
        ax.plot(range(len(row)), row, color=color, lw=0.9, alpha=0.6)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(xlabel=xlabel)


def shortened(label: str, longest: int = _LONGEST) -> str:
    """A long label without its middle."""
    if len(label) <= longest:
        return label
    half = (longest - 1) // 2
    return f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def _row_label(ax: Axes, height: float, label: str, remark: str = "") -> None:
    place = ax.get_yaxis_transform()
    room = _LONGEST - len(remark)
    ax.text(0, height - 0.13, shortened(label, room), transform=place, va="bottom", ha="left")
    if remark:
        ax.text(1, height - 0.13, remark, transform=place, va="bottom", ha="right", color=MUTED)


def _rows_axis(ax: Axes, count: int, xlabel: str) -> None:
    ax.set(ylim=(count - 0.4, -0.75), yticks=[], xlabel=xlabel)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5))


def _si(value: float) -> str:
    for size, letter in _SI:
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
