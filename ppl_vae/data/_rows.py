"""Rows that are read as they are asked for, and the few operations that all rows have."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._summary import RowSummary, summarize

IN_MEMORY = 2**30
"""Largest size in bytes, as single precision, of rows that a data set holds in memory."""
AHEAD = 2
"""Batches that each thread reads before they are asked for."""
_CHUNK = 2**20
"""Cells of a chunk: some megabytes, so that its temporaries stay near the cache."""


class LazyRows(ABC):
    """Rows of any number, of which no more are in memory than are asked for.

    Where rows are taken, trained on or evaluated, these serve like a tensor, of which they have
    ``shape``, ``dtype``, ``len`` and indexing; an index gives a tensor of the rows read then. What
    is known of all rows is in :attr:`summary`, which reads each row once.

    Args:
        shape: ``(num_data, *event)``.
        dtype: Type of the tensors that are read.
        readers: Number of threads that may read at once.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, *, readers: int = 1) -> None:
        self.readers = readers
        self.shape, self.dtype = torch.Size(shape), dtype
        self.device = torch.device("cpu")

    @abstractmethod
    def read(self, index: Tensor) -> Tensor:
        """The rows of these numbers, in their order, shape ``(len(index), *event)``."""

    @final
    def __len__(self) -> int:
        return self.shape[0]

    @final
    def __getitem__(self, which: int | slice | Tensor) -> Tensor:
        if isinstance(which, int):
            return self.read(torch.tensor([range(len(self))[which]]))[0]
        if isinstance(which, slice):
            return self.read(torch.arange(*which.indices(len(self))))
        return self.read(which.cpu())

    @property
    def ndim(self) -> int:
        """Number of dimensions, that of the rows among them."""
        return len(self.shape)

    def dim(self) -> int:
        """Number of dimensions, as a tensor has it."""
        return self.ndim

    def numel(self) -> int:
        """Number of values of all rows."""
        return self.shape.numel()

    @cached_property
    def summary(self) -> RowSummary:
        """Hash, ranges and moments of all rows, from one pass over them."""
        return summarize(row_chunks(self), self.shape, self.dtype)


RowTensor: TypeAlias = Tensor | LazyRows
"""Rows in memory, or read as they are asked for."""


@final
class ArrayRows(LazyRows):
    """Rows of a NumPy array, which may be a memory map: nothing is copied but what is read.

    Args:
        array: Shape ``(num_data, *event)``, of a type of numbers that torch has.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        # Torch takes no arrays of the other byte order.
        self._native = array.dtype.newbyteorder("=")
        super().__init__(array.shape, torch.from_numpy(np.empty(0, self._native)).dtype)

    def read(self, index: Tensor) -> Tensor:
        """The rows, copied."""
        taken = np.take(self._array, index.numpy(), axis=0)
        return torch.from_numpy(taken.astype(self._native, copy=False))


@final
class SelectedRows(LazyRows):
    """Some rows of others, in an order of their own.

    Args:
        base: All rows.
        index: Their numbers.
    """

    def __init__(self, base: RowTensor, index: Tensor) -> None:
        readers = base.readers if isinstance(base, LazyRows) else 1
        super().__init__((len(index), *base.shape[1:]), base.dtype, readers=readers)
        self.base: RowTensor = base
        self.index = index

    def read(self, index: Tensor) -> Tensor:
        """The rows, read from all."""
        return self.base[self.index[index]].cpu()


@final
class ConvertedRows(LazyRows):
    """Rows made of others batch by batch, as they are read.

    Args:
        base: The others.
        convert: Makes rows of those that were read, given their numbers.
        dtype: Type of what it makes.
    """

    def __init__(
        self, base: RowTensor, convert: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
    ) -> None:
        readers = base.readers if isinstance(base, LazyRows) else 1
        super().__init__(tuple(base.shape), dtype, readers=readers)
        self._base, self._convert = base, convert

    def read(self, index: Tensor) -> Tensor:
        """The rows, read and converted."""
        return self._convert(self._base[index], index)


def most_in_memory(features: int) -> int:
    """Largest number of rows of a data set that is held in memory."""
    return max(1, IN_MEMORY // (4 * features))


def settled(x: RowTensor) -> RowTensor:
    """The rows, in memory where they are few enough: those of a data set's part are read once."""
    few = x.numel() * x.dtype.itemsize <= IN_MEMORY
    return x[:] if isinstance(x, LazyRows) and few else x


