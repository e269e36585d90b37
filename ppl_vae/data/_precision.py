"""Columns of numbers: their values in single precision, their moments, whether they vary."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LOST = 1e-3
"""Largest rounding error of a column, in units of its standard deviation, that is accepted."""
_CENTRED = 1e-4
"""Largest rounding error, in the same units, of a column that is not centred."""
_KEPT = 0.9
"""Share of different whole numbers that must stay different."""
_BLOCK = 64
"""Columns whose copies in double precision are held at once."""
_ROUNDING = 10
"""Spread, in rounding errors of the mean, below which a column is constant."""


def find_offsets(
    values: np.ndarray,
    what: str,
    names: Sequence[str] | None = None,
    may_shift: Sequence[bool] | None = None,
) -> tuple[float, ...] | None:
    """Constants to subtract from the columns before they are rounded to single precision.

    A density does not change when a constant is subtracted, but the digits that tell one value
    from another do: seconds since 1970 differ in digits that single precision does not have.

    Args:
        values: Cells, shape (rows, columns), of any type of numbers.
        what: What they are, for messages.
        names: Names of the columns, or None to count them from 1.
        may_shift: Whether a column may be shifted, which a count may not; None: all may.

    Returns:
        A constant for each column, 0 for most; None where none needs one.

    Raises:
        ValueError: If a column that may not be shifted, or even a shifted one, would lose its
            values; names it and the remedy.
    """
    # Half and single precision, bytes and booleans lose nothing.
    if np.can_cast(values.dtype, np.float32):
        return None
    offsets = np.zeros(values.shape[1])
    for start in range(0, values.shape[1], _BLOCK):
        block = values[:, start : start + _BLOCK]
        for place in np.flatnonzero(_may_lose(block)):
            column = start + int(place)
            name = f"column {column + 1}" if names is None else f"column {names[column]!r}"
            shift = may_shift is None or may_shift[column]
            offsets[column] = _offset(values[:, column], f"{what}: {name}", shift=shift)
    return tuple(offsets.tolist()) if offsets.any() else None


def to_single(values: np.ndarray, offsets: Sequence[float] | None) -> np.ndarray:
    """The values less the constants, as float32; too large ones become infinite."""
    with np.errstate(over="ignore"):
        if offsets is not None:
            # In double, before the digits that the subtraction saves are rounded away.
            values = values.astype(np.float64) - np.asarray(offsets)
        return np.array(values, dtype=np.float32, order="C")


def column_means(data: Float[Tensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Means of the columns, NaN left out; 0 where a column holds nothing."""
    return data.nanmean(0).nan_to_num(0.0)


def column_variances(data: Float[Tensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Variances of the columns, NaN left out; 0 where a column holds nothing."""
    return (data - column_means(data)).square().nanmean(0).nan_to_num(0.0)


def column_varies(data: Float[Tensor, "num_data features"]) -> Bool[Tensor, " features"]:
    """Whether a column holds different values; one with none, or with equal ones, does not.

    The mean of equal numbers is not exactly that number: a spread within the rounding error of the
    mean is none.
    """
    error = _ROUNDING * torch.finfo(data.dtype).eps * column_means(data).abs()
    return column_variances(data) > error.square()


def standard_moments(
    data: Float[Tensor, "num_data features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Means and standard deviations to standardise by, computed in double; 1 for a constant."""
    exact = data.double()
    # Asked of the data in their own type: its rounding decides whether a column varies.
    scale = torch.where(column_varies(data), column_variances(exact).sqrt(), 1.0)
    return column_means(exact).to(data.dtype), scale.to(data.dtype)


def _may_lose(block: np.ndarray) -> np.ndarray:
    """Whether a column's rounding errors are large: a fast look at many columns at once.

    Of integers any error counts. :func:`_offset` then decides.
    """
    exact = block.astype(np.float64)
    error = _rounding_error(exact).max(0, initial=0.0)
    finite = np.where(np.isfinite(exact), exact, np.nan)
    integer = (np.isnan(finite) | (finite == np.round(finite))).all(0)
    with np.errstate(over="ignore", invalid="ignore"):
        # A column without a finite value has mean 0.
        mean = np.nansum(finite, 0) / np.maximum((~np.isnan(finite)).sum(0), 1)
        # In two passes: the mean square less the squared mean would cancel where values are large.
        spread = np.sqrt(np.nansum((finite - mean) ** 2, 0) / len(finite))
    may_lose: np.ndarray = (error > 0) & (integer | (error > _CENTRED * spread))
    return may_lose


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
