"""Figures from result objects, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from torch import Tensor

from ppl_vae.comparison.comparison import Comparison
from ppl_vae.comparison.crossed import CrossedMean
from ppl_vae.diagnostics import BoundCurve, Calibration, GradientBench, RateDistortion
from ppl_vae.diagnostics.gradient_bench import Group
from ppl_vae.evidence import Sandwich
from ppl_vae.evidence.result import TOLERATED_FRACTION
from ppl_vae.training import History

_WIDTH = 7.0
_NAMED_COLUMNS = 40


def _figure(height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def plot_comparison(comparison: Comparison, title: str) -> bytes:
    """Forest plots: log p(x) of each arm and its seeds; paired differences with intervals."""
    rows = max(len(comparison.arms), len(comparison.differences), 2)
    columns = 2 if comparison.differences else 1
    figure, axes = _figure(1.7 + 0.4 * rows, columns)
    arms = {arm: (mean, mean.interval()) for arm, mean in comparison.arms.items()}
    _forest(axes[0], arms, "log p(x), nats per datum", [f"C{index}" for index in range(len(arms))])
    if comparison.differences:
        pairs = {
            f"{a}\n- {b}": (mean, comparison.interval((a, b)))
            for (a, b), mean in comparison.differences.items()
        }
        _forest(axes[1], pairs, "paired difference, nats per datum", ["0.25"] * len(pairs))
        axes[1].axvline(0, color="0.6", linewidth=1, zorder=0)
    figure.suptitle(title, fontsize=11)
    percent = f"{100 * comparison.confidence:g}%"
    figure.supxlabel(
        f"bars: {percent} intervals over data and seeds; open circles: single seeds", fontsize=8
    )
    return _png(figure)


def _forest(
    ax: Axes,
    rows: Mapping[str, tuple[CrossedMean, tuple[float, float]]],
    label: str,
    colors: Sequence[str],
) -> None:
    for height, (mean, (low, high)) in enumerate(rows.values()):
        color = colors[height]
        ax.plot([low, high], [height, height], color=color, linewidth=2)
        ax.plot(mean.mean, height, "o", color=color, markersize=7)
        if len(mean.per_seed) > 1:
            ax.plot(mean.per_seed, [height + 0.22] * len(mean.per_seed), "o", color=color,
                    markerfacecolor="none", markersize=4)  # fmt: skip
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.spines[["top", "right"]].set_visible(False)


def plot_histories(histories: Mapping[str, Sequence[History]], title: str) -> bytes:
    """Learning curves of each arm: one line a seed, the training bound and the validation bound.

    Of a guide that is a point both are the joint log-density there, which is no bound.
    """
    figure, axes = _figure(3.4, 2)
    for index, (arm, runs) in enumerate(histories.items()):
        for seed, history in enumerate(runs):
            label = arm if seed == 0 else None
            epochs = [record.epoch for record in history.records]
            axes[0].plot(
                epochs, [r.bound for r in history.records], color=f"C{index}", label=label, lw=1
            )
            checked = [r for r in history.records if r.validation is not None]
            values = [r.validation or 0.0 for r in checked]
            axes[1].plot([r.epoch for r in checked], values, color=f"C{index}", label=label, lw=1)
    for ax, name in zip(
        axes, ("training: what each arm maximises", "validation: one bound for all"), strict=True
    ):
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("epoch")
        ax.spines[["top", "right"]].set_visible(False)
        _zoom_past_the_start(ax)
    axes[0].set_ylabel("nats per datum")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def _zoom_past_the_start(ax: Axes) -> None:
    """Leave out the first tenth of the epochs' values, which dwarf all that follows."""
    later = [
        value
        for line in ax.get_lines()
        for value in np.asarray(line.get_ydata(), dtype=float)[len(line.get_xdata()) // 10 :]  # type: ignore[arg-type]
    ]
    if later:
        margin = 0.05 * (max(later) - min(later)) or 1.0
        ax.set_ylim(min(later) - margin, max(later) + margin)


def plot_images(
    rows: Sequence[Float[Tensor, "columns features"]],
    image_shape: tuple[int, ...],
    title: str,
    row_names: Sequence[str] | None = None,
) -> bytes:
    """A grid of images, one given batch a row, values in [0, 1] from white to black."""
    columns = len(rows[0])
    figure = Figure(figsize=(_WIDTH, _WIDTH * len(rows) / columns + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, images in zip(grid, rows, strict=True):
        for ax, image in zip(axes, images, strict=True):
            pixels = image.reshape(image_shape).clamp(0, 1).numpy()
            if len(image_shape) == 3:
                ax.imshow(np.moveaxis(pixels, 0, -1), interpolation="nearest")
            else:
                ax.imshow(pixels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
    for axes, name in zip(grid, row_names or [], strict=False):
        axes[0].set_ylabel(name, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def plot_profiles(
    groups: Mapping[str, Float[Tensor, "rows features"]],
    title: str,
    names: Sequence[str] | None = None,
) -> bytes:
    """Data that are no images: one line a row over the features, one panel a group."""
    figure, axes = _figure(3.4, len(groups))
    for index, (ax, (name, rows)) in enumerate(zip(axes, groups.items(), strict=True)):
        ax.plot(rows.T.numpy(), color=f"C{index}", lw=0.8, alpha=0.5)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("feature" if names is None else "column")
        if names is not None and len(names) <= _NAMED_COLUMNS:
            ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    values = torch.cat([rows.flatten() for rows in groups.values()])
    values = values[values.isfinite()]
    low, high = float(values.min()), float(values.max())
    for ax in axes:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def plot_signal_to_noise(bench: GradientBench, title: str) -> bytes:
    """Signal-to-noise ratio of phi and theta against K on log axes, with 95% intervals.

    Grey lines have the slopes 1/2 and -1/2. An arrow ends at the upper limit of a ratio that does
    not stand out of the noise of its replicates.
    """
    figure, axes = _figure(4.2, 2)
    panels: dict[Group, str] = {"phi": "phi, of the guide", "theta": "theta, of the model"}
    for ax, (group, name) in zip(axes, panels.items(), strict=True):
        for index, objective in enumerate(bench.objectives):
            _signal_curve(ax, bench, objective, group, index)
        ax.set(xscale="log", yscale="log", title=name)
        ax.title.set_fontsize(10)
        particles = sorted({row.num_particles for row in bench.rows})
        ax.set_xticks(particles, [str(K) for K in particles])
        ax.minorticks_off()
        ax.set_xlabel("particles K")
        ax.spines[["top", "right"]].set_visible(False)
        _guide_lines(ax)
        ax.legend(frameon=False, fontsize=7.5, title="slope ± standard error", title_fontsize=7.5)
    axes[0].set_ylabel("signal-to-noise ratio of the gradient")
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "median over coordinates, bars: 95% bootstrap intervals; arrows: upper limits; grey: "
        "slopes 1/2 and -1/2",
        fontsize=8,
    )
    return _png(figure)


def _signal_curve(ax: Axes, bench: GradientBench, objective: str, group: Group, index: int) -> None:
    curve = bench.curve(objective, group)
    color = f"C{index}"
    # Side by side, where several objectives have the same ratio.
    shift = 1.05 ** (index - (len(bench.objectives) - 1) / 2)
    seen = {K: ratio for K, ratio in curve.items() if ratio.resolved}
    slope = bench.slopes.get((objective, group))
    label = objective if slope is None else f"{objective}  {slope.slope:+.3f} ± {slope.error:.3f}"
    bars = [
        [ratio.value - ratio.low for ratio in seen.values()],
        [ratio.high - ratio.value for ratio in seen.values()],
    ]
    ax.errorbar([K * shift for K in seen], [ratio.value for ratio in seen.values()],
                np.clip(bars, 0, None), color=color, marker="o", markersize=4, lw=1.2,
                elinewidth=1, capsize=2, label=label)  # fmt: skip
    limits = {K: r.high for K, r in curve.items() if not r.resolved and r.high > 0}
    ax.plot([K * shift for K in limits], list(limits.values()), color=color, ls="none",
            marker=CARETDOWN, markersize=6)  # fmt: skip


def _guide_lines(ax: Axes) -> None:
    """Grey lines of slope 1/2 and -1/2, a factor of 10 apart, behind the data."""
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    K = np.array([left, right])
    span = (right / left) ** 0.5
    for start in 10.0 ** np.arange(np.floor(np.log10(low / span)), np.log10(high * span) + 1):
        for slope in (0.5, -0.5):
            ax.plot(K, start * (K / left) ** slope, color="0.9", lw=0.8, zorder=0)
    ax.set(xlim=(left, right), ylim=(low, high))


def plot_calibration(calibration: Calibration, title: str) -> bytes:
    """Rank ECDF minus that of uniform ranks, one line a dimension; grey: where calibrated ones lie.

    Dimensions that are not calibrated are named, with what is wrong.
    """
    figure, (ax,) = _figure(3.6)
    L = calibration.num_draws
    ranks = (np.arange(L + 1) + 1) / (L + 1)
    band = calibration.ecdf_band
    ax.fill_between([0, 1], -band, band, color="0.9", lw=0)
    wrong = calibration.findings
    for index, name in enumerate(calibration.names):
        found = name in wrong
        label = f"{name}: {', '.join(wrong[name])}" if found else None
        color = f"C{list(wrong).index(name)}" if found else "0.5"
        difference = calibration.ecdf_difference[:, index].numpy()
        ax.plot(np.r_[0, ranks], np.r_[0, difference], color=color, lw=1.2, label=label)
    ax.set(xlim=(0, 1), xlabel="rank of z* among the draws, as a fraction")
    ax.set_ylabel("ECDF - uniform")
    ax.spines[["top", "right"]].set_visible(False)
    if wrong:
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        f"grey: all lines of a calibrated guide, with probability {1 - calibration.false_alarm:g}\n"
        "rising at both ends: too narrow; falling: too wide; to one side: shifted",
        fontsize=8,
    )
    return _png(figure)


def plot_bound_curve(curve: BoundCurve, title: str) -> bytes:
    """E[L_K] against K with two Monte Carlo standard errors, and the extrapolated limit."""
    figure, (ax,) = _figure(3.4)
    counts = list(curve.bounds)
    values = [curve.bounds[K].value for K in counts]
    errors = [2 * curve.bounds[K].monte_carlo_error for K in counts]
    limit = curve.extrapolation.limit
    low, high = limit.value - 2 * limit.monte_carlo_error, limit.value + 2 * limit.monte_carlo_error
    ax.axhspan(low, high, color="0.88", lw=0)
    ax.axhline(limit.value, color="0.5", lw=1, label="limit by the fit in 1/K")
    ax.errorbar(counts, values, yerr=errors, fmt="o-", ms=4, lw=1, label="bound on K particles")
    ax.set(xscale="log", xlabel="K, particles", ylabel="nats per datum")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def plot_rate_distortion(curve: RateDistortion, title: str) -> bytes:
    """Rate against distortion with two Monte Carlo standard errors, and the guide's own point.

    Open circles have too few effective chains for many data. The dashed line touches the curve at
    beta = 1: there R + D = -log p(x), and the guide stands above it by the inference gap.
    """
    figure, (ax,) = _figure(4.2)
    points = curve.points
    D, R = ([getattr(p, name).value for p in points] for name in ("distortion", "rate"))
    errors = [
        [2 * getattr(p, name).monte_carlo_error for p in points] for name in ("distortion", "rate")
    ]
    ax.errorbar(D, R, xerr=errors[0], yerr=errors[1], fmt="-", color="C0", lw=1.2, elinewidth=1,
                label="curve, by annealing")  # fmt: skip
    for point, d, r in zip(points, D, R, strict=True):
        color = "white" if point.poor > TOLERATED_FRACTION else "C0"
        ax.plot(d, r, "o", ms=4.5, color="C0", markerfacecolor=color)
        ax.annotate(f"{point.beta:g}", (d, r), (5, 4), textcoords="offset points", fontsize=7.5)
    if curve.guide_distortion is not None and curve.guide_rate is not None:
        ax.plot(curve.guide_distortion.value, curve.guide_rate.value, "D", ms=6, color="C1",
                label="the guide")  # fmt: skip
    limits = ax.get_xlim(), ax.get_ylim()
    for point in points:
        if point.beta == 1:
            ax.axline((point.distortion.value, point.rate.value), slope=-1, color="0.6", ls="--",
                      lw=1, zorder=0, label="R + D = -log p(x)")  # fmt: skip
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.set(xlabel="distortion, E[-log p(x|z)] in nats", ylabel="rate, nats above the prior")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "numbers: beta; bars: two standard errors; open: too few effective chains", fontsize=8
    )
    return _png(figure)


def plot_sandwich(sandwiches: Mapping[int, Sandwich], title: str) -> bytes:
    """Lower and upper bound of log p(x) on simulated data against the number of temperatures."""
    figure, (ax,) = _figure(3.4)
    lengths = sorted(sandwiches)
    sides = {
        "upper bound, backwards": [sandwiches[T].upper for T in lengths],
        "lower bound, forwards": [sandwiches[T].lower for T in lengths],
    }
    for name, found in sides.items():
        errors = [2 * evidence.monte_carlo_error for evidence in found]
        means = [evidence.mean for evidence in found]
        ax.errorbar(lengths, means, yerr=errors, fmt="o-", ms=4, lw=1, capsize=2, label=name)
    ax.set(xscale="log", xlabel="temperatures", ylabel="log p(x), nats per datum")
    ax.set_xticks(lengths, [str(T) for T in lengths])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return _png(figure)