def row_chunks(x: RowTensor, rows: int | None = None) -> Iterator[Tensor]:
    """All rows in order, some at a time.

    Args:
        x: The rows.
        rows: How many at a time; None: a few megabytes.
    """
    rows = rows or max(1, _CHUNK // max(1, x.shape[1:].numel()))
    if isinstance(x, Tensor):
        # Views: nothing is copied. Of no rows torch would give one chunk of none.
        yield from x.split(rows) if len(x) else ()
        return
    index = (torch.arange(i, min(i + rows, len(x))) for i in range(0, len(x), rows))
    yield from (part for _, part in read_ahead(x, index))


def read_ahead(
    x: RowTensor, batches: Iterable[Tensor], *, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches of rows; a thread reads the next ones while the caller works on the last.

    Args:
        x: The rows; those in memory are taken where they are, without a thread.
        batches: Numbers of the rows of each batch.
        pin: Whether to read into pinned memory, from where a copy to a GPU need not block.

    Yields:
        The numbers of each batch and its rows.
    """
    if isinstance(x, Tensor):
        # A third of the time of x[index], which takes any index in any dimension.
        yield from ((index, x.index_select(0, index)) for index in batches)
        return

    def read(index: Tensor) -> Tensor:
        rows = x.read(index)
        return rows.pin_memory() if pin else rows

    waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
    pool = ThreadPoolExecutor(x.readers, thread_name_prefix="rows")
    try:
        for index in batches:
            waiting.append((index, pool.submit(read, index)))
            if len(waiting) > AHEAD * x.readers:
                first, rows = waiting.popleft()
                yield first, rows.result()
        while waiting:
            first, rows = waiting.popleft()
            yield first, rows.result()
    finally:
        # Also where the caller takes no more batches: what was not begun is left.
        pool.shutdown(cancel_futures=True)


def load(x: RowTensor, device: torch.device) -> Tensor:
    """All rows on a device, sent there some at a time."""
    if isinstance(x, Tensor):
        return x.to(device)
    rows, start = torch.empty(x.shape, dtype=x.dtype, device=device), 0
    for part in row_chunks(x):
        rows[start : start + len(part)] = part
        start += len(part)
    return rows


def select(x: RowTensor, which: slice | Tensor) -> RowTensor:
    """Some of the rows; of rows that are read as they are asked for, nothing is read yet."""
    if isinstance(x, Tensor):
        return x[which]
    index = torch.arange(*which.indices(len(x))) if isinstance(which, slice) else which
    # Selections of selections are one, or a chain of them would be followed for each batch.
    if isinstance(x, SelectedRows):
        return SelectedRows(x.base, x.index[index])
    return SelectedRows(x, index)


def missing_by_column(x: RowTensor) -> Tensor:
    """Number of missing cells (NaN) of each column, shape (features,)."""
    if isinstance(x, LazyRows):
        return x.summary.missing
    counts = torch.zeros(x.shape[1:].numel(), dtype=torch.long)
    for part in row_chunks(x):
        # The greatest value is NaN where one is: cells are counted only where some are missing.
        if bool(part.amax().isnan()):
            counts += part.isnan().reshape(len(part), -1).sum(0).cpu()
    return counts


def bad_rows(x: RowTensor, *, allow_missing: bool = False) -> tuple[int, int | None]:
    """Number of rows with a NaN or infinite value, and that of the first; None if there is none.

    Args:
        x: The rows.
        allow_missing: Whether NaN, a missing cell, is none of these.
    """
    if isinstance(x, LazyRows):
        return x.summary.infinite_rows if allow_missing else x.summary.bad_rows
    count, first, start = 0, None, 0
    for part in row_chunks(x):
        # One look at the extremes tells of NaN and infinity, and is the quickest there is.
        if not all(bool(end.isfinite()) for end in torch.aminmax(part)):
            bad = (part.isinf() if allow_missing else ~part.isfinite()).reshape(len(part), -1)
            rows = bad.any(1)
            count += int(rows.sum())
            if first is None and bool(rows.any()):
                first = start + int(rows.nonzero()[0])
        start += len(part)
    return count, first


def column_range(x: RowTensor) -> Tensor:
    """Least and greatest value of each column, NaN left out, shape (2, features).

    Infinity and its negative where a column holds nothing.
    """
    if isinstance(x, LazyRows):
        return torch.stack([x.summary.low, x.summary.high])
    ends = []
    for part in row_chunks(x):
        # Missing cells are put beyond every value: NaN would be the minimum of its column.
        gaps = part.isnan() if bool(part.amax().isnan()) else None
        low = part if gaps is None else part.masked_fill(gaps, torch.inf)
        high = part if gaps is None else part.masked_fill(gaps, -torch.inf)
        ends.append(torch.stack([low.amin(0), high.amax(0)]))
    low, high = torch.stack(ends).unbind(1)
    return torch.stack([low.amin(0), high.amax(0)])


def missing_cells(x: RowTensor) -> int:
    """Number of missing cells (NaN) of all rows."""
    return int(missing_by_column(x).sum())


def is_binary(x: RowTensor) -> bool:
    """Whether every value is 0 or 1, missing cells apart."""
    if isinstance(x, LazyRows):
        return x.summary.is_binary
    return all(bool(((part == 0) | (part == 1) | part.isnan()).all()) for part in row_chunks(x))


def filled(x: RowTensor, values: Tensor) -> RowTensor:
    """The rows with a value for each column in place of its missing cells.

    Args:
        x: The rows.
        values: One value a column.
    """
    if not missing_cells(x):
        return x
    return converted(x, lambda rows: torch.where(rows.isnan(), values, rows))


def converted(x: RowTensor, convert: Callable[[Tensor], Tensor]) -> RowTensor:
    """Rows made of others, of the same shape and type; of lazy ones as they are read."""
    if isinstance(x, LazyRows):
        return ConvertedRows(x, lambda rows, _: convert(rows), x.dtype)
    return convert(x)


def in_memory(x: RowTensor, why: str) -> Tensor:
    """All rows as one tensor.

    Args:
        x: The rows.
        why: What needs all of them, for the message, such as "an exemplar prior".

    Raises:
        ValueError: If they are too many.
    """
    if isinstance(x, Tensor):
        return x
    size = x.numel() * x.dtype.itemsize
    if size > IN_MEMORY:
        raise ValueError(
            f"{why} needs all rows in memory, and these are {size / 1e9:.1f} GB, read as they are "
            f"needed: give fewer rows (at most {IN_MEMORY / 1e9:.1f} GB), or take another."
        )
    return x[:]
