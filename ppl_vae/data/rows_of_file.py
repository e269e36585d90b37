"""New rows from a file, read as those of a data set."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data.arrays import check_finite
from ppl_vae.data.columns import code_with
from ppl_vae.data.files import read_arrays
from ppl_vae.data.names import FILE_SUFFIXES, TABLE_SUFFIXES
from ppl_vae.data.precision import to_single
from ppl_vae.data.schema import Schema
from ppl_vae.data.tables import read_numbers, read_table


def read_rows(path: str | os.PathLike[str], like: Schema) -> Float[Tensor, "rows features"]:
    """Rows of a .npy, .npz, .csv or .parquet file, as the model was trained with them.

    Columns of a table are matched by name, whatever their order; further ones are left out.

    Args:
        path: The file.
        like: What a row of the training data was, such as ``dataset.schema``.

    Returns:
        The rows, float32, NaN for missing cells; codes for labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is broken, a column is missing, a cell is not of its column's kind, or
            rows are of another size.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise ValueError(f"{path}: expected a file of type {', '.join(FILE_SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: check the path.")
    if path.suffix.lower() in TABLE_SUFFIXES:
        values = _of_table(path, like)
    else:
        (values,) = read_arrays(path).values()
    if int(np.prod(values.shape[1:])) != like.features:
        raise ValueError(
            f"{path}: rows have shape {values.shape[1:]}, the model was trained with "
            f"{like.features} values: give rows of that size."
        )
    if not len(values):
        raise ValueError(f"{path}: holds no rows.")
    conversion = like.conversion
    flat = to_single(values.reshape(len(values), -1), conversion.offsets)
    check_finite(flat, str(path), like.feature_names, allow_missing=conversion.allow_missing)
    return torch.from_numpy(flat / np.float32(255) if conversion.divided else flat)


def _of_table(path: Path, like: Schema) -> np.ndarray:
    table = read_table(path, like.conversion.reading)
    for name, value in like.conversion.constants:
        if name in table.columns:
            _require_constant(table[name], value, path)
    if like.columns is not None:
        return code_with(table, like.columns, str(path))
    return read_numbers(table, like.feature_names, path)


def _require_constant(cells: pd.Series, value: str, path: Path) -> None:
    """Check that a column the model was trained without, since it never varied, does not here."""
    numeric = pd.to_numeric(cells, errors="coerce").notna().all() and _is_number(value)
    other = cells.notna() & (cells != float(value) if numeric else cells.map(str) != value)
    if other.any():
        row = int(other.to_numpy().argmax())
        raise ValueError(
            f"{path}: column {str(cells.name)!r} holds {str(cells.iloc[row])!r} in row {row + 1}, "
            f"and was {value or 'empty'} in all rows that the model was trained with: leave these "
            "rows out."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
