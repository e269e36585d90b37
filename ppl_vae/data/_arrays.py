"""Data sets from arrays, tensors and NumPy's files: checked, scaled, flattened, split."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ppl_vae.data._dataset import SPLIT_SEED, Dataset, Splitting, split_rows
from ppl_vae.data._kinds import Column, drop_hint
from ppl_vae.data._numpy_files import read_arrays
from ppl_vae.data._precision import column_varies, find_offsets
from ppl_vae.data._rows import (
    ArrayRows,
    LazyRows,
    RowTensor,
    missing_by_column,
    missing_cells,
    most_in_memory,
    row_chunks,
)
from ppl_vae.data._schema import Conversion, Schema, require_numeric
from ppl_vae.names import first_few

_LOG = logging.getLogger(__name__)

Array = np.ndarray | torch.Tensor
TestRows = Callable[[Schema], RowTensor]
"""Makes test rows that come from elsewhere, given what a row is."""
MIN_ROWS = 10
_NAMED = 3
"""Largest number of columns that a message names."""


def dataset_from_array(
    x: Array,
    name: str = "array",
    *,
    feature_names: Sequence[str] | None = None,
    allow_missing: bool = False,
    whole_numbers: bool = False,
    splitting: Splitting | None = None,
    columns: tuple[Column, ...] | None = None,
    conversion: Conversion | None = None,
    test_rows: TestRows | None = None,
) -> Dataset:
    """Make a data set of an array, split 80/10/10 by a permutation with a constant seed.

    A column whose values single precision cannot hold is centred first; see
    :class:`~ppl_vae.data.Conversion`.

    Args:
        x: Rows first: (n,), (n, features), (n, h, w) or (n, channels, h, w). uint8 that exceeds
            1 is divided by 255, unless whole_numbers; bool becomes 0 and 1.
        name: Name of the data set.
        feature_names: Names of the columns, for a table.
        allow_missing: Keep NaN, a missing cell, for a likelihood that leaves those out.
        whole_numbers: Take bytes for counts or codes of classes, as they are, and not for grey
            levels.
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
    conversion = replace(conversion or Conversion(), allow_missing=allow_missing)
    (rows,), image_shape, conversion = _prepare(
        {name: x}, feature_names, columns, conversion, grey=not whole_numbers
    )
    splitting = splitting or Splitting()
    n_valid, n_test = splitting.sizes(len(rows))
    names = None if feature_names is None else tuple(feature_names)
    split = f"{name}: {len(rows)} rows split {splitting}"
    if test_rows is not None:
        n_test = 0
        split = f"{name}: {len(rows)} rows, {n_valid} for validation, test rows from another file"
    train, valid, test = split_rows(rows, n_valid, n_test, splitting.seed)
    # The splits are copies: from here on all rows at once would be a second set in memory.
    features = rows.shape[1]
    del rows
    own = [train, valid] if test_rows is not None else [train, valid, test]
    conversion = _noted(conversion, own, name, names)
    schema = Schema(features, names, columns, image_shape, conversion)
    dataset = Dataset(
        name,
        train,
        valid,
        test if test_rows is None else test_rows(schema),
        image_shape,
        names,
        f"{split}, {_phrase(conversion, names)}.",
        columns,
        conversion,
    )
    _check_columns(dataset)
    return dataset


def dataset_from_splits(
    train: Array,
    test: Array,
    valid: Array | None = None,
    name: str = "array",
    *,
    allow_missing: bool = False,
    whole_numbers: bool = False,
) -> Dataset:
    """Make a data set of arrays that are split already.

    Args:
        train: Training rows, as `dataset_from_array` takes them.
        test: Test rows, of the same shape but for the first dimension.
        valid: Validation rows, likewise; without them a tenth of train is cut off by a
            permutation with a constant seed.
        name: Name of the data set.
        allow_missing: Keep NaN, a missing cell, for a likelihood that leaves those out.
        whole_numbers: Take bytes for counts or codes of classes, as they are, and not for grey
            levels.

    Returns:
        The data set.

    Raises:
        ValueError: If the shapes differ, a split is empty, there are under 10 rows in all, or
            values are not numeric or not finite.
    """
    given = {"train": train, "test": test} | ({} if valid is None else {"valid": valid})
    splits, image_shape, conversion = _prepare(
        {f"{name} {split}": x for split, x in given.items()},
        None,
        None,
        Conversion(allow_missing=allow_missing),
        grey=not whole_numbers,
    )
    train_rows, test_rows, *rest = splits
    if rest:
        (valid_rows,) = rest
        origin = "split as given"
    else:
        n_valid = max(1, round(len(train_rows) / 10))
        train_rows, valid_rows, _ = split_rows(train_rows, n_valid, 0)
        origin = f"valid a tenth of train by a permutation with the constant seed {SPLIT_SEED}"
    own = [train_rows, valid_rows, test_rows]
    conversion = _noted(conversion, own, f"{name} train", None)
    dataset = Dataset(
        name,
        train_rows,
        valid_rows,
        test_rows,
        image_shape,
        description=f"{name}: {origin}, {_phrase(conversion, None)}.",
        conversion=conversion,
    )
    _check_columns(dataset)
    return dataset


