"""Whatever holds rows, as rows in memory or rows that are read as they are asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data._dataset import Dataset
from ppl_vae.data._rows import (
    ArrayRows,
    ConvertedRows,
    LazyRows,
    RowTensor,
    most_in_memory,
    row_chunks,
    select,
)
from ppl_vae.data._spool import spool
from ppl_vae.identity import Source, hash_rows
from ppl_vae.names import first_few

RowData: TypeAlias = Any
"""Data in any form that :func:`as_rows` takes, or refuses by name."""
_BATCH = 256
"""Items of an iterable that are put together at once."""


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Data and their source, accepted wherever data are.

    Attributes:
        x: Shape ``(num_data, *event)``.
        source: In words.
    """

    x: RowTensor
    source: Source = field(default_factory=Source)

    @classmethod
    def of(cls, x: RowData, what: str = "x") -> "Rows":
        """Take the rows of ``x`` as :func:`as_rows`, with their source if it has one."""
        source = x.source if isinstance(x, Rows) else Source()
        return cls(as_rows(x, what), source)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice) -> "Rows":
        """Select rows; their source is that of all."""
        return Rows(select(self.x, which), self.source)


def as_rows(x: RowData, what: str = "x") -> RowTensor:
    """The rows that ``x`` holds, without loss.

    Tensors are taken as they are; NumPy arrays, data frames of numbers and a ``TensorDataset`` of
    one tensor become one. Memory-mapped arrays stay in their files, and items of another data set
    or loader of torch's where they are: they are read as rows are asked for; of items that are
    tuples the first element is the datum. An iterable data set is read once, into a temporary
    file. Whatever else holds data is named, with what to give in its place.

    Args:
        x: The data.
        what: What they are called where they are handed over, for messages.

    Returns:
        A tensor or :class:`LazyRows`, shape ``(num_data, *event)``, in the type of the data.

    Raises:
        TypeError: If it is nothing of the above; one line.
        ValueError: If it has no dimension, no rows or no values, complex ones, or columns that are
            no numbers.
    """
    rows = _tensor_of(x.x if isinstance(x, Rows) else x, what)
    if rows.dim() == 0:
        raise ValueError(f"{what} is one number: give a tensor, rows first.")
    if len(rows) == 0:
        raise ValueError(f"{what} holds no data: give at least one row.")
    if 0 in rows.shape:
        shape = tuple(rows.shape)
        raise ValueError(
            f"{what} has rows without values (shape {shape}): give at least one value a row."
        )
    if rows.dtype.is_complex:
        raise ValueError(
            f"{what} is complex, and models are of real numbers: give real and imaginary parts as "
            f"columns, torch.view_as_real({what}).flatten(1)."
        )
    return rows


def rows_hash(x: RowTensor) -> str:
    """Hash of the rows, as :func:`~ppl_vae.identity.hash_rows` gives it for a tensor of them."""
    return x.summary.sha256 if isinstance(x, LazyRows) else hash_rows(x)


def require_lossless(x: RowTensor, dtype: torch.dtype, what: str = "x") -> RowTensor:
    """The rows in another type, if that loses nothing; of lazy ones each is checked when read.

    Raises:
        ValueError: If values would be rounded; says in which type to give them.
    """
    if x.dtype == dtype:
        return x
    if isinstance(x, LazyRows):
        return ConvertedRows(x, lambda read, _: _lossless(read, dtype, what), dtype)
    return _lossless(x, dtype, what)


def _lossless(x: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    cast = x.to(dtype)

    def is_same(part: Tensor, cast: Tensor) -> bool:
        back = cast.to(part.dtype)
        # NaN, a missing cell, differs from itself and is not rounded.
        return bool(((back == part) | (back != back) & (part != part)).all())

    # Some at a time: what tells rows apart would be as large as they are.
    if all(
        is_same(part, whole) for part, whole in zip(row_chunks(x), row_chunks(cast), strict=True)
    ):
        return cast
    method = {torch.float32: "float()", torch.float64: "double()"}.get(dtype, f"to({dtype})")
    ours, theirs = (str(each).removeprefix("torch.") for each in (x.dtype, dtype))
    raise ValueError(
        f"{what} is {ours} and the model {theirs}, which would round it: give a model of "
        f"that precision (module.to({x.dtype})), or, if what is lost does not matter, "
        f"{what}.{method}."
    )


def _tensor_of(x: Any, what: str) -> RowTensor:
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, LazyRows | np.memmap):
        return x if isinstance(x, LazyRows) else ArrayRows(x)
    if isinstance(x, Dataset):
        raise TypeError(f"{what} is a whole data set with its splits: give data.train, or another.")
    if isinstance(x, TensorDataset) and len(x.tensors) == 1:
        return x.tensors[0].detach()
    if isinstance(x, np.ndarray) or hasattr(x, "to_numpy"):
        array = x if isinstance(x, np.ndarray) else _numbers_of(x, what)
        try:
            if array.nbytes > 4 * most_in_memory(1) and array.flags.carray:
                return torch.from_numpy(array)
            # A copy of what is not large: torch warns of arrays that cannot be written to, and rows
            # of a data frame lie apart in memory, which makes other rounding.
            return torch.from_numpy(np.array(array, order="C"))
        except TypeError as error:
            raise TypeError(
                f"{what} is an array of {array.dtype}: give one of numbers, such as float32, rows "
                "first."
            ) from error
    if isinstance(x, DataLoader | TorchDataset):
        return rows_of_torch(x, what)
    kind = type(x).__name__
    raise TypeError(
        f"{what} is a {kind}: give a tensor, rows first; torch.as_tensor of the numbers."
    )


