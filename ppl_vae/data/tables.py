"""Data sets from tables: CSV and Parquet files."""

import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ppl_vae.data.arrays import check_finite, dataset_from_array
from ppl_vae.data.columns import encode_table
from ppl_vae.data.dataset import Dataset
from ppl_vae.files import require_content

_DESCRIBED = 8
_SHOWN = 300
_CELL = 8
"""Bytes of a number."""
MISSING_WORDS = {"", "na", "n/a", "null", "none"}


def load_table_file(path: Path, *, allow_missing: bool = False) -> Dataset:
    """Load a .csv or .parquet file, split 80/10/10 by a permutation with a constant seed.

    A CSV file's first row is data if all its cells are numbers or missing, and a header if not;
    without a header the columns are called x1, x2, ...

    Args:
        path: The file; its stem becomes the name.
        allow_missing: Keep missing cells, as NaN.

    Returns:
        The data set, with feature_names.

    Raises:
        ValueError: If the file is broken, or a cell is no finite number (nor missing, where that is
            allowed).
    """
    table = read_table(path)
    names = [str(column) for column in table.columns]
    values = read_numbers(table, None, path)
    check_finite(values, str(path), names, allow_missing=allow_missing)
    return dataset_from_array(values, path.stem, feature_names=names, allow_missing=allow_missing)


def load_mixed_table_file(path: Path, kinds: Mapping[str, str] | None = None) -> Dataset:
    """Load a .csv or .parquet file with columns of any kind and missing cells, split 80/10/10.

    Args:
        path: The file; its stem becomes the name.
        kinds: Column to kind, as for :func:`~ppl_vae.data.columns.encode_table`.

    Returns:
        The data set, with columns; codes for labels, NaN for missing cells.

    Raises:
        ValueError: If the file is broken, or a cell is not of its column's kind.
    """
    values, columns = encode_table(read_table(path), kinds, str(path))
    names = [column.name for column in columns]
    dataset = dataset_from_array(values, path.stem, feature_names=names, allow_missing=True)
    described = ", ".join(f"{column.name} {column.kind}" for column in columns[:_DESCRIBED])
    more = f" and {len(columns) - _DESCRIBED} more" if len(columns) > _DESCRIBED else ""
    text = f"{dataset.description}; {dataset.missing_share:.1%} of the cells missing; columns: "
    return replace(dataset, columns=columns, description=f"{text}{described}{more}")


def read_numbers(table: pd.DataFrame, names: Sequence[str] | None, path: Path) -> np.ndarray:
    """The cells as numbers, float64 of shape (rows, columns), missing ones as NaN.

    Args:
        table: The cells.
        names: Columns wanted, in this order; None: all.
        path: The file, for messages.

    Raises:
        ValueError: If a column is missing or holds anything but numbers.
    """
    if names is not None:
        absent = [name for name in names if name not in table.columns]
        if absent:
            raise ValueError(f"{path}: no column {absent[0]!r}, which the model was trained with.")
        table = table[list(names)]
    values = np.empty(table.shape, dtype=np.float64)
    for i, name in enumerate(table.columns):
        values[:, i] = _numbers(table.iloc[:, i], str(name), path)
    return values


def read_table(path: Path) -> pd.DataFrame:
    """The cells of a .csv or .parquet file, as pandas reads them.

    Raises:
        ValueError: If it is no readable table.
        FileNotFoundError: If it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: check the path.")
    try:
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would drop their last cells with a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    # The parsers of CSV and Parquet have exceptions of every kind for a broken file.
    except Exception as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        raise ValueError(
            f"{path}: not a readable table ({reason}): expected a {path.suffix.lower()} file with "
            "as many cells in every row"
        ) from error


def _read_parquet(path: Path) -> pd.DataFrame:
    content = pq.read_metadata(path)
    require_content(path, content.num_rows * content.num_columns * _CELL)
    return pd.read_parquet(path)


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), [])
    header = not all(_is_number_or_missing(cell) for cell in first)
    table = pd.read_csv(
        path,
        header=0 if header else None,
        index_col=False,
        low_memory=False,
        # In a table of one column a blank line is a missing value.
        skip_blank_lines=len(first) > 1,
    )
    if not header:
        table.columns = pd.Index([f"x{i + 1}" for i in range(table.shape[1])])
    return table


def _is_number_or_missing(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in MISSING_WORDS
    return True


def _numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    """Convert one column to float64, shape (n,), missing cells to NaN."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    text = column.astype(object)
    # Dates would convert to nanoseconds, so only text is tried.
    is_text = pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)
    numbers = pd.to_numeric(text, errors="coerce") if is_text else text.where(text.isna(), np.nan)
    bad = np.flatnonzero(column.notna() & numbers.isna())
    if len(bad):
        raise ValueError(
            f"{path}: column {name!r} is not numeric: {str(column.iloc[bad[0]])!r} in row "
            f"{bad[0] + 1} (counted from 1), expected numbers separated by commas: drop or encode "
            "this column"
        )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)
