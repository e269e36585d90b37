"""What to know before believing a comparison, in words."""

from collections.abc import Mapping, Sequence

from ppl_vae.comparison.cells import Cells
from ppl_vae.comparison.factors import Pair

FEW_DATA = 50
"""Below this the coverage of the intervals was not measured."""


def notes_of(
    cells: Mapping[str, Cells],
    paired: Mapping[Pair, Cells],
    unpaired: Sequence[Pair],
    reference: str | None,
    *,
    chosen_by_rank: bool,
) -> list[str]:
    """One sentence for each thing that limits what the statistics say."""
    counts = {arm: len(each.seeds) for arm, each in cells.items()}
    num_data = next(iter(cells.values())).values.shape[1]
    notes = [
        *_few_seeds([len(each.seeds) for each in paired.values()] or list(counts.values())),
        *_missing(counts),
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
