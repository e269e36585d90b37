"""Data sets from arrays and tensors: checked, scaled, flattened, split."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.splits import SPLIT_SEED, split_rows

Array = np.ndarray | torch.Tensor
MIN_ROWS = 10


def dataset_from_array(
    x: Array,
    name: str = "array",
    *,
    feature_names: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> Dataset:
    """Make a data set of an array, split 80/10/10 by a permutation with a constant seed.

    Args:
        x: Rows first: (n,), (n, features), (n, h, w) or (n, channels, h, w). uint8 that exceeds
            1 is divided by 255; bool becomes 0 and 1.
        name: Name of the data set.
        feature_names: Names of the columns, for a table.
        allow_missing: Keep NaN, a missing cell, for a likelihood that leaves those out.

    Returns:
        The data set; arrays of 3 or 4 dimensions have an image_shape.

    Raises:
        ValueError: If x has under 10 rows or no columns, is not numeric or not finite.
    """
    ((rows,), image_shape, scaling) = _prepare({name: x}, feature_names, allow_missing)
    tenth = round(len(rows) / 10)
    train, valid, test = split_rows(rows, tenth, tenth)
    return Dataset(
        name,
        train,
        valid,
        test,
        image_shape,
        None if feature_names is None else tuple(feature_names),
        f"{name}: {len(rows)} rows split 80/10/10 by a permutation with the constant seed "
        f"{SPLIT_SEED}, {scaling}.",
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
    parts, image_shape, scaling = _prepare(named, None, allow_missing)
    if valid is None:
        rows, test_rows = parts
        train_rows, valid_rows, _ = split_rows(rows, max(1, round(len(rows) / 10)), 0)
        split = f"valid a tenth of train by a permutation with the constant seed {SPLIT_SEED}"
    else:
        train_rows, test_rows, valid_rows = parts
        split = "split as given"
    description = f"{name}: {split}, {scaling}."
    return Dataset(name, train_rows, valid_rows, test_rows, image_shape, None, description)


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
    parts: Mapping[str, Array], feature_names: Sequence[str] | None, allow_missing: bool
) -> tuple[list[torch.Tensor], tuple[int, ...] | None, str]:
    """Turn arrays into float32 rows, their image shape, and a phrase on their scaling."""
    arrays = {what: _numeric(x, what) for what, x in parts.items()}
    _check_shapes({what: x.shape for what, x in arrays.items()})
    grey = all(x.dtype == np.uint8 for x in arrays.values())
    divide = grey and max(int(x.max()) for x in arrays.values()) > 1
    rows = []
    for what, x in arrays.items():
        # An overflow to infinity in float32 is caught as not finite just below.
        with np.errstate(over="ignore"):
            flat = np.array(x.reshape(len(x), -1), dtype=np.float32, order="C")
        check_finite(flat, what, feature_names, allow_missing=allow_missing)
        rows.append(torch.from_numpy(flat / np.float32(255) if divide else flat))
    shape = next(iter(arrays.values())).shape[1:]
    scaling = "values divided by 255" if divide else "values as given"
    return rows, shape if len(shape) in (2, 3) else None, scaling


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