def dataset_from_file(
    path: Path,
    *,
    allow_missing: bool = False,
    whole_numbers: bool = False,
    splitting: Splitting | None = None,
    test_rows: TestRows | None = None,
) -> Dataset:
    """Load a .npy file, or a .npz file of one array or of train, test and perhaps valid.

    Raises:
        ValueError: If the file is broken, holds Python objects or other arrays, or its values
            are no data set (see `dataset_from_array`).
    """
    arrays = read_arrays(path)
    if set(arrays) in ({"train", "test"}, {"train", "valid", "test"}):
        if splitting is not None or test_rows is not None:
            raise ValueError(f"{path}: holds splits already: leave out fractions and test data.")
        return dataset_from_splits(
            **arrays, name=path.stem, allow_missing=allow_missing, whole_numbers=whole_numbers
        )
    if len(arrays) != 1:
        raise ValueError(
            f"{path}: holds the arrays {', '.join(arrays) or '(none)'}, expected exactly one, or "
            "train, test and optionally valid: save it again with only these"
        )
    (array,) = arrays.values()
    return dataset_from_array(
        array,
        path.stem,
        allow_missing=allow_missing,
        whole_numbers=whole_numbers,
        splitting=splitting,
        test_rows=test_rows,
    )


def _prepare(
    arrays: Mapping[str, Array],
    feature_names: Sequence[str] | None,
    columns: Sequence[Column] | None,
    conversion: Conversion,
    *,
    grey: bool,
) -> tuple[list[RowTensor], tuple[int, ...] | None, Conversion]:
    """Turn arrays into float32 rows, their image shape, and how that was done.

    Bytes are grey levels where ``grey``, else whole numbers, which a division would make none of.
    Rows that are too many for memory are lazy: converted and checked as they are read.
    """
    numeric = {what: require_numeric(x, what) for what, x in arrays.items()}
    _check_shapes({what: x.shape for what, x in numeric.items()})
    flat = {what: x.reshape(len(x), -1) for what, x in numeric.items()}
    first = next(iter(flat.values()))
    large = sum(map(len, flat.values())) > most_in_memory(first.shape[1])
    # Numbers that torch has no type for, such as long doubles, are converted in memory.
    # Columns of mixed kinds were made in memory.
    large = large and columns is None and all(x.dtype.itemsize <= 8 for x in flat.values())
    what = next(iter(flat))
    # Splits are looked at together: a dark one alone would pass for zeros and ones.
    grey = grey and all(x.dtype == np.uint8 for x in numeric.values())
    grey = grey and any(map(_exceeds_one, numeric.values()))
    # A shift would move counts and positive numbers off their supports.
    may_shift = None if columns is None else [column.kind == "real" for column in columns]
    offsets = find_offsets(list(flat.values()), what, feature_names, may_shift, sampled=large)
    conversion = replace(conversion, divisor=255 if grey else 1, offsets=offsets)
    make = conversion.lazily if large else conversion.apply
    rows: list[RowTensor] = [make(x, what, feature_names) for what, x in flat.items()]
    if conversion.offsets is not None:
        _LOG.warning("%s: %s", what, _phrase(conversion, feature_names))
    shape = next(iter(numeric.values())).shape[1:]
    return rows, shape if len(shape) in (2, 3) else None, conversion


def _exceeds_one(x: np.ndarray) -> bool:
    return any(int(part.max()) > 1 for part in row_chunks(ArrayRows(x)))


