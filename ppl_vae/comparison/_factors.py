"""Marginal means of a factor's levels, over the levels of the other factors."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import final

from ppl_vae.comparison._cells import Cells, average
from ppl_vae.comparison._crossed import CrossedMean
from ppl_vae.comparison._multiplicity import PairedTest, paired_tests

Levels = Mapping[str, Mapping[str, str]]
Pair = tuple[str, str]


@final
@dataclass(frozen=True)
class FactorTable:
    """What a factor does on average over the other factors' levels.

    Attributes:
        factor: Its name.
        levels: Level to its mean log p(x), in nats per datum.
        differences: ``(a, b)`` to the mean of level a minus level b, paired by seed and datum.
        tests: Of each difference, all of this factor together.
        cells: Combinations of the other factors' levels that each mean is over.
        left_out: Arms of combinations that are not there for every level.
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
    """The table of each factor that has two levels or more and a balanced part.

    Balanced: only combinations of the other factors' levels in which every level of the factor was
    run, over the seeds that all of these arms have.

    Args:
        cells: log p(x) of each arm.
        levels: Arm to factor to its level.
        confidence: Of the intervals.

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
    names = list(dict.fromkeys(levels[arm][factor] for arm in cells if factor in levels[arm]))
    if len(names) < 2:
        return None
    blocks = _blocks(factor, cells, levels)
    balanced = [block for block in blocks if len(block) == len(names)]
    inside = {arm for block in balanced for arm in block.values()}
    shared = average([cells[arm] for arm in inside]) if inside else None
    if shared is None:
        return None
    parts = {
        name: average([cells[block[name]].only(shared.seeds) for block in balanced])
        for name in names
    }
    found = {name: part for name, part in parts.items() if part is not None}
    pairs = [(b, a) for a, b in combinations(names, 2)]
    paired = {(a, b): found[a].minus(found[b]) for a, b in pairs}
    differences = {pair: part.mean for pair, part in paired.items() if part is not None}
    tests = paired_tests(list(differences.values()), confidence)
    return FactorTable(
        factor=factor,
        levels={name: part.mean for name, part in found.items()},
        differences=differences,
        tests=dict(zip(differences, tests, strict=True)),
        cells=len(balanced),
        left_out=tuple(arm for arm in cells if arm not in inside),
    )


def _blocks(factor: str, cells: Mapping[str, Cells], levels: Levels) -> list[dict[str, str]]:
    """For each combination of the other factors' levels: level to arm."""
    blocks: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for arm in cells:
        if factor in levels[arm]:
            others = tuple(sorted(item for item in levels[arm].items() if item[0] != factor))
            blocks.setdefault(others, {})[levels[arm][factor]] = arm
    return list(blocks.values())
