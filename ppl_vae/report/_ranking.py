"""Sections of the comparison: ranking, paired differences, factors, methods of evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ppl_vae.comparison import Comparison, CrossedMean, Lowness, PairedTest
from ppl_vae.plots import ForestRow, Style, draw_forest, rows_height
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._answer import oriented, percent_of
from ppl_vae.report._blocks import Block, Figure, Section, Table, TableColumn, Value
from ppl_vae.report._measures import done
from ppl_vae.report._numbers import mean as mean_of

if TYPE_CHECKING:
    from ppl_vae.studies import StudyResults

_Pair = tuple[str, str]

_MOST_PAIRS = 15
"""Largest number of differences that one figure shows."""
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
    """Make the table of arms, best first, and figures of their intervals and differences."""
    percent = percent_of(comparison)
    table = Table(
        name="ranking",
        caption=(
            f"Arms, best first; nats per datum. Low and high: {percent} interval of the mean. "
            "Monte Carlo, seed and data error: the parts of the total error. Intervals and P(best) "
            "are of sampling alone, without what log p(x) may be low by."
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
    blocks: list[Block] = [table, figure]
    pairs, which = _drawn(comparison, styles)
    if pairs:
        caption = (
            f"{which} with {percent} intervals that hold together; nats per datum. "
            "Open: the interval holds 0. Ticks: single seeds."
        )
        xlabel = "paired difference, nats per datum"
        blocks.append(_forest("forest-differences", pairs, xlabel, caption, zero=True))
    if comparison.random_effects:
        blocks.append(_random_effects(comparison))
    return Section("ranking", "Ranking", blocks)


def _mean(mean: CrossedMean, confidence: float) -> list[Value]:
    return [mean.mean, mean.error, *mean.interval(confidence), mean.monte_carlo_error,
            mean.seed_error, mean.data_error]  # fmt: skip


def _random_effects(comparison: Comparison) -> Table:
    return Table(
        name="random-effects",
        caption=(
            "Random effects of the seed: tau is the standard deviation of training runs in nats "
            "per datum, I² its share of the variance of a seed's mean, the prediction interval "
            f"({percent_of(comparison)}) that of one new training run on these data; of sampling "
            "alone, as if no log p(x) were low"
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
            for arm, e in comparison.random_effects.items()
        ],
    )  # fmt: skip


def differences(comparison: Comparison) -> Section | None:
    """Make the table of paired differences; None with a single arm."""
    if not comparison.differences:
        return None
    percent = percent_of(comparison)
    table = Table(
        name="differences",
        caption=(
            "Differences of mean log p(x), paired by seed and datum; nats per datum. Low and high: "
            f"{percent} intervals that hold together, with what either arm may be low by; adjusted "
            "p: Bonferroni's, as they, of sampling alone"
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
        # Differences that are shown already need 0 more.
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
    """Choose the differences that a figure has room for, and describe them."""
    pairs = [pair for pair in comparison.differences if set(pair) <= set(styles)]
    if comparison.reference is None and len(pairs) <= _MOST_PAIRS:
        drawn = [oriented(comparison, *pair) for pair in pairs]
        return [row for row in drawn if row is not None], "All paired differences"
    against = comparison.reference or next(iter(comparison.ranking))
    # Each row is named by its arm alone: the arm subtracted is the same for all.
    rows = [
        replace(row, label=arm, style=styles[arm])
        for arm in comparison.ranking
        if arm in styles and (row := oriented(comparison, arm, against)) is not None
    ]
    name = "best arm" if against == next(iter(comparison.ranking)) else "reference"
    return rows, f"Paired differences of arms minus the {name} {against},"


def factors(comparison: Comparison) -> Section | None:
    """Make tables of levels and of their differences for each of several factors."""
    # A single factor's levels are the arms, which the ranking shows already.
    if len(comparison.factors) < 2:
        return None
    blocks: list[Block] = []
    for name, table in comparison.factors.items():
        left_out = f"; left out: {', '.join(table.left_out)}" if table.left_out else ""
        blocks.append(
            Table(
                name=f"factor-{len(blocks)}",
                caption=(
                    f"{name}: mean log p(x) of its levels over {table.cells} combinations of the "
                    f"other factors, nats per datum{left_out}"
                ),
                columns=[TableColumn(name), *_MEAN],
                rows=[
                    [level, *_mean(mean, comparison.confidence)]
                    for level, mean in table.levels.items()
                ],
            )
        )
        if table.differences:
            blocks.append(
                Table(
                    name=f"factor-{len(blocks)}",
                    caption=(
                        f"{name}: paired differences between levels, nats per datum. Low and high: "
                        f"{percent_of(comparison)} intervals that hold together, with what the "
                        "means of either level may be low by; p is of sampling alone"
                    ),
                    columns=[
                        TableColumn("a", heading="level"),
                        TableColumn("b", heading="minus"),
                        *_DIFFERENCE[2:],
                    ],
                    rows=[
                        _difference(pair, mean, table.tests[pair])
                        for pair, mean in table.differences.items()
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
    return Figure.drawn(
        name,
        caption,
        lambda ax: draw_forest(ax, rows, xlabel, zero=zero),
        f"Forest plot. {drawn}",
        (["label", "mean", "low", "high"], [[r.label, r.mean, r.low, r.high] for r in rows]),
        rows_height(len(rows)),
    )


def methods(results: "StudyResults", comparison: Comparison) -> Section | None:
    """Make the table of means by arm and method; None where there is one method only."""
    labels = [method.label for method in results.study.methods]
    if len(labels) < 2:
        return None
    beside = results.beside()
    rows = [
        [*row, *_low_by(beside, arm, label)]
        for arm in comparison.ranking
        for label in labels
        for row in _row(results, arm, label)
    ]
    table = Table(
        name="methods",
        caption=(
            "Mean log p(x) by each method, over the seeds that it was used on, nats per datum; "
            f"arms are compared by {labels[0]}, and the others stand below it by as much as said"
        ),
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("method"),
            TableColumn("log_prob", "number", heading="log p(x)"),
            TableColumn("monte_carlo_error", "error", numbers.error, heading="± Monte Carlo error"),
            TableColumn("direction", heading="in expectation"),
            TableColumn(
                "evaluations", "number", numbers.count, heading="decoder evaluations a datum"
            ),
            TableColumn("seeds", "number", numbers.count),
            TableColumn("low_by", "number", heading=f"below {labels[0]} by"),
            TableColumn("low_by_error", "error", numbers.error, heading="±"),
        ],
        rows=rows,
    )
    return Section("methods", "Methods of evaluation", [table])


def _low_by(
    beside: Mapping[str, Mapping[str, Lowness]], arm: str, label: str
) -> tuple[float | None, float | None]:
    found = beside.get(label, {}).get(arm)
    return (None, None) if found is None else (found.low_by, found.low_by_error)


def _row(results: "StudyResults", arm: str, label: str) -> list[list[Value]]:
    """Make one row, or none without such an estimate; hold one cell's values at a time."""
    values, variances, costs, direction = [], [], [], ""
    for cell in done(results.cells, arm):
        evidence = cell.evidence(label)
        if evidence is not None:
            values.append(evidence.mean)
            variances.append(evidence.monte_carlo_error**2)
            costs.append(evidence.evaluations_per_datum)
            direction = evidence.direction
    if not values:
        return []
    # Monte Carlo errors of different runs are independent: variances add up.
    error = mean_of(variances) ** 0.5 / len(values) ** 0.5
    return [[arm, label, mean_of(values), error, direction, mean_of(costs), len(values)]]
