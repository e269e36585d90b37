"""Arrays of evidence by arm and seed, notes on what is missing, and means over factors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.comparison._crossed import (
    CrossedMean,
    PairedTest,
    crossed_mean,
    paired_tests,
    require_two_data,
)
from ppl_vae.comparison._trust import average_doubt
from ppl_vae.evidence import Evidence, MeanDoubt, doubt_of
from ppl_vae.identity import require_same_rows, share_measure
from ppl_vae.names import require_instance

Levels = Mapping[str, Mapping[str, str]]
Pair = tuple[str, str]


@final
@dataclass(frozen=True, eq=False)
class Cells:
    """Values of log p(x) of one arm, or differences of two.

    Attributes:
        seeds: Seeds that have results, ascending.
        values: log p(x) of each seed and datum, in nats.
        monte_carlo_variance: Squared standard error of each, without what all data of a run share,
            which is part of the spread over seeds; 0 where it is not known.
        doubts: Doubt of the mean of each seed.
        measure: What p(x) is, as :attr:`~ppl_vae.identity.Identity.measure`.
    """

    seeds: tuple[int, ...]
    values: Float[Tensor, "seeds data"]
    monte_carlo_variance: Float[Tensor, "seeds data"]
    doubts: tuple[MeanDoubt, ...]
    measure: str | None = None

    @property
    def mean(self) -> CrossedMean:
        """Mean over seeds and data."""
        return crossed_mean(self.values, self.monte_carlo_variance)

    @property
    def doubt(self) -> MeanDoubt:
        """Doubt of the mean over seeds and data."""
        return average_doubt(self.doubts)

    def only(self, seeds: Sequence[int]) -> "Cells":
        """Select some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        doubts = tuple(self.doubts[row] for row in rows)
        variance = self.monte_carlo_variance[rows]
        return Cells(tuple(seeds), self.values[rows], variance, doubts, self.measure)

    def minus(self, other: "Cells") -> "Cells | None":
        """Subtract by seed and datum, over the seeds that both have; None if there are none.

        Nor is there a difference of a probability and a density.
        """
        seeds = _shared_seeds([self, other])
        if not seeds or not share_measure(self.measure, other.measure):
            return None
        a, b = self.only(seeds), other.only(seeds)
        variance = a.monte_carlo_variance + b.monte_carlo_variance
        doubts = tuple(x.minus(y) for x, y in zip(a.doubts, b.doubts, strict=True))
        return Cells(seeds, a.values - b.values, variance, doubts)


def _shared_seeds(cells: Sequence[Cells]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*(set(each.seeds) for each in cells))))


def gather(evidence: Mapping[str, Mapping[int, Evidence]]) -> tuple[dict[str, Cells], list[str]]:
    """Gather the cells of each arm, and what was left out, one sentence each.

    Raises:
        ValueError: If results are of different data, of fewer than 2, or there are none; if all
            data of a run share an error and there are fewer than two seeds that show it.
    """
    require_instance("evidence", evidence, Mapping, "arm to seed to log p(x)")
    for arm, by_seed in evidence.items():
        require_instance(f"evidence[{arm!r}]", by_seed, Mapping, "seed to log p(x)")
        for seed, result in by_seed.items():
            how = "an estimator of log p(x) gives one"
            require_instance(f"evidence[{arm!r}][{seed}]", result, Evidence, how)
    if not any(evidence.values()):
        raise ValueError("there is nothing to compare: give at least one arm, with its seeds.")
    require_same_rows(
        {
            f"{arm} seed {seed}": result.identity
            for arm, by_seed in evidence.items()
            for seed, result in by_seed.items()
        }
    )
    sizes = sorted({len(result) for by_seed in evidence.values() for result in by_seed.values()})
    if len(sizes) != 1:
        raise ValueError(f"arms need results on the same data, got numbers of data {sizes}.")
    require_two_data(sizes[0])
    cells, notes = {}, []
    for arm, results in evidence.items():
        impossible = [s for s, result in results.items() if bool(result.log_prob.isneginf().any())]
        if impossible:
            # To leave out these runs alone would judge the arm by its better ones.
            seeds = ", ".join(map(str, sorted(impossible)))
            notes.append(
                f"{arm} is left out: log p(x) is -inf for some data of seed {seeds}, and so is its "
                "mean."
            )
            continue
        finite = {
            seed: result
            for seed, result in sorted(results.items())
            if bool(result.log_prob.isfinite().all())
        }
        notes += [
            f"{arm} seed {seed} is left out: log p(x) is not finite for some of its data."
            for seed in sorted(results.keys() - finite.keys())
        ]
        if finite:
            cells[arm] = Cells(
                tuple(finite),
                torch.stack([result.log_prob.double() for result in finite.values()]),
                # One particle has no standard error (NaN); its spread over data still counts.
                torch.stack([r.own_variance.double().nan_to_num() for r in finite.values()]),
                tuple(doubt_of(result) for result in finite.values()),
                next((r.identity.measure for r in finite.values() if r.identity), None),
            )
        else:
            notes.append(f"{arm} is left out: none of its runs has a result.")
    if not cells:
        raise ValueError("a comparison needs an arm with a finite result, got none.")
    shared = [arm for arm in cells if any(r.shared_error for r in evidence[arm].values())]
    if shared and len(_shared_seeds(list(cells.values()))) < 2:
        raise ValueError(
            f"all data of {shared[0]} share an error, as that of a normalising constant, which the "
            "spread over two common seeds or more shows and one seed does not: train more seeds, "
            "or take evidence.paired_difference."
        )
    return cells, notes


