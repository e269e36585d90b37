"""Data in memory, however they are held, as one tensor with the rows first."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data._dataset import Dataset
from ppl_vae.identity import Source

RowData: TypeAlias = Any
"""Data as they are handed over: whatever :func:`as_rows` takes, or names."""


@final
@dataclass(frozen=True)
class Rows:
    """Data, and where they came from; taken wherever data are.

    Attributes:
        x: Shape ``(num_data, *event)``.
        source: In words.
    """

    x: Tensor
    source: Source = field(default_factory=Source)

    @classmethod
    def of(cls, x: RowData, what: str = "x") -> "Rows":
        """The rows that ``x`` holds, as :func:`as_rows`, with their source where it tells one."""
        source = x.source if isinstance(x, Rows) else Source()
        return cls(as_rows(x, what), source)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice) -> "Rows":
        """Some of the rows; their source is that of all."""
        return Rows(self.x[which], self.source)


def as_rows(x: RowData, what: str = "x") -> Tensor:
    """The rows that ``x`` holds, without loss.

    Tensors are taken as they are; NumPy arrays, data frames of numbers and a ``TensorDataset`` of
    one tensor become one. Whatever else holds data is named, with what to give in its place.

    Args:
        x: The data.
        what: What they are called where they are handed over, for messages.

    Returns:
        Shape ``(num_data, *event)``, in the type of the data.

    Raises:
        TypeError: If it is nothing of the above; one line.
        ValueError: If it has no dimension or no rows, or columns that are no numbers.
    """
    rows = _tensor_of(x, what)
    if rows.dim() == 0:
        raise ValueError(f"{what} is one number: give a tensor, rows first.")
    if len(rows) == 0:
        raise ValueError(f"{what} holds no data: give at least one row.")
    return rows


def require_lossless(x: Tensor, dtype: torch.dtype, what: str = "x") -> Tensor:
    """The rows in another type, if that loses nothing.

    Raises:
        ValueError: If values would be rounded; says in which type to give them.
    """
    cast = x.to(dtype)
    back = cast.to(x.dtype)
    same = (back == x) | (back.isnan() & x.isnan()) if x.is_floating_point() else back == x
    if bool(same.all()):
        return cast
    wanted = {torch.float32: f"{what}.float()", torch.float64: f"{what}.double()"}.get(
        dtype, f"{what}.to({dtype})"
    )
    raise ValueError(
        f"{what} is {_short(x.dtype)} and the model {_short(dtype)}, which would round it: give "
        f"{wanted}, or a model of that precision (module.to({x.dtype}))."
    )


def _tensor_of(x: Any, what: str) -> Tensor:
    if isinstance(x, Rows):
        x = x.x
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, Dataset):
        raise TypeError(f"{what} is a whole data set with its splits: give data.train, or another.")
    if isinstance(x, np.ndarray):
        return _from_numpy(x, what)
    if hasattr(x, "to_numpy"):
        return _from_numpy(_numbers_of(x, what), what)
    if isinstance(x, TensorDataset) and len(x.tensors) == 1:
        return x.tensors[0].detach()
    kind = type(x).__name__
    if isinstance(x, DataLoader):
        remedy = f"torch.cat([x for x, *_ in {what}])"
    elif isinstance(x, TensorDataset):
        remedy = "the tensor of the data, such as dataset.tensors[0]"
    elif isinstance(x, TorchDataset):
        remedy = f"torch.stack([x for x, *_ in {what}])"
    else:
        remedy = "torch.as_tensor of the numbers"
    raise TypeError(f"{what} is a {kind}: give a tensor, rows first; {remedy}.")


def _from_numpy(x: Any, what: str) -> Tensor:
    try:
        # A copy: torch warns of arrays that cannot be written to, and rows of a data frame lie
        # apart in memory, which makes other rounding.
        return torch.from_numpy(np.array(x, order="C"))
    except TypeError as error:
        raise TypeError(
            f"{what} is an array of {x.dtype}: give one of numbers, such as float32, rows first."
        ) from error


def _numbers_of(x: Any, what: str) -> Any:
    """The values of a data frame or a series, all numbers."""
    dtypes = getattr(x, "dtypes", None)
    if hasattr(x, "columns") and dtypes is not None:
        # As of pandas; "O" and dates have no numbers.
        words = [
            str(n) for n, t in zip(x.columns, dtypes, strict=True)
            if getattr(t, "kind", "O") not in "biuf"
        ]  # fmt: skip
        if words:
            named = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
            raise ValueError(
                f"{what} has {len(words)} columns that are no numbers ({named}): encode them with "
                "encode_table, or leave them out."
            )
    return np.asarray(x.to_numpy())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
