"""How often the model is run: what training costs, whatever the step or the objective."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final


@final
@dataclass
class EvaluationCount:
    """Decoder evaluations so far.

    Attributes:
        rows: Particles times batch, summed over the draws that ran the model.
    """

    rows: int = 0


_COUNT: ContextVar[EvaluationCount | None] = ContextVar("evaluations", default=None)


@contextmanager
def count_evaluations() -> Iterator[EvaluationCount]:
    """Count the decoder evaluations of every draw made inside.

    An inner context keeps its own count and the outer one does not see it, so that a look at the
    programs can be left out of what training costs. Nothing waits for the device.
    """
    count = EvaluationCount()
    token = _COUNT.set(count)
    try:
        yield count
    finally:
        _COUNT.reset(token)


def add_evaluations(rows: int) -> None:
    """Add the rows of one run of the model."""
    count = _COUNT.get()
    if count is not None:
        count.rows += rows
