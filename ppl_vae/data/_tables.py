"""Data sets from tables: CSV and Parquet files."""

import csv
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from ppl_vae.data._arrays import dataset_from_array
from ppl_vae.data._columns import encode_table, numeric_cells
from ppl_vae.data._dataset import Dataset, Splitting
from ppl_vae.data._precision import column_varies
from ppl_vae.data._reading import SEPARATORS, CsvForm, Reading, find_form
from ppl_vae.data._schema import Conversion, Schema, check_finite
from ppl_vae.data._text_columns import drop_hint, read_text_columns
from ppl_vae.files import require_content

_LOG = logging.getLogger(__name__)
_DESCRIBED = 8
_SHOWN = 300
_CELL = 8
"""Bytes of a number."""
_NAMED = 3
_COUNTED = 3
"""So many rows, and the numbers 0, 1, 2, ... in a column may count them."""

TestRows = Callable[[Schema], torch.Tensor]


def load_table_file(
    path: Path,
    reading: Reading | None = None,
    *,
    allow_missing: bool = False,
    splitting: Splitting | None = None,
    test_rows: TestRows | None = None,
) -> Dataset:
    """Load a .csv or .parquet file of numbers, split by a permutation with a constant seed.

    Without a header the columns of a CSV file are called x1, x2, ...

    Args:
        path: The file; its stem becomes the name.
        reading: How it is read; None: guessed.
        allow_missing: Keep missing cells, as NaN.
        splitting: Shares and seed; None: 80/10/10.
        test_rows: Makes test rows that are in another file; None: they are split off.

    Returns:
        The data set, with feature_names.

    Raises:
        ValueError: If the file is broken, or a cell is no finite number (nor missing, where that is
            allowed).
    """
    reading = reading or Reading()
    table, guesses = read_cells(path, reading)
    names = [str(column) for column in table.columns]
    values = read_numbers(table, None, path)
    _tell(path, values, f"{_plural(len(names), 'column')} of numbers", guesses)
    check_finite(values, str(path), names, allow_missing=allow_missing)
    return dataset_from_array(
        values,
        path.stem,
        feature_names=names,
        allow_missing=allow_missing,
        splitting=splitting,
        conversion=Conversion(reading),
        test_rows=test_rows,
    )


def load_mixed_table_file(
    path: Path,
    kinds: Mapping[str, str] | None = None,
    reading: Reading | None = None,
    *,
    splitting: Splitting | None = None,
    test_rows: TestRows | None = None,
) -> Dataset:
    """Load a .csv or .parquet file with columns of any kind and missing cells.

    A column that never varies says nothing, and has no density: it is left out.

    Args:
        path: The file; its stem becomes the name.
        kinds: Column to kind, as for :func:`~ppl_vae.data.encode_table`.
        reading: How it is read; None: guessed.
        splitting: Shares and seed; None: 80/10/10.
        test_rows: Makes test rows that are in another file; None: they are split off.

    Returns:
        The data set, with columns; codes for labels, NaN for missing cells.

    Raises:
        ValueError: If the file is broken, a cell is not of its column's kind, no column varies, or
            one of numbers does not among the training rows.
    """
    reading = reading or Reading()
    table, guesses = read_cells(path, reading, keep=kinds or {})
    constants = _constant_columns(table)
    if constants and len(constants) == table.shape[1] and len(table):
        raise ValueError(f"{path}: nothing to learn from: no column holds different values.")
    if constants:
        named = [f"{name!r} ({value or 'empty'})" for name, value in constants]
        guesses = [*guesses, f"left out, never varying: {_some(named)}"]
    gone = {name for name, _ in constants}
    table = table.loc[:, [str(name) not in gone for name in table.columns]]
    asked = {name: kind for name, kind in (kinds or {}).items() if name not in gone}
    values, columns = encode_table(table, asked, str(path))
    count = Counter(column.kind for column in columns)
    listed = ", ".join(f"{number} {kind}" for kind, number in count.items())
    _tell(path, values, f"{listed} column{'s' if len(columns) > 1 else ''}", guesses)
    dataset = dataset_from_array(
        values,
        path.stem,
        feature_names=[column.name for column in columns],
        allow_missing=True,
        splitting=splitting,
        conversion=Conversion(reading, constants=constants),
        columns=columns,
        test_rows=test_rows,
    )
    described = ", ".join(f"{column.name} {column.kind}" for column in columns[:_DESCRIBED])
    more = f" and {len(columns) - _DESCRIBED} more" if len(columns) > _DESCRIBED else ""
    text = f"{dataset.description}; {dataset.missing_share:.1%} of the cells missing; columns: "
    return replace(dataset, description=f"{text}{described}{more}")


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
        values[:, i] = numeric_cells(table.iloc[:, i], str(name), str(path))
    return values


