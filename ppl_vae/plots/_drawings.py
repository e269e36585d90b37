"""Drawings on axes: intervals, curves and bars, their labels and legends."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.markers import CARETDOWN
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ppl_vae.plots._style import (
    INK,
    MUTED,
    PAPER,
    Drawing,
    Style,
    draw_line,
    new_figure,
)

_LONGEST = 50
"""Longest label of a figure, in characters."""
_ROW = 0.46
"""Height of a row with its label above, in inches."""
_STRETCH = 8.0
"""Least ratio of largest to smallest at which costs are on a log axis."""
_APART = 0.035
"""Share of a panel's width and height that labels of points keep from each other."""
_REACH = 3
"""Widths of the usual interval, or of all means, beyond which an interval is cut off."""
_SI = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@final
@dataclass(frozen=True)
class ForestRow:
    """Row of a forest plot: an estimate, its interval, single values below it."""

    label: str
    mean: float
    low: float
    high: float
    style: Style | None = None
    points: tuple[float, ...] = ()


@final
@dataclass(frozen=True)
class Curve:
    """Curve of y against x with bars or a band; labelled where the panel has a legend."""

    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str = ""


@final
@dataclass(frozen=True)
class ElboTerms:
    """Terms of an arm's ``ELBO = log-likelihood - sum of KL``, and a remark."""

    label: str
    style: Style
    log_likelihood: float
    kl: Sequence[float]
    remark: str = ""


@final
@dataclass(frozen=True)
class DoubtRow:
    """Row of an arm with how low its log p(x) is, and may be; infinite where nothing bounds it."""

    label: str
    style: Style
    bias: float
    doubt: float


@final
@dataclass(frozen=True)
class Cost:
    """Cost of an arm, and its mean log p(x) with its error."""

    style: Style
    cost: float
    value: float
    error: float


def rows_height(count: int) -> float:
    """Compute the inches of a figure with so many rows, each with its label above."""
    return 0.65 + _ROW * max(count, 1)


def draw_forest(ax: Axes, rows: Sequence[ForestRow], xlabel: str, *, zero: bool = False) -> None:
    """Draw estimates with intervals as rows, with a line at 0 where they are differences.

    An interval that holds 0 has an open marker. One that reaches far beyond all others ends in an
    arrow, or none of the others would be seen.
    """
    if zero:
        ax.axvline(0, color=INK, lw=1)
    first, last = _view(rows)
    for height, row in enumerate(rows):
        color = row.style.color if row.style else INK
        marker = row.style.marker if row.style else "o"
        face = PAPER if zero and row.low <= 0 <= row.high else color
        ends = [max(row.low, first), min(row.high, last)]
        ax.plot(ends, [height, height], color=color, lw=2, solid_capstyle="butt")
        for end, of, arrow in zip(ends, (row.low, row.high), "<>", strict=True):
            if end != of:
                ax.plot(end, height, arrow, color=color, markersize=6.5)
        ax.plot(row.mean, height, marker, color=color, markerfacecolor=face, markersize=6.5)
        # A single seed is the mean itself.
        if len(row.points) > 1:
            ax.plot(row.points, [height + 0.2] * len(row.points), "|", color=color, markersize=6)
        _row_label(ax, height, row.label)
    _rows_axis(ax, len(rows), xlabel)


def _view(rows: Sequence[ForestRow]) -> tuple[float, float]:
    """Ends of what is shown: some widths of the usual interval, or of all means, beyond these."""
    # Of an interval that is open at one end, the other side tells the width.
    both = [(row.mean - row.low, row.high - row.mean) for row in rows]
    finite = [[side for side in sides if math.isfinite(side)] for sides in both]
    widths = [2 * statistics.mean(sides) for sides in finite if sides]
    means = [row.mean for row in rows if math.isfinite(row.mean)]
    is_open = any(math.isinf(side) for sides in both for side in sides)
    if not means or not (widths or is_open):
        return -math.inf, math.inf
    width = max(statistics.median(widths) if widths else 0.0, max(means) - min(means))
    reach = _REACH * (width or 1.0)
    return min(means) - reach, max(means) + reach


