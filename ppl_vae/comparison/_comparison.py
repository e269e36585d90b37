"""Comparison of several arms, each over seeds and the same data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar, TypeVar, final

from ppl_vae import plots
from ppl_vae.comparison._bootstrap import Rank, bootstrap_intervals, rank_arms
from ppl_vae.comparison._cells import (
    Cells,
    FactorTable,
    Levels,
    Pair,
    factor_tables,
    gather,
    paired_cells_tests,
)
from ppl_vae.comparison._crossed import CrossedMean, PairedTest
from ppl_vae.comparison._seeds import Power, RandomEffects, power_of, random_effects
from ppl_vae.comparison._trust import Trust, trust_in, trust_line
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.evidence import Evidence
from ppl_vae.identity import share_measure
from ppl_vae.names import require_share

K = TypeVar("K")
V = TypeVar("V")

MOST_ARMS_IN_ALL_PAIRS = 12
"""More arms than this are compared with one of them, not each with each."""
FEW_DATA = 50
"""Least number of data for which the intervals' coverage was measured (docs/comparison.md)."""
VERY_SKEWED = 5.0
"""Skewness beyond which it was not measured."""
_NAMED = 3
"""Number of differences that a note names; more are counted."""


@final
@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Arms evaluated on the same data over the same seeds, and their differences.

    Attributes:
        arms: Arm to its mean log p(x), in nats per datum.
        differences: ``(a, b)`` to the mean of log p_a(x) - log p_b(x), paired by seed and datum,
            over the seeds that both have.
        tests: Intervals and p-values of each difference, alone and all together.
        bootstrap: Percentile interval of each difference alone, by the bootstrap over seeds and
            data, a check of the interval in ``tests``.
        power: Seeds or data that it would take to show each difference.
        random_effects: Spread of the training runs of each arm with two seeds or more.
        ranking: Rank of each arm, best first, its interval, probability of being best.
        factors: Factor to the means of its levels over the other factors.
        reference: Arm that all others are compared with; None where all pairs are.
        confidence: Confidence of every interval, and of those of all differences together.
        seeds: Arm to the seeds it has.
        warnings: Arm to the reason not to trust its log p(x).
        trusts: Arm to how far its estimates are to be trusted, and what they cost. Intervals of
            differences, of levels of factors too, and of ranks hold what either side may be low by.
            Errors, p-values, P(best), intervals of single means and random effects are of sampling
            alone.
        notes: Limits of the statistics, one sentence each.
        methods: Methods that estimated log p(x), in words; several where results differ in it.
        num_data: Number of test data.
        num_seeds: Number of runs of the arm with most.
        num_particles: Number of particles K of the estimates.
    """

    _group: ClassVar[str] = "comparison"

    arms: dict[str, CrossedMean]
    differences: dict[Pair, CrossedMean]
    tests: dict[Pair, PairedTest]
    bootstrap: dict[Pair, tuple[float, float]]
    power: dict[Pair, Power]
    random_effects: dict[str, RandomEffects]
    ranking: dict[str, Rank]
    factors: dict[str, FactorTable]
    reference: str | None
    confidence: float
    seeds: dict[str, tuple[int, ...]]
    warnings: dict[str, str]
    trusts: dict[str, Trust]
    notes: list[str]
    methods: tuple[str, ...]
    num_data: int
    num_seeds: int
    num_particles: int

    @property
    def trust(self) -> str:
        """Say whether the estimates may be trusted, in a line."""
        return trust_line(self.trusts, list(self.warnings))

    @property
    def doubts(self) -> dict[str, float]:
        """Arm to how low its mean may be beside its Monte Carlo error, where estimators tell."""
        return _known({arm: each.doubt for arm, each in self.trusts.items()})

    def interval(self, pair: Pair) -> tuple[float, float]:
        """Look up the interval of one difference; all hold together at ``confidence``."""
        return self.tests[pair].simultaneous

    def verdict(self, pair: Pair) -> str:
        """Say which arm is higher, if the interval excludes 0, in words."""
        return self.tests[pair].verdict(pair)

    def __str__(self) -> str:
        arms = [
            f"{arm}: {each.mean:.3f}, error {each.error:.3f}" for arm, each in self.arms.items()
        ]
        pairs = [
            f"{a} - {b}: {each.mean:+.3f}, {self.verdict((a, b))}"
            for (a, b), each in self.differences.items()
        ]
        return "\n".join(["log p(x), nats per datum", *arms, *pairs])

    def _values(self) -> dict[str, Any]:
        single = ("num_data", "num_seeds", "methods", "num_particles", "confidence", "reference",
                  "trust", "notes")  # fmt: skip
        return {
            "unit": "nats per datum",
            **{name: getattr(self, name) for name in single},
            "arms": {arm: self._arm_values(arm) for arm in self.arms},
            "differences": [
                {
                    **_difference_values(pair, mean, self.tests[pair]),
                    "verdict": self.verdict(pair),
                    "bootstrap_interval": self.bootstrap[pair],
                    "power": self.power[pair],
                }
                for pair, mean in self.differences.items()
            ],
            "factors": {factor: self._factor_values(t) for factor, t in self.factors.items()},
        }

    def _arm_values(self, arm: str) -> dict[str, Any]:
        rank = self.ranking[arm]
        return {
            **_mean_values(self.arms[arm]),
            "interval": self.arms[arm].interval(self.confidence),
            "seeds": self.seeds[arm],
            "rank": rank.rank,
            "rank_interval": rank.interval,
            "best_probability": rank.best,
            "random_effects": self.random_effects.get(arm),
            "trust": self.trusts[arm],
            "warning": self.warnings.get(arm),
        }

    def _factor_values(self, table: FactorTable) -> dict[str, Any]:
        return {
            "cells": table.cells,
            "left_out": table.left_out,
            "levels": {
                level: {**_mean_values(mean), "interval": mean.interval(self.confidence)}
                for level, mean in table.levels.items()
            },
            "differences": [
                _difference_values(pair, mean, table.tests[pair])
                for pair, mean in table.differences.items()
            ],
        }

    def _rows(self) -> list[Row]:
        """Make a row for each arm, and after them one for each difference, ``a - b``."""
        ends = {arm: mean.interval(self.confidence) for arm, mean in self.arms.items()}
        ends |= {f"{a} - {b}": self.interval((a, b)) for a, b in self.differences}
        means = self.arms | {f"{a} - {b}": mean for (a, b), mean in self.differences.items()}
        parts = ("error", "seed_error", "data_error", "monte_carlo_error")
        return [
            {"arm": name, "mean": mean.mean, "low": ends[name][0], "high": ends[name][1]}
            | {part: getattr(mean, part) for part in parts}
            for name, mean in means.items()
        ]

    def _panels(self) -> list[Panel]:
        """Make forest plots of the arms with their seeds, and of their paired differences."""
        points = [*self.arms.values(), *self.differences.values()]
        rows = [
            plots.ForestRow(row["arm"], row["mean"], row["low"], row["high"], points=mean.per_seed)
            for row, mean in zip(self._rows(), points, strict=True)
        ]
        arms = [
            replace(row, style=plots.style_of(n)) for n, row in enumerate(rows[: len(self.arms)])
        ]
        differences = rows[len(arms) :]
        height = plots.rows_height(max(len(arms), len(differences)))
        percent = f"bars: {100 * self.confidence:g}% intervals over data and seeds; ticks: seeds"

        def means(ax: Axes) -> None:
            plots.draw_forest(ax, arms, "log p(x), nats per datum")
            plots.remark(ax, percent)

        def paired(ax: Axes) -> None:
            plots.draw_forest(ax, differences, "paired difference, nats per datum", zero=True)
            plots.remark(ax, "all intervals together; open: holds 0")

        return [(means, height), *([(paired, height)] if differences else [])]


def _difference_values(pair: Pair, mean: CrossedMean, test: PairedTest) -> dict[str, Any]:
    return {
        "a": pair[0],
        "b": pair[1],
        **_mean_values(mean),
        "interval": test.simultaneous,
        "single_interval": test.interval,
        "p_value": test.p_value,
        "adjusted_p": test.adjusted_p,
        "num_seeds": test.num_seeds,
    }


def _mean_values(mean: CrossedMean) -> dict[str, Any]:
    # Without the mean squares, from which all the other numbers come.
    return {name: value for name, value in vars(mean).items() if name != "squares"}


def compare(
    evidence: Mapping[str, Mapping[int, Evidence]],
    *,
    levels: Levels | None = None,
    reference: str | None = None,
    confidence: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare arms by their log p(x) over seeds and data.

    Args:
        evidence: Arm to seed to log p(x) of the same data. A seed is the same in all arms: its
            results are paired. Seeds may be missing where a run failed.
        levels: Arm to factor to its level, for means over factors.
        reference: Arm to compare all others with. If not given: all pairs, or, of more than 12
            arms, the one with the highest mean.
        confidence: Confidence of the intervals.
        replicates: Number of replicates of the bootstrap, which ranks.
        seed: Seed of its random numbers.

    Raises:
        ValueError: If arms differ in their data, or an argument is wrong.
    """
    require_share(confidence=confidence)
    cells, left_out = gather(evidence)
    if reference is not None and reference not in cells:
        raise ValueError(f"reference must be one of the arms {list(cells)}, got {reference!r}.")
    ranking = rank_arms(cells, confidence, replicates, seed)
    chosen = reference
    if reference is None and len(cells) > MOST_ARMS_IN_ALL_PAIRS:
        chosen = next(iter(ranking))
    pairs = (
        [(b, a) for a, b in combinations(cells, 2)]
        if chosen is None
        else [(arm, chosen) for arm in cells if arm != chosen]
    )
    paired = _known({(a, b): cells[a].minus(cells[b]) for a, b in pairs})
    differences = {pair: each.mean for pair, each in paired.items()}
    tests = paired_cells_tests(paired, confidence)
    # Where both arms are low by a like amount, their difference is hardly in doubt.
    hidden_by: dict[Pair, str | None] = {}
    for (a, b), each in paired.items():
        mean = differences[a, b].mean
        hidden_by[a, b] = (a if mean < 0 else b) if each.doubt.hides(mean) else None
    bootstrap = bootstrap_intervals(list(paired.values()), confidence, replicates, seed)
    # Bonferroni's, as in the tests: power is that of showing the difference among all others.
    level = (1 - confidence) / max(1, len(paired))
    results = [result for by_seed in evidence.values() for result in by_seed.values()]
    doubts = {
        arm: next((each.caution for each in evidence[arm].values() if each.caution), None)
        for arm in cells
    }
    notes = [*left_out, *_notes(cells, differences)]
    if chosen is not None and reference is None:
        notes.append(
            f"all arms are compared with {chosen}, which was chosen as the highest of them: "
            "that is optimistic for it; name a reference to avoid it."
        )
    notes += _unpaired(cells, [pair for pair in pairs if pair not in paired])
    return Comparison(
        arms={arm: each.mean for arm, each in cells.items()},
        differences=differences,
        tests=tests,
        bootstrap=dict(zip(paired, bootstrap, strict=True)),
        power={
            pair: power_of(mean, level, shown=tests[pair].shown, hidden_by=hidden_by[pair])
            for pair, mean in differences.items()
        },
        random_effects=_known({a: random_effects(each, confidence) for a, each in cells.items()}),
        ranking=ranking,
        factors=factor_tables(cells, levels, confidence) if levels else {},
        reference=chosen,
        confidence=confidence,
        seeds={arm: each.seeds for arm, each in cells.items()},
        warnings=_known(doubts),
        trusts={arm: trust_in([evidence[arm][s] for s in cells[arm].seeds]) for arm in cells},
        notes=notes,
        methods=tuple(dict.fromkeys(result.procedure for result in results)),
        num_data=len(results[0]),
        num_seeds=max(len(each.seeds) for each in cells.values()),
        num_particles=max(result.num_particles for result in results),
    )