def _noted(
    conversion: Conversion, splits: Sequence[RowTensor], what: str, names: Sequence[str] | None
) -> Conversion:
    """Note whether undivided values are intensities in [0, 1].

    Raises:
        ValueError: If every cell is missing.
    """
    if conversion.allow_missing and all(missing_cells(x) == x.numel() for x in splits):
        raise ValueError(f"{what}: nothing to learn from: every cell is missing.")
    if names is not None or conversion.divisor != 1:
        return conversion
    unit = all(map(_lies_in_unit_interval, splits)) and any(map(_has_fractions, splits))
    return replace(conversion, unit_interval=unit)


def _lies_in_unit_interval(x: RowTensor) -> bool:
    if isinstance(x, LazyRows):
        return bool((x.summary.low >= 0).all() and (x.summary.high <= 1).all())
    return all(bool(((part >= 0) & (part <= 1) | part.isnan()).all()) for part in row_chunks(x))


def _has_fractions(x: RowTensor) -> bool:
    if isinstance(x, LazyRows):
        return x.summary.has_fractions
    return any(bool(((part > 0) & (part < 1)).any()) for part in row_chunks(x))


def _check_columns(dataset: Dataset) -> None:
    """Check that every column says something among the training rows.

    A density of a constant means nothing: columns of numbers in a table of mixed kinds are refused,
    others are named in a warning, since under a probability they do no harm. Images have pixels
    that never vary.

    Raises:
        ValueError: If a column has no value, or is refused.
    """
    names = dataset.feature_names
    named = [str(i + 1) if names is None else repr(names[i]) for i in range(dataset.features)]
    # A column may hold values in valid or test alone, of which nothing can be learnt.
    empty = missing_by_column(dataset.train) == len(dataset.train)
    constant = ~column_varies(dataset.train) & ~empty
    if empty.any():
        raise ValueError(
            f"{dataset.name}: column {named[int(empty.int().argmax())]} has no value among the "
            f"training rows: leave it out{_drop(dataset, empty)}."
        )
    if dataset.image_shape is not None or not constant.any():
        return
    numbers = torch.tensor([c.kind in ("real", "positive") for c in dataset.columns or ()])
    if dataset.columns is None:
        listed = [name for name, is_constant in zip(named, constant, strict=True) if is_constant]
        _LOG.warning(
            "%s: %d of %d columns never vary among the training rows (%s): they say nothing, and a "
            "density of them means nothing: leave them out%s",
            dataset.name, len(listed), len(named), first_few(listed, _NAMED),
            _drop(dataset, constant),
        )  # fmt: skip
    elif (constant & numbers).any():
        raise ValueError(
            f"{dataset.name}: column {named[int((constant & numbers).int().argmax())]} does not "
            f"vary among the training rows, only elsewhere: leave it out"
            f"{_drop(dataset, constant & numbers)}, or name its kind count or categorical."
        )


def _drop(dataset: Dataset, which: torch.Tensor) -> str:
    """Hint at the setting that leaves columns of a table out; arrays have none."""
    if dataset.feature_names is None:
        return ""
    names = [name for name, is_one in zip(dataset.feature_names, which, strict=True) if is_one]
    return f" ({drop_hint(*names[:_NAMED])})"


def _phrase(conversion: Conversion, names: Sequence[str] | None) -> str:
    """Scaling and shifts of the values, in words."""
    if conversion.offsets is None:
        grey = conversion.divisor != 1
        return f"values divided by {conversion.divisor}" if grey else "values as given"
    shifted = [
        f"{offset:.15g} subtracted from column {i + 1 if names is None else repr(names[i])}"
        for i, offset in enumerate(conversion.offsets)
        if offset
    ]
    return f"{first_few(shifted, _NAMED)}, so that single precision holds the values"


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    listed = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
    least = f"{MIN_ROWS} rows" if len(shapes) == 1 else "one row"
    for what, shape in shapes.items():
        if not shape:
            raise ValueError(f"{what} is one number: give an array, rows first")
        if not shape[0]:
            raise ValueError(f"{what} holds no data: give at least {least}")
        if 0 in shape:
            raise ValueError(
                f"{what} has rows without values (shape {shape}): give at least one value a row"
            )
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"splits differ in shape: {listed}: only the first dimension may differ")
    n = sum(shape[0] for shape in shapes.values())
    if n < MIN_ROWS:
        raise ValueError(
            f"too few rows: got {n} in {listed}, expected at least {MIN_ROWS}: give more data"
        )
