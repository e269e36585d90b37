"""What is known of all rows after one pass over them: hash, ranges, moments, missing cells."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.identity import bytes_of, rows_digest


@final
@dataclass(frozen=True, eq=False)
class RowSummary:
    """Hash, ranges and moments of rows, flattened to columns.

    Attributes:
        sha256: Hash of the rows, as :func:`~ppl_vae.identity.hash_rows` gives it.
        digest: State of a hash of their shape and values, which another may go on from.
        low: Least value of each column, missing cells left out; infinity where there is none.
        high: Greatest value of each column, likewise.
        missing: Number of missing cells (NaN) of each column.
        is_binary: Whether every value is 0 or 1.
        has_fractions: Whether a value lies strictly between 0 and 1.
        bad_rows: Number of rows with a NaN or infinite value, and that of the first, or None.
        infinite_rows: The same of infinite values.
        mean: Mean of each column in double precision; 0 of a column without values.
        variance: Variance of each column, divided by the number of values.
    """

    sha256: str
    digest: "hashlib._Hash"
    low: Float[Tensor, " features"]
    high: Float[Tensor, " features"]
    missing: Int[Tensor, " features"]
    is_binary: bool
    has_fractions: bool
    bad_rows: tuple[int, int | None]
    infinite_rows: tuple[int, int | None]
    mean: Float[Tensor, " features"]
    variance: Float[Tensor, " features"]

    @property
    def varies(self) -> Tensor:
        """Whether a column holds different values."""
        return self.low < self.high


def summarize(parts: Iterable[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> RowSummary:
    """Summarise rows in one pass.

    Args:
        parts: The rows in order, some at a time.
        shape: Of all.
        dtype: Of all.
    """
    values = _Values(torch.Size(shape[1:]).numel())
    hashed, digest = rows_digest(dtype, shape), hashlib.sha256(repr(tuple(shape)).encode())
    # In threads, as hashing takes as long as all else and leaves Python free.
    with ThreadPoolExecutor(2, thread_name_prefix="hash") as pool:
        for part in parts:
            content = bytes_of(part)
            hashing = [pool.submit(each.update, content) for each in (hashed, digest)]
            values.add(part.reshape(len(part), -1))
            for each in hashing:
                each.result()
    count = (values.rows - values.missing).clamp(min=1)
    shifted = values.total / count
    return RowSummary(
        hashed.hexdigest(),
        digest,
        values.low,
        values.high,
        values.missing,
        values.is_binary,
        values.has_fractions,
        values.bad,
        values.infinite,
        torch.where(values.missing < values.rows, values.shift.double() + shifted, 0.0),
        (values.squares / count - shifted.square()).clamp(min=0),
    )


class _Values:
    """Running ranges and sums; the sums are of values less a constant, so that they keep digits."""

    def __init__(self, features: int) -> None:
        self.rows, self.is_binary, self.has_fractions = 0, True, False
        self.low = torch.full((features,), torch.inf)
        self.high = -self.low
        self.missing = torch.zeros(features, dtype=torch.long)
        self.bad: tuple[int, int | None] = (0, None)
        self.infinite: tuple[int, int | None] = (0, None)
        self.total = torch.zeros(features, dtype=torch.double)
        self.squares = self.total.clone()
        self.shift: Tensor

    def add(self, x: Tensor) -> None:
        """Take in some rows, shape (rows, features)."""
        x = x if x.is_floating_point() else x.double()
        if not self.rows:
            # Near the mean: what is left has no large part to cancel.
            self.shift = x.double().nanmean(0).nan_to_num(0.0, 0.0, 0.0).to(x.dtype)
            self.low, self.high = self.low.to(x), self.high.to(x)
        low, high = x.amin(0), x.amax(0)
        # NaN and infinity show in the range: the slower looks are for rows that have some.
        present = x
        if not bool((low.isfinite() & high.isfinite()).all()):
            low, high, present = self._add_with_gaps(x)
        self.low, self.high = self.low.minimum(low), self.high.maximum(high)
        # One number that decides is enough: most data are looked at here only at their start.
        if self.is_binary:
            self.is_binary = bool(((x == 0) | (x == 1) | x.isnan()).all())
        if not (self.is_binary or self.has_fractions):
            self.has_fractions = bool(((x > 0) & (x < 1)).any())
        away = present - self.shift
        # In the data's own type within a block of rows, in double between blocks: a matrix product
        # is several times as fast as a reduction.
        for block in away.split(_BLOCK):
            ones = block.new_ones(1, len(block))
            self.total += (ones @ block)[0]
            self.squares += (ones @ block.square_())[0]
        self.rows += len(x)

    def _add_with_gaps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count what is missing or infinite; the ranges without, and the rows filled."""
        missing, infinite = x.isnan(), x.isinf()
        self.missing += missing.sum(0)
        self.bad = _counted(self.bad, missing | infinite, self.rows)
        self.infinite = _counted(self.infinite, infinite, self.rows)
        low = x.masked_fill(missing, torch.inf).amin(0)
        high = x.masked_fill(missing, -torch.inf).amax(0)
        return low, high, torch.where(missing, self.shift, x)


_BLOCK = 512
"""Rows summed in their own type."""


def _counted(before: tuple[int, int | None], bad: Tensor, start: int) -> tuple[int, int | None]:
    rows = bad.any(1)
    count, first = before
    if first is None and bool(rows.any()):
        first = start + int(rows.nonzero()[0])
    return count + int(rows.sum()), first