def _known(values: Mapping[K, V | None]) -> dict[K, V]:
    return {key: value for key, value in values.items() if value is not None}


def _unpaired(cells: Mapping[str, Cells], pairs: Sequence[Pair]) -> list[str]:
    """Why pairs of arms have no difference."""
    apart = [(a, b) for a, b in pairs if not share_measure(cells[a].measure, cells[b].measure)]
    reasons = {
        "p(x) is a probability in one and a density in the other": apart,
        "no seed in common": [pair for pair in pairs if pair not in apart],
    }
    return [
        f"{reason}, so that they are not compared: {', '.join(f'{a} and {b}' for a, b in given)}."
        for reason, given in reasons.items()
        if given
    ]


def _notes(cells: Mapping[str, Cells], differences: Mapping[Pair, CrossedMean]) -> list[str]:
    """Write a sentence for each lack of seeds or data that limits the statistics."""
    counts = {arm: len(each.seeds) for arm, each in cells.items()}
    num_data = next(iter(cells.values())).values.shape[1]
    notes = []
    # A difference has the seeds that both arms have: these limit it, not those of each arm.
    fewest = min([len(mean.per_seed) for mean in differences.values()] or counts.values())
    if fewest == 1:
        notes.append(
            "one seed: intervals and p-values are for these training runs alone, over new data; no "
            "method can say from one seed how another training run would turn out."
        )
    if fewest == 2:
        notes.append(
            "two seeds tell little of how training runs differ: intervals are wide, and those of "
            "several differences together wider than they need be; run 3 or more."
        )
    usual = max(counts.values())
    if fewer := ", ".join(f"{arm} ({n})" for arm, n in counts.items() if n < usual):
        notes.append(f"fewer than {usual} seeds: {fewer}; differences use those both arms have.")
    skewed = [f"{a} - {b}" for (a, b), mean in differences.items() if _skewness(mean) > VERY_SKEWED]
    if skewed:
        more = f" and {len(skewed) - _NAMED} more" if len(skewed) > _NAMED else ""
        notes.append(
            f"a few data outweigh the rest in {', '.join(skewed[:_NAMED])}{more} (skewness above "
            f"{VERY_SKEWED:g}): the intervals may cover less than they state; look at those data."
        )
    if num_data < FEW_DATA:
        notes.append(
            f"{num_data} data are few: the coverage of the intervals was measured from "
            f"{FEW_DATA} on."
        )
    return notes


def _skewness(mean: CrossedMean) -> float:
    squares = mean.squares
    if squares.datum == 0:
        return 0.0
    # Skewness of a datum's mean over seeds: squares hold its third cumulant over N^2.
    variance = squares.datum / squares.num_seeds
    return float(abs(squares.third_cumulant) * squares.num_data**2 / variance**1.5)
