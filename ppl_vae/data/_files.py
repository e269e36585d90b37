"""NumPy's files, and new rows from a file of any type."""

import logging
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data._arrays import dataset_from_array, dataset_from_splits
from ppl_vae.data._columns import code_with
from ppl_vae.data._dataset import Dataset, Splitting
from ppl_vae.data._reading import FILE_SUFFIXES, TABLE_SUFFIXES
from ppl_vae.data._schema import Schema
from ppl_vae.data._tables import read_numbers, read_table
from ppl_vae.data._text_columns import UnreadableError, shown
from ppl_vae.files import require_content

_LOG = logging.getLogger(__name__)
_NAMED = 3


def load_array_file(
    path: Path,
    *,
    allow_missing: bool = False,
    splitting: Splitting | None = None,
    test_rows: Callable[[Schema], torch.Tensor] | None = None,
) -> Dataset:
    """Load a .npy file, or a .npz file of one array or of train, test and perhaps valid.

    Args:
        path: The file; its stem becomes the name.
        allow_missing: Keep NaN, a missing cell.
        splitting: Shares and seed of the split of one array; None: 80/10/10.
        test_rows: Makes test rows that are in another file.

    Returns:
        The data set, split as the file says or else 80/10/10.

    Raises:
        ValueError: If the file is broken, holds Python objects or other arrays, or its values
            are no data set (see `dataset_from_array`).
    """
    arrays = read_arrays(path)
    if set(arrays) in ({"train", "test"}, {"train", "valid", "test"}):
        if splitting is not None or test_rows is not None:
            raise ValueError(f"{path}: holds splits already: leave out fractions and test data.")
        return dataset_from_splits(
            arrays["train"],
            arrays["test"],
            arrays.get("valid"),
            name=path.stem,
            allow_missing=allow_missing,
        )
    if len(arrays) == 1:
        (array,) = arrays.values()
        return dataset_from_array(
            array,
            path.stem,
            allow_missing=allow_missing,
            splitting=splitting,
            test_rows=test_rows,
        )
    raise ValueError(
        f"{path}: holds the arrays {', '.join(arrays) or '(none)'}, expected exactly one, or "
        "train, test and optionally valid: save it again with only these"
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npy or .npz file by name.

    Raises:
        ValueError: If the file is broken or holds Python objects.
    """
    require_content(path, _content(path))
    try:
        with path.open("rb") as file:
            # Unpickling would run whatever code the file holds.
            loaded = np.load(file, allow_pickle=False)
            return {path.stem: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    # NumPy raises whatever it comes upon in a damaged header.
    except Exception as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path}: holds Python objects, expected an array of numbers: convert it with "
                "x.astype('float32') and save it again"
            ) from error
        raise ValueError(
            f"{path}: not a readable NumPy file (corrupt or cut short): save or copy it again"
        ) from error


def read_rows(path: str | os.PathLike[str], like: Schema) -> Float[Tensor, "rows features"]:
    """Rows of a .npy, .npz, .csv or .parquet file, as the model was trained with them.

    Columns of a table are matched by name, whatever their order; further ones are left out. Values
    are in the units that the training data were given in, and are scaled, shifted and binarised as
    those of the test rows were.

    Args:
        path: The file.
        like: What a row of the training data was, such as ``dataset.schema``.

    Returns:
        The rows, float32, NaN for missing cells; codes for labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is broken, a column is missing, a cell is not of its column's kind, or
            rows are of another size or in another unit.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise ValueError(f"{path}: expected a file of type {', '.join(FILE_SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: check the path.")
    if path.suffix.lower() in TABLE_SUFFIXES:
        try:
            return rows_of_table(read_table(path, like.conversion.reading), like, path)
        except UnreadableError as error:
            # How files are read was settled when the model was trained.
            raise ValueError(
                f"{error.problem}: give such cells as the training data had them, or leave the "
                "rows out."
            ) from error
    arrays = read_arrays(path)
    if len(arrays) != 1:
        raise ValueError(
            f"{path}: holds the arrays {', '.join(arrays) or '(none)'}, expected one, of rows."
        )
    (values,) = arrays.values()
    return like.rows(values, str(path))


def rows_of_table(table: pd.DataFrame, like: Schema, path: Path) -> Float[Tensor, "rows features"]:
    """Rows of the cells of a table, as :func:`read_rows` makes them.

    Args:
        table: The cells, as :func:`~ppl_vae.data.read_table` reads them.
        like: What a row of the training data was.
        path: The file, for messages.
    """
    constants = dict(like.conversion.constants)
    for name in constants.keys() & set(table.columns):
        _require_constant(table[name], constants[name], path)
    known = {*constants, *(like.feature_names or table.columns)}
    if others := [repr(name) for name in table.columns if name not in known]:
        _LOG.warning(
            "%s: left out, unknown to the model: %s%s",
            path.name, ", ".join(others[:_NAMED]), ", ..." if len(others) > _NAMED else "",
        )  # fmt: skip
    if like.columns is not None:
        values = code_with(table, like.columns, str(path))
    else:
        values = read_numbers(table, like.feature_names, path)
    if missing := int(np.isnan(values).sum()):
        _LOG.info("%s: %s of %s cells missing", path.name, f"{missing:,}", f"{values.size:,}")
    return like.rows(values, str(path))


def _content(path: Path) -> int:
    """Bytes that a .npz file holds when unpacked; 0 for other files, and for damaged ones."""
    try:
        with zipfile.ZipFile(path) as packed:
            return sum(entry.file_size for entry in packed.infolist())
    except (ValueError, OSError, NotImplementedError, struct.error, zipfile.BadZipFile):
        return 0


def _require_constant(cells: pd.Series, value: str, path: Path) -> None:
    """Check that a column the model was trained without, since it never varied, does not here."""
    numeric = pd.to_numeric(cells, errors="coerce").notna().all() and _is_number(value)
    other = cells.notna() & (cells != float(value) if numeric else cells.map(str) != value)
    if other.any():
        row = int(other.to_numpy().argmax())
        raise ValueError(
            f"{path}: column {str(cells.name)!r} holds {shown(cells.iloc[row])} in row {row + 1}, "
            f"and was {value or 'empty'} in all rows that the model was trained with: leave these "
            "rows out."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