def paired_cells_tests(paired: Mapping[Pair, Cells], confidence: float) -> dict[Pair, PairedTest]:
    """Test differences, all together, with intervals that hold what either side may be low by.

    Args:
        paired: Pair to the differences of the two.
        confidence: Confidence of each interval, and of all simultaneous ones together.
    """
    means = [each.mean for each in paired.values()]
    return {
        pair: test.widened(each.doubt, mean.mean)
        for (pair, each), mean, test in zip(
            paired.items(), means, paired_tests(means, confidence), strict=True
        )
    }


@final
@dataclass(frozen=True)
class FactorTable:
    """Means of a factor's levels over the levels of the other factors.

    Attributes:
        factor: Name of the factor.
        levels: Level to its mean log p(x), in nats per datum.
        differences: ``(a, b)`` to the mean of level a minus level b, paired by seed and datum.
        tests: Test of each difference, all of this factor together; intervals hold what the means
            of either level may be low by.
        cells: Combinations of the other factors' levels that each mean is over.
        left_out: Arms of combinations that were not run at every level.
    """

    factor: str
    levels: dict[str, CrossedMean]
    differences: dict[Pair, CrossedMean]
    tests: dict[Pair, PairedTest]
    cells: int
    left_out: tuple[str, ...]


def factor_tables(
    cells: Mapping[str, Cells], levels: Levels, confidence: float
) -> dict[str, FactorTable]:
    """Make the table of each factor that has two levels or more and a balanced part.

    The balanced part holds the combinations of the other factors' levels in which every level of
    the factor was run, over the seeds that all of these arms have.

    Args:
        cells: log p(x) of each arm.
        levels: Arm to factor to its level.
        confidence: Confidence of the intervals.

    Raises:
        ValueError: If an arm has no levels.
    """
    missing = sorted(cells.keys() - levels.keys())
    if missing:
        raise ValueError(f"levels must name those of every arm, got none of {missing}.")
    factors = list(dict.fromkeys(factor for arm in cells for factor in levels[arm]))
    tables = {factor: _table(factor, cells, levels, confidence) for factor in factors}
    return {factor: table for factor, table in tables.items() if table is not None}


def _table(
    factor: str, cells: Mapping[str, Cells], levels: Levels, confidence: float
) -> FactorTable | None:
    # For each combination of the other factors' levels: level to arm.
    blocks: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for arm in cells:
        if factor in levels[arm]:
            others = tuple(sorted(item for item in levels[arm].items() if item[0] != factor))
            blocks.setdefault(others, {})[levels[arm][factor]] = arm
    names = list(dict.fromkeys(levels[arm][factor] for arm in cells if factor in levels[arm]))
    # A level must not look better because it was run with better levels of the other factors.
    balanced = [block for block in blocks.values() if len(block) == len(names)]
    inside = {arm for block in balanced for arm in block.values()}
    seeds = _shared_seeds([cells[arm] for arm in inside]) if inside else ()
    if len(names) < 2 or not seeds:
        return None
    means = {name: _average([cells[block[name]].only(seeds) for block in balanced])
             for name in names}  # fmt: skip
    differences = {(b, a): means[b].minus(means[a]) for a, b in combinations(names, 2)}
    paired = {pair: each for pair, each in differences.items() if each is not None}
    return FactorTable(
        factor=factor,
        levels={name: each.mean for name, each in means.items()},
        differences={pair: each.mean for pair, each in paired.items()},
        tests=paired_cells_tests(paired, confidence),
        cells=len(balanced),
        left_out=tuple(arm for arm in cells if arm not in inside),
    )


def _average(cells: Sequence[Cells]) -> Cells:
    """Means over arms of the same seeds, by seed and datum."""
    # The variance of a mean of independent estimates is their mean variance over their number.
    variance = torch.stack([each.monte_carlo_variance for each in cells]).mean(0) / len(cells)
    doubts = tuple(map(average_doubt, zip(*(each.doubts for each in cells), strict=True)))
    values = torch.stack([each.values for each in cells]).mean(0)
    measures = {each.measure for each in cells}
    measure = measures.pop() if len(measures) == 1 else None
    return Cells(cells[0].seeds, values, variance, doubts, measure)
