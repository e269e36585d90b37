"""Arms that figures show, and their cells read one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ppl_vae.plots import Style, style_of
from ppl_vae.studies import CellResult

MOST_SHOWN = 12
"""Arms that a figure shows beside the reference; more would hide each other."""


def styles_of(ranked: Sequence[str], planned: Sequence[str], reference: str) -> dict[str, Style]:
    """The best arms and the reference, in the order of the plan, each with its style."""
    chosen = {*ranked[:MOST_SHOWN], *([reference] if reference in ranked else [])}
    shown = [arm for arm in planned if arm in chosen]
    return {arm: style_of(index) for index, arm in enumerate(shown)}


def done(cells: Sequence[CellResult], arm: str | None = None) -> Iterator[CellResult]:
    """The finished cells of an arm, or of all, in order.

    Each is a copy: what is read from its folder goes when the caller lets it go.
    """
    for cell in cells:
        if cell.state == "done" and arm in (None, cell.arm):
            yield replace(cell)


def mean(values: Sequence[float]) -> float:
    """Of one value or more."""
    return sum(values) / len(values)
