"""What to know before believing a comparison, in words."""

from collections.abc import Mapping, Sequence

from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._crossed import CrossedMean
from ppl_vae.comparison._factors import Pair

FEW_DATA = 50
"""Least number of data for which the coverage of the intervals was measured."""

VERY_SKEWED = 5.0
"""Skewness beyond which it was not measured either."""

_NAMED = 3
"""So many differences are named, then counted."""


def notes_of(
    cells: Mapping[str, Cells],
    differences: Mapping[Pair, CrossedMean],
    unpaired: Sequence[Pair],
    reference: str | None,
    *,
    chosen_by_rank: bool,
) -> list[str]:
    """One sentence for each thing that limits what the statistics say."""
    counts = {arm: len(each.seeds) for arm, each in cells.items()}
    num_data = next(iter(cells.values())).values.shape[1]
    notes = [
        *_few_seeds([len(mean.per_seed) for mean in differences.values()] or list(counts.values())),
        *_missing(counts),
        *_skewed(differences),
    ]
    if num_data < FEW_DATA:
        notes.append(
            f"{num_data} data are few: the coverage of the intervals was measured from "
            f"{FEW_DATA} on."
        )
    if reference is not None and chosen_by_rank:
        notes.append(
            f"all arms are compared with {reference}, which was chosen as the highest of them: "
            "that is optimistic for it; name a reference to avoid it."
        )
    if unpaired:
        pairs = ", ".join(f"{a} and {b}" for a, b in unpaired)
        notes.append(f"no seed in common, so that they are not compared: {pairs}.")
    return notes


def _few_seeds(counts: list[int]) -> list[str]:
    fewest = min(counts)
    if fewest == 1:
        return [
            "one seed: intervals and p-values are for these training runs alone, over new data; no "
            "method can say from one seed how another training run would turn out."
        ]
    if fewest == 2:
        return [
            "two seeds tell little of how training runs differ: intervals are wide, and those of "
            "several differences together wider than they need be; run 3 or more."
        ]
    return []


def _missing(counts: Mapping[str, int]) -> list[str]:
    usual = max(counts.values())
    fewer = [f"{arm} ({count})" for arm, count in counts.items() if count < usual]
    if not fewer:
        return []
    return [f"fewer than {usual} seeds: {', '.join(fewer)}; differences use those both arms have."]


def _skewed(differences: Mapping[Pair, CrossedMean]) -> list[str]:
    """Differences in which a few data outweigh the rest."""
    found = [f"{a} - {b}" for (a, b), mean in differences.items() if _skewness(mean) > VERY_SKEWED]
    if not found:
        return []
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return [
        f"a few data outweigh the rest in {', '.join(found[:_NAMED])}{more} (skewness above "
        f"{VERY_SKEWED:g}): the intervals may cover less than they state; look at those data."
    ]


def _skewness(mean: CrossedMean) -> float:
    squares = mean.squares
    if squares.datum == 0:
        return 0.0
    variance = squares.datum / squares.num_seeds
    return abs(squares.third_cumulant) * squares.num_data**2 / float(variance**1.5)
