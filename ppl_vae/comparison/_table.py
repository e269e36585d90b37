"""Text of a comparison."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ppl_vae.comparison._cells import FactorTable, Pair
from ppl_vae.comparison._comparison import Comparison
from ppl_vae.comparison._crossed import CrossedMean, PairedTest
from ppl_vae.comparison._trust import Lowness

_COLUMNS = f"{'log p(x)':>10} {'error':>8}   {'data':>7} {'seeds':>7} {'MC':>7}   {'seed sd':>7}"

_FEW = 3
"""Number of differences whose values of each seed fit on a line; the JSON has all."""


def format_comparison(
    comparison: Comparison,
    title: str,
    notes: Sequence[str] = (),
    beside: Mapping[str, Mapping[str, Lowness]] = MappingProxyType({}),
) -> str:
    """Format the table of ``ppl-vae compare``: arms, then paired differences with a verdict.

    Args:
        comparison: The comparison.
        title: First line.
        notes: Last lines, after what speaks against an arm's estimates.
        beside: Label of another method to arm to its estimate, as columns beside the arm's.
    """
    arms, differences = comparison.arms, comparison.differences
    width = max(len(name) for name in [*arms, *(_pair(pair) for pair in differences)])
    first, *others = comparison.methods
    method = f"{first} (other results by other settings)" if others else first
    # With two arms, the one difference says which is the better one.
    many = len(arms) > 2
    lines = [
        title,
        f"N = {comparison.num_data} data, {comparison.num_seeds} seed(s), {method}; "
        "nats per datum, higher is better",
        comparison.trust,
        "",
        f"{'':{width}} {_COLUMNS}"
        + (f"   {'P(best)':>7}" if many else "")
        + "".join(f"   {label:>10} {'low by':>7}" for label in beside),
    ]
    for arm, mean in arms.items():
        best = f"   {comparison.ranking[arm].best:>7.3f}" if many else ""
        stand_beside = "".join(_beside(label, by_arm.get(arm)) for label, by_arm in beside.items())
        lines.append(f"{arm:{width}} {_numbers(mean)}{best}{stand_beside}")
    if differences:
        against = "" if comparison.reference is None else f" from {comparison.reference}"
        lines += ["", f"Differences{against}, paired by datum and seed:"]
        lines += _differences(differences, comparison.tests, width)
        if comparison.num_seeds > 1 and len(differences) <= _FEW:
            shown = (
                f"{_pair(pair)} " + ", ".join(f"{value:+.3f}" for value in mean.per_seed)
                for pair, mean in differences.items()
            )
            lines += ["", f"Per seed: {'; '.join(shown)}"]
    # Pairs that need the same share a line: a dozen would say the same sentence.
    needed: dict[str, list[str]] = {}
    for pair, power in comparison.power.items():
        if power.text:
            needed.setdefault(power.text, []).append(_pair(pair))
    if needed:
        lines += ["", "To show a difference as large as the estimate (power 80%):"]
        lines += [f"{', '.join(pairs)}: {text}." for text, pairs in needed.items()]
    for table in comparison.factors.values():
        lines += ["", *_factor(table)]
    several = len(differences) > 1
    together = ", all of them together (Bonferroni, as p)" if several else ""
    return "\n".join(
        [
            *lines,
            "",
            "error: standard error of the mean for new data and new seeds; data, seeds, MC (Monte "
            "Carlo): its parts, beside what single runs make of single data.",
            f"interval: {100 * comparison.confidence:g}%{together}; a difference is called real "
            "only if it excludes 0."
            + (f" {_held(many=many, several=several)}" if comparison.doubts else ""),
            *(["low by: log p(x) minus the estimate beside it, by datum."] if beside else []),
            *comparison.notes,
            # What the line on trust refers to.
            *(f"{arm}: {reason}." for arm, reason in comparison.warnings.items()),
            *notes,
        ]
    )


def _held(*, many: bool, several: bool) -> str:
    """Say which numbers hold what log p(x) may be low by, and which do not."""
    *most, last = ["errors", *(["P(best)"] if many else []), *(["p"] if several else [])]
    others = f"{', '.join(most)} and {last}" if most else last
    return f"It holds what log p(x) of either side may be low by; {others} do not."


def _beside(label: str, other: Lowness | None) -> str:
    width = max(10, len(label))
    if other is None:
        return f"   {'-':>{width}} {'-':>7}"
    return f"   {other.log_prob:>{width}.3f} {other.low_by:>7.3f}"


def _numbers(mean: CrossedMean) -> str:
    return (
        f"{mean.mean:>10.3f} {mean.error:>8.3f}   {mean.data_error:>7.3f} "
        f"{_or_dash(mean.seed_error)} {mean.monte_carlo_error:>7.3f}   {_or_dash(mean.seed_spread)}"
    )


def _differences(
    differences: Mapping[Pair, CrossedMean],
    tests: Mapping[Pair, PairedTest],
    width: int,
) -> list[str]:
    """Format a line for each difference; with several, adjusted p-values."""
    several = len(differences) > 1
    p = f"{'p':>7}   " if several else ""
    lines = [f"{'':{width}} {'mean':>10} {'error':>8}   {'interval':>22}   {p}verdict"]
    for pair, mean in differences.items():
        test = tests[pair]
        p = f"{test.adjusted_p:>7.2g}   " if several else ""
        interval = f"[{_end(test.simultaneous[0])}, {_end(test.simultaneous[1])}]"
        lines.append(
            f"{_pair(pair):{width}} {mean.mean:>+10.3f} {mean.error:>8.3f}   "
            f"{interval:>22}   {p}{test.verdict(pair)}"
        )
    return lines


def _factor(table: FactorTable) -> list[str]:
    pairs = [_pair(pair) for pair in table.differences]
    width = max(len(name) for name in [*table.levels, *pairs])
    lines = [
        f"{table.factor}, mean over {table.cells} combination(s) of the other factors:",
        f"{'':{width}} {_COLUMNS}",
        *(f"{level:{width}} {_numbers(mean)}" for level, mean in table.levels.items()),
        *_differences(table.differences, table.tests, width),
    ]
    if table.left_out:
        lines.append(f"left out, not there for every level: {', '.join(table.left_out)}.")
    return lines


def _end(value: float) -> str:
    """Write three decimals, or as many as tell an end from 0, whose sign is the verdict."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:+.0e}"


def _pair(pair: Pair) -> str:
    return f"{pair[0]} - {pair[1]}"


def _or_dash(value: float) -> str:
    return f"{'-':>7}" if math.isnan(value) else f"{value:>7.3f}"
