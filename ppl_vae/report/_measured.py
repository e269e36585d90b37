"""What was measured of runs beside log p(x), as it stands in their folders."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.report._arms import done
from ppl_vae.studies import CellResult

Summary = Mapping[str, Any]


def measured_values(
    cells: Sequence[CellResult], name: str, arms: Sequence[str]
) -> dict[str, dict[int, Summary]]:
    """Arm to seed to the summary of a measure, where it was measured."""
    found = {
        arm: {
            cell.seed: _numbers(cell.measures[name])
            for cell in done(cells, arm)
            if name in cell.measures
        }
        for arm in arms
    }
    return {arm: by_seed for arm, by_seed in found.items() if by_seed}


def _numbers(value: Any) -> Any:
    """NaN in place of None, which JSON has for it."""
    if isinstance(value, Mapping):
        return {name: _numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return math.nan if value is None else value


def first(by_seed: Mapping[int, Summary]) -> Summary:
    """That of the first seed that has one."""
    return next(iter(by_seed.values()))


def joint_error(values: Sequence[float], noise: Sequence[float]) -> float:
    """Standard error over seeds, which holds the particles' noise; of one seed that noise alone."""
    if len(values) > 1:
        return statistics.stdev(values) / math.sqrt(len(values))
    return known(noise[0])


def known(error: float) -> float:
    """An error, 0 where there is none."""
    return 0.0 if math.isnan(error) else error


def around(values: Sequence[float], halves: Sequence[float]) -> tuple[list[float], list[float]]:
    """Lower and upper ends of bars."""
    pairs = list(zip(values, halves, strict=True))
    return [value - half for value, half in pairs], [value + half for value, half in pairs]
