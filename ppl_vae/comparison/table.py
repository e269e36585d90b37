"""A comparison as text."""

import math
from collections.abc import Sequence

from ppl_vae.comparison.comparison import Comparison
from ppl_vae.comparison.crossed import CrossedMean

_COLUMNS = f"{'log p(x)':>10} {'error':>8}   {'data':>7} {'seeds':>7} {'MC':>7}   {'seed sd':>7}"

_FEW = 3
"""Differences whose values of each seed fit on a line; more are in the JSON and the figure."""


def format_comparison(comparison: Comparison, title: str, notes: Sequence[str] = ()) -> str:
    """The table that ``ppl-vae compare`` prints: arms, then paired differences with a verdict."""
    width = max(
        [len(arm) for arm in comparison.arms] + [len(_pair(p)) for p in comparison.differences]
    )
    lines = [
        title,
        f"N = {comparison.num_data} data, {comparison.num_seeds} seed(s), importance sampling with "
        f"K = {comparison.num_particles}; nats per datum, higher is better",
        "",
        f"{'':{width}} {_COLUMNS}",
    ]
    lines += [f"{arm:{width}} {_numbers(mean)}" for arm, mean in comparison.arms.items()]
    if comparison.differences:
        lines += [
            "",
            "Differences, paired by datum and seed:",
            f"{'':{width}} {_differences_head()}",
        ]
        lines += [
            f"{_pair(pair):{width}} {mean.mean:>+10.3f} {mean.error:>8.3f}   "
            f"{_interval(comparison.interval(pair)):>22}   {comparison.verdict(pair)}"
            for pair, mean in comparison.differences.items()
        ]
        if comparison.num_seeds > 1 and len(comparison.differences) <= _FEW:
            lines += [
                "",
                "Per seed: "
                + "; ".join(_per_seed(p, m) for p, m in comparison.differences.items()),
            ]
    lines += ["", *_footnotes(comparison), *notes]
    return "\n".join(lines)


def _numbers(mean: CrossedMean) -> str:
    return (
        f"{mean.mean:>10.3f} {mean.error:>8.3f}   {mean.data_error:>7.3f} "
        f"{_or_dash(mean.seed_error)} {mean.monte_carlo_error:>7.3f}   {_or_dash(mean.seed_spread)}"
    )


def _differences_head() -> str:
    return f"{'mean':>10} {'error':>8}   {'interval':>22}   verdict"


def _interval(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _pair(pair: tuple[str, str]) -> str:
    return f"{pair[0]} - {pair[1]}"


def _per_seed(pair: tuple[str, str], mean: CrossedMean) -> str:
    return f"{_pair(pair)} " + ", ".join(f"{value:+.3f}" for value in mean.per_seed)


def _or_dash(value: float) -> str:
    return f"{'-':>7}" if math.isnan(value) else f"{value:>7.3f}"


def _footnotes(comparison: Comparison) -> list[str]:
    percent = f"{100 * comparison.confidence:g}%"
    together = " (all of them together)" if len(comparison.differences) > 1 else ""
    notes = [
        "error: standard error of the mean for new data and new seeds; "
        "data, seeds, MC (Monte Carlo): its parts.",
        f"interval: {percent}{together}; a difference is called real only if it excludes 0.",
    ]
    if comparison.num_seeds == 1:
        notes.append(
            "One seed: these numbers say nothing of how another training run would turn out."
        )
    return notes