def draw_bands(ax: Axes, curves: Sequence[Curve], ylabel: str, cost: str = "") -> None:
    """Draw a line and a band for each curve; the first fifth may leave the panel.

    The axis is the epoch, or the cost that is named, on a log axis.
    """
    for curve in curves:
        ax.fill_between(curve.x, curve.low, curve.high, color=curve.style.color, alpha=0.2, lw=0)
        draw_line(ax, curve.x, curve.y, curve.style, marker=False, label=curve.label)
        # Few markers are enough to tell arms apart without their colours.
        few = slice(len(curve.x) - 1, None, -max(1, len(curve.x) // 6))
        ax.plot(
            curve.x[few], curve.y[few], curve.style.marker, color=curve.style.color, markersize=4.5
        )
    # The lowest values come first, and would press all later differences together.
    later = [
        value
        for curve in curves
        for side in (curve.low, curve.high)
        for value in side[len(side) // 5 :]
        if math.isfinite(value)
    ]
    if later:
        # Constant curves have a range of 0, which no axis can have.
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
    """Draw a line with bars for each curve, against a number on a log axis.

    On a log axis for y, a bar that reaches 0 gives way to an arrow at its upper end.
    """
    for curve in curves:
        x, y, low, high = (np.array(v, dtype=float) for v in (curve.x, curve.y, curve.low,
                                                              curve.high))  # fmt: skip
        seen = (y > 0) & (low > 0) if log_y else np.isfinite(y)
        shown = list(np.where(seen, y, np.nan))
        draw_line(ax, list(x), shown, curve.style, label=curve.label)
        ax.vlines(x[seen], low[seen], high[seen], color=curve.style.color, lw=1.2)
        # An upper limit is all that a log axis can show of such an interval.
        ax.plot(x[~seen], high[~seen], ls="none", marker=CARETDOWN, color=curve.style.color)
    ticks = sorted({value for curve in curves for value in curve.x})
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    if log_y:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.minorticks_off()
    # Ticks at the values there are: a few K or temperatures, and no powers of ten between.
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.minorticks_off()


def draw_parts(ax: Axes, rows: Sequence[ElboTerms]) -> None:
    """Draw each arm's log-likelihood from 0, below it the KL of each site from there to the ELBO.

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


def draw_doubts(ax: Axes, rows: Sequence[DoubtRow], tolerated: float) -> None:
    """Draw from 0 how low each arm is estimated to be, full, and how low it may be, pale.

    A dashed line stands at what is tolerated. Where nothing bounds it, the bar ends in an arrow.
    """
    ends = [row.doubt for row in rows if math.isfinite(row.doubt)]
    most = 1.15 * max([*ends, 1.2 * tolerated])
    ax.axvline(0, color=INK, lw=1)
    ax.axvline(tolerated, color=MUTED, lw=1.2, ls=(0, (3, 2)))
    for height, row in enumerate(rows):
        color, bounded = row.style.color, math.isfinite(row.doubt)
        end = row.doubt if bounded else 0.96 * most
        bias = row.bias if math.isfinite(row.bias) else 0.0
        ax.barh(height + 0.1, bias, 0.3, color=color, lw=0)
        ax.barh(height + 0.1, max(end - bias, 0.0), 0.3, left=bias, color=color, lw=0, alpha=0.4)
        if not bounded:
            ax.plot(0.97 * most, height + 0.1, ">", color=color, markersize=8)
        _row_label(ax, height, row.label, f"{row.doubt:.3f}" if bounded else "no bound")
    _rows_axis(ax, len(rows), "log p(x) may be low by, nats per datum")
    ax.set_xlim(0, most)


def draw_shares(ax: Axes, rows: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """Draw shares that add up to 1 side by side, a row for each label, fuller from name to name."""
    shades = [(index + 1) / len(names) for index in range(len(names))]
    for height, (label, shares) in enumerate(rows.items()):
        left = 0.0
        for share, shade in zip(shares, shades, strict=True):
            ax.barh(height + 0.1, share, 0.3, left=left, color=INK, alpha=shade, lw=0)
            left += share
        _row_label(ax, height, label)
    _rows_axis(ax, len(rows), "share of the data")
    ax.set_xlim(0, 1)
    # Below the panel: names are long, and a phone is narrow.
    patches = [Patch(color=INK, alpha=shade, lw=0, label=name)
               for name, shade in zip(names, shades, strict=True)]  # fmt: skip
    # Of the figure, whose layout makes room for it.
    ax.figure.legend(handles=patches, loc="outside lower left", frameon=False, fontsize=10)


def draw_costs(ax: Axes, points: Sequence[Cost], front: Sequence[Cost], xlabel: str) -> None:
    """Draw mean log p(x) against cost, two standard errors each, with the Pareto front as steps."""
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


def draw_on(panels: Sequence[tuple[Drawing, float]], ax: Axes | Sequence[Axes] | None) -> Any:
    """Draw panels on axes, one each, which are returned; on a new figure if there are none.

    Raises:
        TypeError: If what is given is no axes.
        ValueError: If there are not as many axes as panels.
    """
    if ax is None:
        return new_figure(panels)
    axes = list(ax) if isinstance(ax, Iterable) else [ax]
    if not all(isinstance(each, Axes) for each in axes):
        raise TypeError(f"ax must be axes of matplotlib, or a list of them, got {ax!r}.")
    if len(axes) != len(panels):
        raise ValueError(f"expected {len(panels)} axes, one for each panel, got {len(axes)}.")
    for each, (drawing, _) in zip(axes, panels, strict=True):
        drawing(each)
    return ax


def legend(ax: Axes, title: str | None = None) -> None:
    """Add a legend at the right of the panel, where nothing is drawn."""
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5, title=title,
              title_fontsize=8.5)  # fmt: skip


def label_points(ax: Axes, labels: Sequence[str], x: Sequence[float], y: Sequence[float]) -> None:
    """Label points of a curve, except where a label would overlap one already there.

    The ends come first, then those between, from the middle of the widest space without one.
    """
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    placed: list[tuple[float, float]] = []
    for index in _ends_first(len(labels)):
        place = (x[index] - left) / (right - left), (y[index] - low) / (high - low)
        # A label is wider than high.
        if all(abs(place[0] - a) > 2 * _APART or abs(place[1] - b) > _APART for a, b in placed):
            placed.append(place)
            ax.annotate(labels[index], (x[index], y[index]), (6, 3), textcoords="offset points",
                        fontsize=8)  # fmt: skip


def _ends_first(count: int) -> list[int]:
    """Order indices: the first, the last, and then always the one farthest from all before."""
    order = [0, count - 1][:count]
    while len(order) < count:
        rest = [index for index in range(count) if index not in order]
        order.append(max(rest, key=lambda index: min(abs(index - other) for other in order)))
    return order


def shortened(label: str, longest: int = _LONGEST) -> str:
    """Shorten a long label by its middle."""
    if len(label) <= longest:
        return label
    half = (longest - 1) // 2
    return f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def _row_label(ax: Axes, height: float, label: str, remark: str = "") -> None:
    # Lines of the panel end at a label: no text is crossed.
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
    place, room = ax.get_yaxis_transform(), _LONGEST - len(remark)
    for x, text, align, color in (
        (0, shortened(label, room), "left", INK), (1, remark, "right", MUTED)
    ):  # fmt: skip
        if text:
            ax.text(x, height - 0.16, text, transform=place, va="bottom", ha=align, color=color,
                    bbox=box)  # fmt: skip


def _rows_axis(ax: Axes, count: int, xlabel: str) -> None:
    # Upside down: the first row stands at the top, with room for its label above.
    ax.set(ylim=(count - 0.4, -0.75), yticks=[], xlabel=xlabel)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5))


def _si(value: float) -> str:
    for size, letter in _SI:
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