def _numbers_of(x: Any, what: str) -> Any:
    """The values of a data frame or a series, all numbers."""
    dtypes = getattr(x, "dtypes", None)
    if hasattr(x, "columns") and dtypes is not None:
        # The kinds of pandas's types: text ("O") and dates have no numbers.
        words = [
            str(n) for n, t in zip(x.columns, dtypes, strict=True)
            if getattr(t, "kind", "O") not in "biuf"
        ]  # fmt: skip
        if words:
            raise ValueError(
                f"{what} has {len(words)} columns that are no numbers ({first_few(words, 5)}): "
                "encode them with encode_table, or leave them out."
            )
    return np.asarray(x.to_numpy())


@final
class DatasetRows(LazyRows):
    """Rows of a ``torch.utils.data.Dataset``: its items, or the first element of each.

    Args:
        dataset: Data set with ``__getitem__`` and ``__len__``.
        collate: Makes a batch of a list of items, rows first.
        readers: Number of threads that ask it for items.
        what: What it is called, for messages.

    Raises:
        TypeError: If items are no numbers.
        ValueError: If an item has other values when asked for again.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[Any], Any], readers: int, what: str
    ) -> None:
        self._dataset, self._collate, self._what = dataset, collate, what
        if not len(dataset):
            raise ValueError(f"{what} holds no data: give at least one row.")
        first, again = (self._rows([0]) for _ in range(2))
        if not torch.equal(first.nan_to_num(), again.nan_to_num()):
            raise ValueError(
                f"{what} gives another item 0 each time it is asked, so that no number could be "
                "computed again: give the items without random changes, and these as transform=."
            )
        super().__init__((len(dataset), *first.shape[1:]), first.dtype, readers=max(1, readers))

    def read(self, index: Tensor) -> Tensor:
        """The rows of these items."""
        rows = self._rows(index.tolist())
        if (rows.shape[1:], rows.dtype) != (self.shape[1:], self.dtype):
            raise ValueError(
                f"{self._what}: items are {self.dtype} of shape {tuple(self.shape[1:])} and, among "
                f"{index[:3].tolist()} and others, {rows.dtype} of shape {tuple(rows.shape[1:])}: "
                "give all alike."
            )
        return rows

    def _rows(self, index: list[int]) -> Tensor:
        # Torch's own name for asking for many at once, where a data set can do it faster.
        many = getattr(self._dataset, "__getitems__", None)
        items = [self._dataset[i] for i in index] if many is None else many(index)
        return _first(self._collate(items), self._what)


def rows_of_torch(x: TorchDataset[Any] | DataLoader[Any], what: str) -> LazyRows:
    """The rows of a data set or a loader of torch's.

    Items of a data set are read as they are asked for; an iterable one, which has no order to ask
    in, is read once into a temporary file. A loader gives its data set, the function that puts
    items together, and its number of workers, as that of the threads that read; batches and their
    order are those of whoever reads the rows.

    Args:
        x: The data set or the loader.
        what: What it is called, for messages.

    Raises:
        TypeError: If items are no numbers.
        ValueError: If there are none, they differ in shape, or the loader draws its items.
    """
    loader = x if isinstance(x, DataLoader) else None
    dataset = x if loader is None else loader.dataset
    if isinstance(dataset, IterableDataset):
        batches = DataLoader(dataset, _BATCH) if loader is None else loader
        return ArrayRows(spool(_arrays(batches, what), what))
    if loader is None:
        return DatasetRows(dataset, default_collate, 1, what)
    # Each datum once an epoch is what objectives and estimators take for granted.
    for sampler in (loader.sampler, loader.batch_sampler):
        usual = type(sampler) in (SequentialSampler, RandomSampler, BatchSampler, type(None))
        if not usual or getattr(sampler, "replacement", False):
            raise ValueError(
                f"{what} is a DataLoader with a {type(sampler).__name__} that draws its items, and "
                "each datum counts once here: give its data set, or one of the items to be used "
                "(torch.utils.data.Subset)."
            )
    # Without batches of its own a loader converts each item, and puts none together.
    collate = default_collate if loader.batch_size is None else loader.collate_fn
    return DatasetRows(dataset, collate, loader.num_workers, what)


def _arrays(batches: DataLoader[Any], what: str) -> Iterator[np.ndarray]:
    for batch in batches:
        rows = _first(batch, what)
        # NumPy has no bfloat16, which single precision holds.
        yield (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()


def _first(batch: Any, what: str) -> Tensor:
    """Rows of a batch: itself, or its first element where labels come with it."""
    rows = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
    if isinstance(rows, np.ndarray):
        rows = torch.from_numpy(rows)
    if not isinstance(rows, Tensor) or rows.dim() == 0:
        raise TypeError(
            f"{what} has items of {type(rows).__name__}: give a data set whose items are tensors, "
            "or tuples of which the first is the datum (collate_fn= of a DataLoader makes them)."
        )
    return rows.detach().cpu()
