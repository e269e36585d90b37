"""Columns of numbers: their values in single precision, their moments, whether they vary."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.data._rows import LazyRows, RowTensor

_LOST = 1e-3
"""Largest rounding error of a column, in units of its standard deviation, that is accepted."""
_CENTRED = 1e-4
"""Largest rounding error, in the same units, of a column that is not centred."""
_KEPT = 0.9
"""Share of different whole numbers that must stay different."""
_BLOCK = 64
"""Columns whose temporaries are held at once."""
_CELLS = 2**20
"""Cells of an array that are looked at together."""
_ROUNDING = 10
"""Spread, in rounding errors of the mean, below which a column is constant."""


def find_offsets(
    arrays: Sequence[np.ndarray],
    what: str,
    names: Sequence[str] | None = None,
    may_shift: Sequence[bool] | None = None,
    *,
    sampled: bool = False,
) -> tuple[float, ...] | None:
    """Constants to subtract from the columns before they are rounded to single precision.

    A density does not change when a constant is subtracted, but the digits that tell one value
    from another do: seconds since 1970 differ in digits that single precision does not have. One
    pass finds the columns that may lose values; :func:`_offset` then decides.

    Args:
        arrays: Cells, each of shape (rows, columns), of any type of numbers.
        what: What they are, for messages.
        names: Names of the columns, or None to count them from 1.
        may_shift: Whether a column may be shifted, which a count may not; None: all may.
        sampled: Whether these columns are judged by at most a million values each, taken evenly,
            as those of arrays too large for memory; else by all.

    Returns:
        A constant for each column, 0 for most; None where none needs one.

    Raises:
        ValueError: If a column that may not be shifted, or even a shifted one, would lose its
            values; names it and the remedy.
    """
    # Half and single precision, bytes and booleans lose nothing.
    if all(np.can_cast(x.dtype, np.float32) for x in arrays):
        return None
    width = arrays[0].shape[1]
    offsets = np.zeros(width)
    step = 1 + sum(map(len, arrays)) // _CELLS if sampled else 1
    for column in np.flatnonzero(_may_lose(arrays)).tolist():
        name = f"column {column + 1}" if names is None else f"column {names[column]!r}"
        some = np.concatenate([x[::step, column] for x in arrays])
        shift = may_shift is None or may_shift[column]
        offsets[column] = _offset(some, f"{what}: {name}", shift=shift)
    return tuple(offsets.tolist()) if offsets.any() else None


def _may_lose(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Whether a column's rounding errors are large, by one pass; of integers any error counts."""
    width = arrays[0].shape[1]
    error, integer = np.zeros(width), np.ones(width, bool)
    count, mean, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    rows = max(1, _CELLS // width)
    for part in (x[i : i + rows] for x in arrays for i in range(0, len(x), rows)):
        exact = part.astype(np.float64)
        error = np.maximum(error, _rounding_error(exact).max(0, initial=0.0))
        finite = np.where(np.isfinite(exact), exact, np.nan)
        integer &= (np.isnan(finite) | (finite == np.round(finite))).all(0)
        # Sums of squares about means of parts, put together by the distances of the means (Chan,
        # Golub and LeVeque, 1983): squares of large values would cancel.
        n = (~np.isnan(finite)).sum(0)
        total = np.maximum(count + n, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            # A column without a finite value has mean 0.
            at = np.nansum(finite, 0) / np.maximum(n, 1)
            squares += np.nansum((finite - at) ** 2, 0)
            squares += (at - mean) ** 2 * count * n / total
            mean, count = mean + (at - mean) * n / total, count + n
    spread = np.sqrt(squares / sum(map(len, arrays)))
    may_lose: np.ndarray = (error > 0) & (integer | (error > _CENTRED * spread))
    return may_lose


def to_single(values: np.ndarray, offsets: Sequence[float] | None) -> np.ndarray:
    """The values less the constants, as float32; too large ones become infinite."""
    with np.errstate(over="ignore"):
        if offsets is not None:
            # In double, before the digits that the subtraction saves are rounded away.
            values = values.astype(np.float64) - np.asarray(offsets)
        return np.array(values, dtype=np.float32, order="C")


def column_means(data: Float[RowTensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Means of the columns, NaN left out; 0 where a column holds nothing."""
    return column_moments(data, variances=False)[0]


def column_variances(data: Float[RowTensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Variances of the columns, NaN left out; 0 where a column holds nothing."""
    return column_moments(data)[1]


def column_varies(data: Float[RowTensor, "num_data features"]) -> Bool[Tensor, " features"]:
    """Whether a column holds different values; one with none, or with equal ones, does not.

    The mean of equal numbers is not exactly that number: a spread within the rounding error of the
    mean is none.
    """
    return column_moments(data)[2]


def column_moments(
    data: Float[RowTensor, "num_data features"], *, variances: bool = True
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"], Bool[Tensor, " features"]]:
    """Means and variances of the columns, and whether they vary, NaN left out.

    Args:
        data: Rows; of those that are read as they are asked for, from their one pass.
        variances: Whether more than the means is of use; else variances of 0 are returned.
    """
    if isinstance(data, LazyRows):
        seen = data.summary
        mean, variance = seen.mean.to(data.dtype), seen.variance.to(data.dtype)
        return mean, variance, seen.varies & (variance > _tolerated(mean).square())
    means, spreads = [], []
    # A few columns at a time: temporaries of all would be as large as the data.
    # Whole vectors of a processor each, but for the last: so sums are in the order of all columns.
    ends = range(_BLOCK, data.shape[1] - _BLOCK + 1, _BLOCK)
    for block in data.tensor_split(tuple(ends), 1):
        mean = _mean(block)
        means.append(mean)
        spreads.append(_mean((block - mean).square_()) if variances else torch.zeros_like(mean))
    mean, variance = torch.cat(means), torch.cat(spreads)
    return mean, variance, variance > _tolerated(mean).square()


def _mean(block: Tensor) -> Tensor:
    """``block.nanmean(0)``, bit for bit, but quick where nothing is missing."""
    total = block.nansum(0)
    if bool(block.sum().isnan()):
        return total.div((~block.isnan()).sum(0)).nan_to_num(0.0)
    return total.div(torch.full_like(total, len(block), dtype=torch.long)).nan_to_num(0.0)


def _tolerated(mean: Tensor) -> Tensor:
    """Spread of a constant column that rounding of its mean may show."""
    return _ROUNDING * torch.finfo(mean.dtype).eps * mean.abs()


def standard_moments(
    data: Float[RowTensor, "num_data features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Means and standard deviations to standardise by, computed in double; 1 for a constant."""
    if isinstance(data, LazyRows):
        seen = data.summary
        scale = torch.where(column_varies(data), seen.variance.sqrt(), 1.0)
        return seen.mean.to(data.dtype), scale.to(data.dtype)
    exact = data.double()
    # Asked of the data in their own type: its rounding decides whether a column varies.
    scale = torch.where(column_varies(data), column_variances(exact).sqrt(), 1.0)
    return column_means(exact).to(data.dtype), scale.to(data.dtype)


def _offset(column: np.ndarray, what: str, *, shift: bool) -> float:
    """The constant that a column is shifted by: 0, or its median where it would lose values."""
    present = column[np.isfinite(column)] if column.dtype.kind == "f" else column
    before, exact = len(np.unique(present)), present.astype(np.float64)
    spread = float(exact.std()) if len(exact) else 0.0
    # One value has nothing to be told apart from.
    if before < 2 or spread == 0:
        return 0.0
    integer = bool((exact == np.round(exact)).all())

    def kept(offset: float) -> int:
        return len(np.unique((exact - offset).astype(np.float32)))

    def is_lost(offset: float, accepted: float) -> bool:
        error = float(_rounding_error(exact - offset).max(initial=0.0)) / spread
        return error > accepted or (integer and kept(offset) < _KEPT * before)

    offset = 0.0
    if shift and is_lost(offset, _CENTRED):
        # An integer offset keeps integers integers.
        offset = float(np.median(exact))
        offset = float(round(offset)) if integer else offset
    if is_lost(offset, _LOST):
        raise ValueError(
            f"{what}: {before} different values become {kept(offset)} in single precision: "
            "subtract a constant, or scale it."
        )
    return offset


def _rounding_error(exact: np.ndarray) -> np.ndarray:
    """Error of single precision; 0 where a value is not finite there."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(exact - exact.astype(np.float32).astype(np.float64))
    return np.where(np.isfinite(error), error, 0.0)