def read_table(path: Path, reading: Reading | None = None) -> pd.DataFrame:
    """The cells of a .csv or .parquet file, columns that only count the rows left out.

    Raises:
        ValueError: If it is no readable table, or cannot be read in one way only.
        FileNotFoundError: If it is not there.
    """
    return read_cells(path, reading or Reading(), drop_all=False)[0]


def read_cells(
    path: Path,
    reading: Reading,
    keep: Mapping[str, str] | Sequence[str] = (),
    *,
    drop_all: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """The cells of a .csv or .parquet file, and what was guessed, in words.

    Args:
        path: The file.
        reading: What is not to be guessed.
        keep: Columns that are kept even if they have no name and count the rows.
        drop_all: Whether columns to be left out must be there.

    Raises:
        ValueError: As :func:`read_table`.
        FileNotFoundError: If it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: check the path.")
    is_csv = path.suffix.lower() == ".csv"
    try:
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would drop their last cells with a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            form = find_form(path, reading) if is_csv else None
            table = _read_parquet(path) if form is None else _read_csv(path, form, reading)
    except UnicodeDecodeError as error:
        if b"\0" in error.object:
            raise ValueError(
                f"{path}: not a readable table of text: it is a file of another kind."
            ) from error
        raise ValueError(
            f"{path}: not a readable table: byte 0x{error.object[error.start]:02x} is not UTF-8 "
            "text: save it as UTF-8, such as with iconv -f latin1 -t utf-8"
        ) from error
    # The parsers of CSV and Parquet have exceptions of every kind for a broken file.
    except Exception as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(_broken(path, error, is_csv=is_csv)) from error
    table, index = _without_index(table, keep)
    table.columns = pd.Index([str(name) for name in table.columns])
    for name in reading.drop:
        if drop_all and name not in table.columns:
            raise ValueError(f"{path}: no column {name!r}: it has {_some(list(table.columns))}.")
    table = table.drop(columns=list(reading.drop), errors="ignore")
    commas = form is not None and form.separator != ","
    table, read = read_text_columns(table, reading, str(path), commas=commas)
    return table, [*_guesses(form, reading, list(table.columns)), *index, *read]


def _read_parquet(path: Path) -> pd.DataFrame:
    content = pq.read_metadata(path)
    groups = (content.row_group(i).total_byte_size for i in range(content.num_row_groups))
    require_content(path, max(content.num_rows * content.num_columns * _CELL, sum(groups)))
    columns = [content.schema.column(i) for i in range(content.num_columns)]
    text = [c.name for c in columns if c.physical_type == "BYTE_ARRAY" and c.path == c.name
            and c.logical_type.type in ("STRING", "NONE")]  # fmt: skip
    # A long text that comes again and again is in the file once: its size shows before it is not.
    table = pd.read_parquet(path, engine="pyarrow", read_dictionary=text)
    coded = [i for i, kind in enumerate(table.dtypes) if isinstance(kind, pd.CategoricalDtype)]
    require_content(path, sum(_text_size(table.iloc[:, i].array) for i in coded))
    for i in coded:
        table.isetitem(i, table.iloc[:, i].to_numpy(dtype=object))
    return table


def _text_size(cells: Any) -> int:
    """Characters of all cells of a pandas Categorical."""
    lengths = np.array([*(len(str(value)) for value in cells.categories), 0])
    return int(lengths[cells.codes].sum())


def _read_csv(path: Path, form: CsvForm, reading: Reading) -> pd.DataFrame:
    as_text = reading.thousands is not None or reading.decimal == ","
    table: pd.DataFrame = pd.read_csv(
        path,
        sep=form.separator,
        header=0 if form.header else None,
        index_col=False,
        skipinitialspace=True,
        encoding="utf-8-sig",
        # In a table of one column a blank line is a missing value.
        skip_blank_lines=form.width > 1,
        keep_default_na=False,
        na_values=["", *(reading.missing or ())],
        engine="c",
        low_memory=False,
        dtype=str if as_text else None,
    )
    if not form.header:
        table.columns = pd.Index([f"x{i + 1}" for i in range(table.shape[1])])
    _require_whole_rows(path, form, [str(name) for name in table.columns])
    return table


def _require_whole_rows(path: Path, form: CsvForm, names: list[str]) -> None:
    """Refuse rows that end early, which pandas fills up: the last cell of a cut file is cut too.

    Raises:
        ValueError: If there is one; says where.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        spaced = form.separator == SEPARATORS["space"]
        split = csv.reader(file, delimiter="," if spaced else form.separator)
        rows = (row for row in (map(str.split, file) if spaced else split) if "".join(row).strip())
        for number, row in enumerate(rows, start=0 if form.header else 1):
            if number and len(row) < len(names):
                raise ValueError(
                    f"{path}: row {number}, column {names[len(row)]!r} is not there: the row has "
                    f"{len(row)} cells of {len(names)}; a missing cell is empty, between its "
                    "separators, and a file that was cut off is to be copied again."
                )


def _guesses(form: CsvForm | None, reading: Reading, names: list[str]) -> list[str]:
    """What was guessed of a CSV file's form and is not the usual one."""
    if form is None:
        return []
    guesses = []
    if reading.separator == "auto" and form.separator != ",":
        guesses.append(f"separator {form.separator!r}")
    if reading.header == "auto" and not form.header:
        guesses.append("no header")
    elif reading.header == "auto" and names and all(name.isdigit() for name in names):
        guesses.append(f"first row taken for names ({_some(names)})")
    return guesses


def _broken(path: Path, error: Exception, *, is_csv: bool) -> str:
    reason = " ".join(str(error).split())[:_SHOWN]
    if not is_csv:
        return (
            f"{path}: not a readable table: no Parquet file, or damaged ({reason}): save or "
            "copy it again"
        )
    return (
        f"{path}: not a readable table ({reason}): expected a .csv file with as many cells in "
        'every row: where the separator was guessed wrongly, say it (such as separator=";")'
    )


def _without_index(
    table: pd.DataFrame, keep: Mapping[str, str] | Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The table without a first column that has no name and only tells rows apart."""
    if table.shape[1] < 2 or len(table) < _COUNTED:
        return table, []
    name, cells = str(table.columns[0]), table.iloc[:, 0]
    nameless = name == "" or name.startswith(("Unnamed: 0", "__index_level_0__"))
    if nameless and name not in keep:
        is_text = not pd.api.types.is_numeric_dtype(cells)
        if _counts_rows(cells) or (is_text and cells.is_unique):
            return table.iloc[:, 1:], ["left out: a first column without a name, one for each row"]
    counting = [str(n) for n in table.columns if n not in keep and _counts_rows(table[n])]
    hint = f"column {counting[0]!r} counts the rows ({drop_hint(counting[0])})" if counting else ""
    return table, [hint] if hint else []


def _counts_rows(cells: pd.Series) -> bool:
    if not pd.api.types.is_integer_dtype(cells) or len(cells) < _COUNTED:
        return False
    values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    return bool(values[0] in (0, 1) and (np.diff(values) == 1).all())


def _constant_columns(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Columns without two different values, and the one they have, as text."""
    found = []
    for i, name in enumerate(table.columns):
        cells = table.iloc[:, i].dropna()
        if len(cells) and pd.api.types.is_float_dtype(cells):
            values = torch.from_numpy(cells.to_numpy(dtype=np.float64, copy=True))
            varies = bool(column_varies(values[:, None]).item()) or bool(values.isinf().any())
        else:
            text = cells.map(str) if pd.api.types.is_object_dtype(cells) else cells
            varies = text.nunique() > 1
        if not varies:
            found.append((str(name), str(cells.iloc[0]) if len(cells) else ""))
    return tuple(found)


def _tell(path: Path, values: np.ndarray, what: str, guesses: list[str]) -> None:
    """Log one line on what was read; as a warning if something was guessed."""
    missing = int(np.isnan(values).sum())
    told = [*guesses, *([f"{_plural(missing, 'missing cell')} in all"] if missing else [])]
    line = "; ".join([f"{path.name}: {_plural(len(values), 'row')}, {what}", *told])
    _LOG.log(logging.WARNING if guesses else logging.INFO, line)


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (
        f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    )
