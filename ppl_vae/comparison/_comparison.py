"""Statistics of a comparison: several arms, each over seeds and the same data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar, TypeVar, final

from ppl_vae import plots
from ppl_vae.comparison._bootstrap import bootstrap_intervals
from ppl_vae.comparison._cells import Cells, gather
from ppl_vae.comparison._crossed import CrossedMean
from ppl_vae.comparison._factors import FactorTable, Levels, Pair, factor_tables
from ppl_vae.comparison._multiplicity import PairedTest, paired_tests
from ppl_vae.comparison._notes import notes_of
from ppl_vae.comparison._power import Power, power_of
from ppl_vae.comparison._random_effects import RandomEffects, random_effects
from ppl_vae.comparison._ranking import Rank, rank_arms
from ppl_vae.comparison._summary import summary_of
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.evidence import Evidence

K = TypeVar("K")
V = TypeVar("V")

MOST_ARMS_IN_ALL_PAIRS = 12
"""More arms than this are compared with one of them, not each with each."""


@final
@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Arms evaluated on the same data over the same seeds, and their differences.

    Attributes:
        arms: Arm to its mean log p(x), in nats per datum.
        differences: ``(a, b)`` to the mean of log p_a(x) - log p_b(x), paired by seed and datum,
            over the seeds that both have.
        tests: Of each difference: intervals and p-values, alone and all together.
        bootstrap: Of each difference alone: percentile interval of the bootstrap over seeds and
            data, a check of the interval in ``tests``.
        power: Of each difference: what it would take to show it.
        random_effects: Of each arm with two seeds or more: how training runs differ.
        ranking: Of each arm, best first: rank, its interval, probability of being best.
        factors: Factor to the means of its levels over the other factors.
        reference: The arm that all others are compared with; None where all pairs are.
        confidence: Of every interval; of those of all differences together, too.
        seeds: Arm to the seeds it has.
        warnings: Arm to why its log p(x) should not be trusted.
        notes: What to know before believing the statistics, one sentence each.
        methods: How log p(x) was estimated, in words; several where results differ in it.
        num_data, num_seeds, num_particles: What the numbers rest on; of the arm with most seeds.
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
    notes: list[str]
    methods: tuple[str, ...]
    num_data: int
    num_seeds: int
    num_particles: int

    def interval(self, pair: Pair) -> tuple[float, float]:
        """The interval of one difference; all of them hold together at :attr:`confidence`."""
        return self.tests[pair].simultaneous

    def verdict(self, pair: Pair) -> str:
        """Which arm is higher, if the interval excludes 0, in words."""
        return verdict(pair, self.tests[pair])

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
        return summary_of(self)

    def _rows(self) -> list[Row]:
        """An arm each, and after them a difference each: ``a - b``."""
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
        """Forest plots: each arm with its seeds, and their paired differences."""
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


def verdict(pair: Pair, test: PairedTest) -> str:
    """Which of two is higher, if the difference is real, in words."""
    if not test.shown:
        return "no difference shown"
    return f"{pair[0] if test.simultaneous[0] > 0 else pair[1]} higher"


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
        reference: The arm to compare all others with. If not given: all pairs, or, of more than
            12 arms, the one with the highest mean.
        confidence: Of the intervals.
        replicates: Of the bootstrap, which ranks.
        seed: Of its random numbers.

    Raises:
        ValueError: If arms differ in their data, or an argument is wrong.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    cells, left_out = gather(evidence)
    ranking = rank_arms(cells, confidence, replicates, seed)
    chosen = _reference(reference, cells, ranking)
    paired, unpaired = _paired(cells, chosen)
    differences = {pair: each.mean for pair, each in paired.items()}
    tests = _keyed(paired, paired_tests(list(differences.values()), confidence))
    bootstrap = bootstrap_intervals(list(paired.values()), confidence, replicates, seed)
    level = (1 - confidence) / max(1, len(paired))
    results = [result for by_seed in evidence.values() for result in by_seed.values()]
    return Comparison(
        arms={arm: each.mean for arm, each in cells.items()},
        differences=differences,
        tests=tests,
        bootstrap=_keyed(paired, bootstrap),
        power={
            pair: power_of(mean, level, shown=tests[pair].shown)
            for pair, mean in differences.items()
        },
        random_effects=_known({a: random_effects(each, confidence) for a, each in cells.items()}),
        ranking=ranking,
        factors=factor_tables(cells, levels, confidence) if levels else {},
        reference=chosen,
        confidence=confidence,
        seeds={arm: each.seeds for arm, each in cells.items()},
        warnings=_known({arm: _warning(evidence[arm]) for arm in cells}),
        notes=left_out
        + notes_of(cells, differences, unpaired, chosen, chosen_by_rank=reference is None),
        methods=tuple(dict.fromkeys(result.procedure for result in results)),
        num_data=len(results[0]),
        num_seeds=max(len(each.seeds) for each in cells.values()),
        num_particles=max(result.num_particles for result in results),
    )


def _reference(
    reference: str | None, cells: Mapping[str, Cells], ranking: Mapping[str, Rank]
) -> str | None:
    if reference is not None and reference not in cells:
        raise ValueError(f"reference must be one of the arms {list(cells)}, got {reference!r}.")
    if reference is None and len(cells) > MOST_ARMS_IN_ALL_PAIRS:
        return next(iter(ranking))
    return reference


def _paired(
    cells: Mapping[str, Cells], reference: str | None
) -> tuple[dict[Pair, Cells], list[Pair]]:
    """The differences to look at, and the pairs that share no seed."""
    if reference is None:
        pairs = [(b, a) for a, b in combinations(cells, 2)]
    else:
        pairs = [(arm, reference) for arm in cells if arm != reference]
    known = _known({(a, b): cells[a].minus(cells[b]) for a, b in pairs})
    return known, [pair for pair in pairs if pair not in known]


def _warning(results: Mapping[int, Evidence]) -> str | None:
    """The first of an arm's warnings."""
    return next((result.warning for result in results.values() if result.warning), None)


def _known(found: Mapping[K, V | None]) -> dict[K, V]:
    return {key: value for key, value in found.items() if value is not None}


def _keyed(keys: Iterable[K], values: Iterable[V]) -> dict[K, V]:
    return dict(zip(keys, values, strict=True))
