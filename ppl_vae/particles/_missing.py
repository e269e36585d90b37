"""Missing cells, NaN in x, that a guide or a likelihood does not take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.data import RowTensor, row_chunks
from ppl_vae.names import plural
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._run import SiteRun
from ppl_vae.particles._sites import log_densities
from ppl_vae.randomness import seeded

_FEW = 1000
"""Rows among which values are looked for that stand for missing ones."""
_REMEDIES = {
    "guide": "give the guide's network ObservedInput",
    "likelihood": "put the decoder into ObservedDecoder",
}


@contextmanager
def missing_named(
    programs: Programs, x: RowTensor, prepare: Callable[[Tensor], Tensor], what: str
) -> Iterator[None]:
    """Name missing cells as the cause of what fails inside, where they are it.

    They are looked for after a failure only: programs that take them, or are not given any, cost
    nothing more.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        refusal = refused_missing(programs, x, prepare, what)
        if refusal is None:
            raise
        raise ValueError(refusal) from error


def refused_missing(
    programs: Programs, x: RowTensor, prepare: Callable[[Tensor], Tensor], what: str
) -> str | None:
    """A line that says which programs do not take the NaN in x; None where all do.

    The first row with NaN is tried beside the same row with values of other rows in their place: a
    program that takes the one and fails, or has a NaN density, on the other is it.

    Args:
        programs: Model and guide.
        x: All rows.
        prepare: Makes of some rows what the programs get, where to compute.
        what: Name of the data for the message.
    """
    if not x.dtype.is_floating_point or (found := _first_missing(x)) is None:
        return None
    count, first = found
    # A search must not end in an error of its own.
    with seeded(0), torch.no_grad(), suppress(RuntimeError, TypeError, IndexError, ValueError):
        refusing = _refusing(programs, x, first, prepare)
        if refusing:
            remedies = " and ".join(_REMEDIES[whose] for whose in refusing)
            return (
                f"{what} has NaN in {plural(count, 'row')}, the first in row {first}, and the "
                f"{' and the '.join(refusing)} {'do' if refusing[1:] else 'does'} not take missing "
                f"cells: {remedies} (of a run, allow_missing=True), fill the cells in, or leave "
                "the rows out."
            )
    return None


def _first_missing(x: RowTensor) -> tuple[int, int] | None:
    """Number of rows with NaN, and that of the first."""
    count, first, start = 0, None, 0
    for part in row_chunks(x):
        rows = part.isnan().reshape(len(part), -1).any(1)
        if first is None and bool(rows.any()):
            first = start + int(rows.nonzero()[0])
        count, start = count + int(rows.sum()), start + len(part)
    return None if first is None else (count, first)


def _refusing(
    programs: Programs, x: RowTensor, first: int, prepare: Callable[[Tensor], Tensor]
) -> list[str]:
    """The programs that do not take the first row with NaN, and take the same row without."""
    row, rows = x[first : first + 1], slice(first, first + 1)
    # An element of each column, or 0: a value that the likelihood takes.
    values = x[:_FEW].nanmedian(0, keepdim=True).values.nan_to_num(0.0)
    dtype = programs.modules().dtype or x.dtype
    broken, filled = (prepare(each.to(dtype)) for each in (row, row.where(~row.isnan(), values)))
    modules = programs.modules(filled)
    nesting = max(programs.max_plate_nesting, modules.max_plate_nesting)
    programs = replace(programs, max_plate_nesting=nesting).rows(rows)
    runs: dict[str, Callable[[Tensor], SiteRun]] = {}
    with modules.evaluating():
        latents: dict[str, Tensor] = {}
        if programs.guide is not None:
            latents = programs.run_guide(filled, 1).latents
            runs["guide"] = lambda x: programs.run_guide(x, 1)
        runs["likelihood"] = lambda x: programs.run_model(x, 1, latents)
        return [
            whose
            for whose, run in runs.items()
            if _has_densities(run, filled, programs) and not _has_densities(run, broken, programs)
        ]


def _has_densities(run: Callable[[Tensor], SiteRun], x: Tensor, programs: Programs) -> bool:
    """Whether a program runs on some rows, and its log-densities are numbers."""
    try:
        densities = log_densities(run(x), programs.num_dims).values()
    except (ValueError, RuntimeError):
        return False
    return not any(bool(value.isnan().any()) for value in densities)
