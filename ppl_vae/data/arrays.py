"""Data sets from arrays and tensors: checked, scaled, flattened, split."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ppl_vae.data.columns import Column
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.precision import find_offsets, to_single
from ppl_vae.data.schema import Conversion, Schema
from ppl_vae.data.splits import SPLIT_SEED, Splitting, split_rows

_LOG = logging.getLogger(__name__)

Array = np.ndarray | torch.Tensor
MIN_ROWS = 10


def dataset_from_array(
    x: Array,
    name: str = "array",
    *,
    feature_names: Sequence[str] | None = None,
    allow_missing: bool = False,
    splitting: Splitting | None = None,
    columns: tuple[Column, ...] | None = None,
    conversion: Conversion | None = None,
    test_rows: Callable[[Schema], torch.Tensor] | None = None,
) -> Dataset:
    """Make a data set of an array, split 80/10/10 by a permutation with a constant seed.

    A column whose values single precision cannot hold is centred first; see
    :class:`~ppl_vae.data.schema.Conversion`.

    Args:
        x: Rows first: (n,), (n, features), (n, h, w) or (n, channels, h, w). uint8 that exceeds
            1 is divided by 255; bool becomes 0 and 1.
        name: Name of the data set.
        feature_names: Names of the columns, for a table.
        allow_missing: Keep NaN, a missing cell, for a likelihood that leaves those out.
        splitting: Shares and seed of the split; None: 80/10/10, the constant seed.
        columns: What the columns of a table of mixed kinds hold.
        conversion: How the array was made of a file's cells.
        test_rows: Makes test rows that come from elsewhere; None: they are split off.

    Returns:
        The data set; arrays of 3 or 4 dimensions have an image_shape.

    Raises:
        ValueError: If x has under 10 rows or no columns, is not numeric or not finite, or a column
            would lose its values in single precision.
    """
    ((rows,), image_shape, conversion) = _prepare(
        {name: x}, feature_names, columns, replace(conversion or Conversion(),
                                                   allow_missing=allow_missing)
    )  # fmt: skip
    splitting = splitting or Splitting()
    n_valid, n_test = splitting.sizes(len(rows))
    names = None if feature_names is None else tuple(feature_names)
    told = f"{name}: {len(rows)} rows split {splitting}"
    if test_rows is not None:
        schema = Schema(rows.shape[1], names, columns, image_shape, conversion)
        n_test, told = (
            0,
            f"{name}: {len(rows)} rows, {n_valid} for validation, test rows from another file",
        )
    train, valid, test = split_rows(rows, n_valid, n_test, splitting.seed)
    return Dataset(
        name,
        train,
        valid,
        test if test_rows is None else test_rows(schema),
        image_shape,
        names,
        f"{told}, {_phrase(conversion, names)}.",
        columns,
        conversion,
    )


def dataset_from_splits(
    train: Array,
    test: Array,
    valid: Array | None = None,
    name: str = "array",
    *,
    allow_missing: bool = False,
) -> Dataset:
    """Make a data set of arrays that are split already.

    Args:
        train: Training rows, as `dataset_from_array` takes them.
        test: Test rows, of the same shape but for the first dimension.
        valid: Validation rows, likewise; without them a tenth of train is cut off by a
            permutation with a constant seed.
        name: Name of the data set.
        allow_missing: Keep NaN, a missing cell, for a likelihood that leaves those out.

    Returns:
        The data set.

    Raises:
        ValueError: If the shapes differ, a split is empty, there are under 10 rows in all, or
            values are not numeric or not finite.
    """
    given = {"train": train, "test": test} | ({} if valid is None else {"valid": valid})
    named = {f"{name} {k}": x for k, x in given.items()}
    parts, image_shape, conversion = _prepare(
        named, None, None, Conversion(allow_missing=allow_missing)
    )
    if valid is None:
        rows, test_rows = parts
        train_rows, valid_rows, _ = split_rows(rows, max(1, round(len(rows) / 10)), 0)
        split = f"valid a tenth of train by a permutation with the constant seed {SPLIT_SEED}"
    else:
        train_rows, test_rows, valid_rows = parts
        split = "split as given"
    description = f"{name}: {split}, {_phrase(conversion, None)}."
    return Dataset(
        name,
        train_rows,
        valid_rows,
        test_rows,
        image_shape,
        description=description,
        conversion=conversion,
    )


def check_finite(
    x: np.ndarray,
    what: str,
    feature_names: Sequence[str] | None = None,
    *,
    allow_missing: bool = False,
) -> None:
    """Check that there are no gaps in the data.

    Args:
        x: Values, shape (n, features).
        what: What they are, for the message.
        feature_names: Names of the columns, or None to count them from 1.
        allow_missing: Let NaN pass.

    Raises:
        ValueError: If any value is infinite, or NaN where that is no missing cell.
    """
    bad = np.isinf(x) if allow_missing else ~np.isfinite(x)
    if not bad.any():
        return
    row, column = divmod(int(bad.argmax()), bad.shape[1])
    where = f"column {column + 1}" if feature_names is None else f"column {feature_names[column]!r}"
    raise ValueError(
        f"{what}: {bad.sum()} missing or non-finite value(s), the first in row {row + 1}, {where} "
        "(counted from 1), expected finite numbers: drop or impute these rows, or keep missing "
        "cells (--allow-missing, allow_missing=True)"
    )


def _prepare(
    parts: Mapping[str, Array],
    feature_names: Sequence[str] | None,
    columns: Sequence[Column] | None,
    conversion: Conversion,
) -> tuple[list[torch.Tensor], tuple[int, ...] | None, Conversion]:
    """Turn arrays into float32 rows, their image shape, and how that was done."""
    arrays = {what: _numeric(x, what) for what, x in parts.items()}
    _check_shapes({what: x.shape for what, x in arrays.items()})
    grey = all(x.dtype == np.uint8 for x in arrays.values())
    divide = grey and max(int(x.max()) for x in arrays.values()) > 1
    flat = {what: x.reshape(len(x), -1) for what, x in arrays.items()}
    first, *others = flat.values()
    values = np.concatenate([first, *others]) if others else first
    may_shift = None if columns is None else [column.kind == "real" for column in columns]
    offsets = find_offsets(values, next(iter(flat)), feature_names, may_shift)
    rows = []
    for what, x in flat.items():
        single = to_single(x, offsets)
        # An overflow to infinity is caught as not finite here.
        check_finite(single, what, feature_names, allow_missing=conversion.allow_missing)
        rows.append(torch.from_numpy(single / np.float32(255) if divide else single))
    if conversion.allow_missing and all(bool(x.isnan().all()) for x in rows):
        raise ValueError(f"{next(iter(flat))}: nothing to learn from: every cell is missing.")
    shape = next(iter(arrays.values())).shape[1:]
    conversion = replace(conversion, divided=divide, offsets=offsets)
    if offsets is not None:
        _LOG.warning("%s: %s", next(iter(flat)), _phrase(conversion, feature_names))
    return rows, shape if len(shape) in (2, 3) else None, conversion


def _phrase(conversion: Conversion, names: Sequence[str] | None) -> str:
    """How values were scaled and shifted, in words."""
    if conversion.offsets is None:
        return "values divided by 255" if conversion.divided else "values as given"
    shifted = [
        f"{offset:.15g} subtracted from column {i + 1 if names is None else repr(names[i])}"
        for i, offset in enumerate(conversion.offsets)
        if offset
    ]
    more = f" and {len(shifted) - 3} more" if len(shifted) > 3 else ""
    return f"{', '.join(shifted[:3])}{more}, so that single precision holds the values"


def _numeric(x: Array, what: str) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        # NumPy has no bfloat16.
        x = x.float().numpy() if x.is_floating_point() else x.numpy()
    if x.dtype.kind not in "biuf":
        raise ValueError(
            f"{what}: values are of type {x.dtype}, expected real numbers: convert them first"
        )
    return x


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    listed = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
    if not all(shapes.values()) or any(0 in shape for shape in shapes.values()):
        raise ValueError(
            f"nothing to learn from in shape {listed}: expected at least {MIN_ROWS} rows and 1 "
            "column, rows first: check what was saved"
        )
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"splits differ in shape: {listed}: only the first dimension may differ")
    n = sum(shape[0] for shape in shapes.values())
    if n < MIN_ROWS:
        raise ValueError(
            f"too few rows: got {n} in {listed}, expected at least {MIN_ROWS}: give more data"
        )
