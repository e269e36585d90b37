"""Who is best and by how much: ranked table, differences, factors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ppl_vae.comparison import Comparison, CrossedMean, PairedTest
from ppl_vae.plots import ForestRow, Style, draw_forest, rows_height, svg_panel
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._answer import oriented, percent_of
from ppl_vae.report._blocks import Block, Figure, Section, Table, TableColumn, Value, csv_uri

_Pair = tuple[str, str]

_MOST_PAIRS = 15
"""Differences that one figure shows."""
_DIFFERENCE = [
    TableColumn("a", "arm", heading="arm"),
    TableColumn("b", "arm", heading="minus"),
    TableColumn("difference", "number", numbers.signed),
    TableColumn("error", "error", numbers.error, heading="± total error"),
    TableColumn("low", "number", numbers.signed),
    TableColumn("high", "number", numbers.signed),
    TableColumn("p", "number", numbers.probability),
    TableColumn("adjusted_p", "number", numbers.probability, heading="adjusted p"),
]
_MEAN = [
    TableColumn("log_prob", "number", heading="log p(x)"),
    TableColumn("error", "error", numbers.error, heading="± total error"),
    TableColumn("low", "number"),
    TableColumn("high", "number"),
    TableColumn("monte_carlo_error", "number", heading="Monte Carlo error"),
    TableColumn("seed_error", "number", heading="seed error"),
    TableColumn("data_error", "number", heading="data error"),
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
            TableColumn("rank", "number", numbers.count),
            TableColumn("arm", "arm"),
            *_MEAN,
            TableColumn("best", "number", numbers.chance, heading="P(best)"),
            TableColumn("seeds", "number", numbers.count),
        ],
        rows=[
            [rank.rank, arm, *_mean(comparison.arms[arm], comparison.confidence), rank.best,
             len(comparison.seeds[arm])]
            for arm, rank in comparison.ranking.items()
        ],
    )  # fmt: skip
    rows = [
        ForestRow(arm, mean.mean, *mean.interval(comparison.confidence), styles[arm], mean.per_seed)
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
            TableColumn("arm", "arm"),
            TableColumn("log_prob", "number", heading="log p(x)"),
            TableColumn("low", "number"),
            TableColumn("high", "number"),
            TableColumn("tau", "number"),
            TableColumn("i_squared", "number", heading="I²"),
            TableColumn("predicted_low", "number", heading="predicted low"),
            TableColumn("predicted_high", "number", heading="predicted high"),
            TableColumn("seeds", "number", numbers.count),
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
        columns=[*_DIFFERENCE, TableColumn("verdict")],
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
            TableColumn("power_now", "number", numbers.probability, heading="power now"),
            TableColumn("more_seeds", "number", numbers.count, heading="more seeds"),
            TableColumn("text", "prose", heading="in words"),
        ],
        rows=rows,
    )
    return [table] if rows else []


def _difference(pair: _Pair, mean: CrossedMean, test: PairedTest) -> list[Value]:
    return [*pair, mean.mean, mean.error, *test.simultaneous, test.p_value, test.adjusted_p]


def _drawn(comparison: Comparison, styles: Mapping[str, Style]) -> tuple[list[ForestRow], str]:
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
                columns=[TableColumn(name), *_MEAN],
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
                        TableColumn("a", heading="level"),
                        TableColumn("b", heading="minus"),
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
    name: str, rows: Sequence[ForestRow], xlabel: str, caption: str, *, zero: bool = False
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
