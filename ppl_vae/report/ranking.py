"""Who is best and by how much: ranked table, differences, factors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ppl_vae.comparison import Comparison, CrossedMean, PairedTest
from ppl_vae.plots import Interval, Style, draw_forest, rows_height, svg_panel
from ppl_vae.report import numbers
from ppl_vae.report.answer import oriented, percent_of
from ppl_vae.report.blocks import Block, Column, Figure, Section, Table, Value, csv_uri

Pair = tuple[str, str]

_MOST_PAIRS = 15
"""Differences that one figure shows."""
_DIFFERENCE = [
    Column("a", "arm", heading="arm"),
    Column("b", "arm", heading="minus"),
    Column("difference", "number", numbers.signed),
    Column("error", "error", numbers.error, heading="± total error"),
    Column("low", "number", numbers.signed),
    Column("high", "number", numbers.signed),
    Column("p", "number", numbers.probability),
    Column("adjusted_p", "number", numbers.probability, heading="adjusted p"),
]
_MEAN = [
    Column("log_prob", "number", heading="log p(x)"),
    Column("error", "error", numbers.error, heading="± total error"),
    Column("low", "number"),
    Column("high", "number"),
    Column("monte_carlo_error", "number", heading="Monte Carlo error"),
    Column("seed_error", "number", heading="seed error"),
    Column("data_error", "number", heading="data error"),
]


def ranked(comparison: Comparison, styles: Mapping[str, Style]) -> Section:
    """The table of arms, best first; their intervals and those of their differences drawn."""
    percent = percent_of(comparison)
    table = Table(
        name="ranking",
        caption=(
            f"Arms, best first; nats per datum. Low and high: {percent} interval of the mean. "
            "Monte Carlo, seed and data error: the parts of the total error."
        ),
        columns=[
            Column("rank", "number", numbers.count),
            Column("arm", "arm"),
            *_MEAN,
            Column("best", "number", numbers.chance, heading="P(best)"),
            Column("seeds", "number", numbers.count),
        ],
        rows=[
            [rank.rank, arm, *_mean(comparison.arms[arm], comparison.confidence), rank.best,
             len(comparison.seeds[arm])]
            for arm, rank in comparison.ranking.items()
        ],
    )  # fmt: skip
    rows = [
        Interval(arm, mean.mean, *mean.interval(comparison.confidence), styles[arm], mean.per_seed)
        for arm, mean in ((arm, comparison.arms[arm]) for arm in comparison.ranking)
        if arm in styles
    ]
    figure = _forest(
        "forest-means",
        rows,
        "log p(x), nats per datum",
        f"Mean log p(x) of each arm in nats per datum, with its {percent} interval for new data "
        "and new seeds. Ticks: single seeds.",
    )
    drawn = [figure, *_difference_figure(comparison, styles)]
    return Section("ranking", "Ranking", [table, *drawn, *_random_effects(comparison)])


def _mean(mean: CrossedMean, confidence: float) -> list[Value]:
    return [mean.mean, mean.error, *mean.interval(confidence), mean.monte_carlo_error,
            mean.seed_error, mean.data_error]  # fmt: skip


def _random_effects(comparison: Comparison) -> list[Block]:
    found = comparison.random_effects
    if not found:
        return []
    table = Table(
        name="random-effects",
        caption=(
            "Random effects of the seed: tau is the standard deviation of training runs in nats "
            "per datum, I² its share of the variance of a seed's mean, the prediction interval "
            f"({percent_of(comparison)}) that of one new training run on these data"
        ),
        columns=[
            Column("arm", "arm"),
            Column("log_prob", "number", heading="log p(x)"),
            Column("low", "number"),
            Column("high", "number"),
            Column("tau", "number"),
            Column("i_squared", "number", heading="I²"),
            Column("predicted_low", "number", heading="predicted low"),
            Column("predicted_high", "number", heading="predicted high"),
            Column("seeds", "number", numbers.count),
        ],
        rows=[
            [arm, e.mean, *e.interval, e.tau, e.i_squared,
             *(e.prediction_interval or (None, None)), e.num_seeds]
            for arm, e in found.items()
        ],
    )  # fmt: skip
    return [table]


def _difference_figure(comparison: Comparison, styles: Mapping[str, Style]) -> list[Block]:
    rows, which = _drawn(comparison, styles)
    if not rows:
        return []
    figure = _forest(
        "forest-differences",
        rows,
        "paired difference, nats per datum",
        f"{which} with {percent_of(comparison)} intervals that hold together; nats per datum. "
        "Open: the interval holds 0. Ticks: single seeds.",
        zero=True,
    )
    return [figure]


def differences(comparison: Comparison) -> Section | None:
    """Table of paired differences; None with a single arm."""
    if not comparison.differences:
        return None
    percent = percent_of(comparison)
    table = Table(
        name="differences",
        caption=(
            "Differences of mean log p(x), paired by seed and datum; nats per datum. Low and high: "
            f"{percent} intervals that hold together; adjusted p: Bonferroni's, as they"
        ),
        columns=[*_DIFFERENCE, Column("verdict")],
        rows=[
            [*_difference(pair, mean, comparison.tests[pair]), comparison.verdict(pair)]
            for pair, mean in comparison.differences.items()
        ],
    )
    return Section("differences", "Paired differences", [table, *_power(comparison)])


def _power(comparison: Comparison) -> list[Block]:
    rows: list[list[Value]] = [
        [*pair, power.power_now, power.more_seeds, power.text]
        for pair, power in comparison.power.items()
        if power.more_seeds != 0
    ]
    table = Table(
        name="power",
        caption=(
            "Differences that are not shown: the probability that a study of this size shows one "
            "as large as estimated, and what it would take for 80%"
        ),
        columns=[
            *_DIFFERENCE[:2],
            Column("power_now", "number", numbers.probability, heading="power now"),
            Column("more_seeds", "number", numbers.count, heading="more seeds"),
            Column("text", "prose", heading="in words"),
        ],
        rows=rows,
    )
    return [table] if rows else []


def _difference(pair: Pair, mean: CrossedMean, test: PairedTest) -> list[Value]:
    return [*pair, mean.mean, mean.error, *test.simultaneous, test.p_value, test.adjusted_p]


def _drawn(comparison: Comparison, styles: Mapping[str, Style]) -> tuple[list[Interval], str]:
    """The differences that a figure has room for, and what they are."""
    pairs = [pair for pair in comparison.differences if set(pair) <= set(styles)]
    if comparison.reference is None and len(pairs) <= _MOST_PAIRS:
        drawn = [oriented(comparison, *pair) for pair in pairs]
        return [row for row in drawn if row is not None], "All paired differences"
    against = comparison.reference or next(iter(comparison.ranking))
    # Each row is named by its arm alone: what is taken off is the same for all.
    rows = [
        replace(row, label=arm, style=styles[arm])
        for arm in comparison.ranking
        if arm in styles and (row := oriented(comparison, arm, against)) is not None
    ]
    name = "best arm" if against == next(iter(comparison.ranking)) else "reference"
    return rows, f"Paired differences of arms minus the {name} {against},"


def factors(comparison: Comparison) -> Section | None:
    """A table of levels and one of their differences for each of several factors."""
    if len(comparison.factors) < 2:
        return None
    blocks: list[Block] = []
    for name, found in comparison.factors.items():
        left_out = f"; left out: {', '.join(found.left_out)}" if found.left_out else ""
        blocks.append(
            Table(
                name=f"factor-{len(blocks)}",
                caption=(
                    f"{name}: mean log p(x) of its levels over {found.cells} combinations of the "
                    f"other factors, nats per datum{left_out}"
                ),
                columns=[Column(name), *_MEAN],
                rows=[
                    [level, *_mean(mean, comparison.confidence)]
                    for level, mean in found.levels.items()
                ],
            )
        )
        if found.differences:
            blocks.append(
                Table(
                    name=f"factor-{len(blocks)}",
                    caption=f"{name}: paired differences between levels, nats per datum",
                    columns=[
                        Column("a", heading="level"),
                        Column("b", heading="minus"),
                        *_DIFFERENCE[2:],
                    ],
                    rows=[
                        _difference(pair, mean, found.tests[pair])
                        for pair, mean in found.differences.items()
                    ],
                )
            )
    return Section("factors", "Factors", blocks)


def _forest(
    name: str, rows: Sequence[Interval], xlabel: str, caption: str, *, zero: bool = False
) -> Figure:
    drawn = "; ".join(
        f"{row.label}: {numbers.nats(row.mean)} ({numbers.interval(row.low, row.high)})"
        for row in rows
    )
    return Figure(
        name=name,
        caption=caption,
        svg=svg_panel(
            lambda ax: draw_forest(ax, rows, xlabel, zero=zero),
            name,
            f"Forest plot. {drawn}",
            rows_height(len(rows)),
        ),
        data=csv_uri(
            ["label", "mean", "low", "high"],
            [[row.label, row.mean, row.low, row.high] for row in rows],
        ),
    )
