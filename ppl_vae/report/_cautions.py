"""What a reader should know before believing the numbers, in groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ppl_vae.comparison import Comparison
from ppl_vae.studies import StudyResults

_MOST_LINES = 6
"""Lines of a group that are open from the start."""


@final
@dataclass(frozen=True)
class Caution:
    """Warnings of one kind; the lines after the first few are folded."""

    title: str
    lines: Sequence[str]

    @property
    def first(self) -> Sequence[str]:
        """Lines in sight."""
        return self.lines[:_MOST_LINES]

    @property
    def rest(self) -> Sequence[str]:
        """Lines folded."""
        return self.lines[_MOST_LINES:]


def cautions(results: StudyResults, comparison: Comparison | None) -> list[Caution]:
    """Of the estimates, of the statistics, of the runs; groups without a warning are left out."""
    doubtful = [] if comparison is None else comparison.warnings.items()
    notes = [] if comparison is None else comparison.notes
    groups = [
        Caution("Runs", results.warnings),
        Caution("Estimates of log p(x)", [f"{arm}: {text}" for arm, text in doubtful]),
        Caution("Statistics", notes),
    ]
    return [group for group in groups if group.lines]
