"""Tables: CSV and Parquet files as data sets, and as new rows."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ppl_vae.data._arrays import MIN_ROWS, TestRows, dataset_from_array
from ppl_vae.data._columns import (
    DECIMAL_COMMA,
    GROUPS_OF_DIGITS,
    code_with,
    encode_table,
    read_numbers,
    shown,
)
from ppl_vae.data._csv import CsvForm, Reading, read_csv
from ppl_vae.data._csv_form import find_form
from ppl_vae.data._dataset import Dataset, Splitting
from ppl_vae.data._kinds import drop_hint, is_nameless
from ppl_vae.data._parquet import large_parquet, read_parquet
from ppl_vae.data._precision import column_varies
from ppl_vae.data._rows import RowTensor
from ppl_vae.data._schema import Conversion, Schema, check_finite
from ppl_vae.files import not_a_file
from ppl_vae.names import ValuesError, first_few, plural

_LOG = logging.getLogger(__name__)
_DESCRIBED = 8
"""Largest number of columns that a description names."""
_COUNTED = 3
"""Smallest number of rows that a column 0, 1, 2, ... is taken to count."""


def load_table_file(
    path: Path,
    reading: Reading,
    kinds: Mapping[str, str] | None = None,
    *,
    allow_missing: bool = False,
    splitting: Splitting | None = None,
    test_rows: TestRows | None = None,
) -> Dataset:
    """Load a .csv or .parquet file, of numbers or of columns of any kind.

    Without ``kinds`` (column to kind, as for :func:`~ppl_vae.data.encode_table`) all columns are
    numbers. With them missing cells are kept, labels become codes, and a column that never varies,
    which has no density, is left out.

    Raises:
        ValueError: If the file is broken, a cell is not of its column's kind, or no column varies.
    """
    if kinds is None and (numbers := large_parquet(path, reading)) is not None:
        _LOG.info("%s: %s, read from a temporary file", path.name, plural(len(numbers[0]), "row"))
        return dataset_from_array(
            numbers[0],
            path.stem,
            feature_names=numbers[1],
            allow_missing=allow_missing,
            splitting=splitting,
            conversion=Conversion(reading),
            test_rows=test_rows,
        )
    table, guesses = read_cells(path, reading, keep=kinds or {})
    if not len(table):
        raise ValueError(f"{path} holds no data: give at least {MIN_ROWS} rows below the header")
    constants: list[tuple[str, str]] = []
    if kinds is None:
        values, columns = read_numbers(table, str(path)), None
        what = f"{plural(table.shape[1], 'column')} of numbers"
    else:
        constants = _constant_columns(table)
        if constants and len(constants) == table.shape[1] and len(table):
            raise ValueError(f"{path}: nothing to learn from: no column holds different values.")
        if constants:
            named = [f"{name!r} ({value or 'empty'})" for name, value in constants]
            guesses = [*guesses, f"left out, never varying: {first_few(named)}"]
        names = [name for name, _ in constants]
        table = table.drop(columns=names)
        varying = {name: kind for name, kind in kinds.items() if name not in names}
        values, columns = encode_table(table, varying, str(path))
        count = Counter(column.kind for column in columns)
        listed = ", ".join(f"{number} {kind}" for kind, number in count.items())
        what = f"{listed} column{'s' if len(columns) > 1 else ''}"
    missing = int(np.isnan(values).sum())
    notes = [*guesses, *([f"{plural(missing, 'missing cell')} in all"] if missing else [])]
    line = "; ".join([f"{path.name}: {plural(len(values), 'row')}, {what}", *notes])
    # What was guessed may be wrong, and is to be read.
    _LOG.log(logging.WARNING if guesses else logging.INFO, line)
    if columns is None:
        check_finite(values, str(path), list(table.columns), allow_missing=allow_missing)
    dataset = dataset_from_array(
        values,
        path.stem,
        feature_names=list(table.columns),
        allow_missing=allow_missing or columns is not None,
        splitting=splitting,
        columns=columns,
        conversion=Conversion(reading, constants=tuple(constants)),
        test_rows=test_rows,
    )
    if columns is None:
        return dataset
    described = first_few([f"{column.name} {column.kind}" for column in columns], _DESCRIBED)
    share = f"{dataset.missing_share:.1%} of the cells missing"
    sentence = f"Columns: {described}; {share}."
    return replace(dataset, description=f"{dataset.description} {sentence}")


def rows_of_table(
    table: pd.DataFrame, like: Schema, path: Path
) -> Float[RowTensor, "rows features"]:
    """Rows of the cells of a table, as :func:`~ppl_vae.data.read_rows` makes them.

    Args:
        table: The cells, as :func:`read_table` reads them.
        like: What a row of the training data was.
        path: The file, for messages.

    Raises:
        ValueError: If a column is missing, a cell is not of its column's kind, or a column that
            was constant among the training rows is not here.
    """
    # The model says nothing of other values than the one that a constant column had.
    constants = dict(like.conversion.constants)
    for name in constants.keys() & set(table.columns):
        _require_constant(table[name], constants[name], path)
    known = {*constants, *(like.feature_names or table.columns)}
    if others := [repr(name) for name in table.columns if name not in known]:
        _LOG.warning("%s: left out, unknown to the model: %s", path.name, first_few(others))
    if like.columns is not None:
        values = code_with(table, like.columns, str(path))
    else:
        values = read_numbers(table, str(path), like.feature_names)
    if missing := int(np.isnan(values).sum()):
        _LOG.info("%s: %s of %s cells missing", path.name, f"{missing:,}", f"{values.size:,}")
    return like.rows(values, str(path))


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

    Columns in ``keep`` stay even if they have no name and count the rows. ``drop_all`` says that
    columns to be left out must be there.
    """
    if not path.is_file():
        raise not_a_file(path, f"{path}: no such file: check the path.")
    form = find_form(path, reading) if path.suffix.lower() == ".csv" else None
    table = read_parquet(path) if form is None else read_csv(path, form, reading)
    table, index = _without_index(table, keep)
    table.columns = pd.Index([str(name) for name in table.columns])
    for name in reading.drop:
        if drop_all and name not in table.columns:
            listed = first_few(list(table.columns))
            raise ValueError(f"{path}: no column {name!r}: it has {listed}.")
    table = table.drop(columns=list(reading.drop), errors="ignore")
    commas = form is not None and form.separator != ","
    table, read = _read_text_columns(table, reading, str(path), commas=commas)
    return table, [*_guesses(form, reading, list(table.columns)), *index, *read]


def _read_text_columns(
    table: pd.DataFrame, reading: Reading, where: str, *, commas: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The table with missing words and written numbers read, and what was guessed in words.

    ``commas`` says that a decimal comma in one column makes one of every comma: not where commas
    also separate cells.

    Raises:
        ValueError: If numbers are written with decimal commas here and decimal points there.
    """
    words: Counter[str] = Counter()
    text, numbers = {}, {}
    for name, cells in table.items():
        if pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells):
            text[name] = _without_missing(cells, reading.missing_words, words)
            numbers[name] = _as_numbers(text[name], reading.decimal, reading.thousands)
    comma = [name for name, column in numbers.items() if column is None
             and reading.decimal == "auto" and _has_decimal_commas(text[name])]  # fmt: skip
    if comma and commas:
        for name, cells in table.items():
            if cells.dtype.kind == "f" and (cells.dropna() % 1 != 0).any():
                raise ValuesError(
                    f"{where}: column {str(comma[0])!r} has decimal commas and column {name!r} "
                    "points",
                    'say what they are (decimal=",", thousands=".")',
                )
        # A whole number has no comma: other columns show theirs only among larger numbers.
        comma = [name for name, column in numbers.items() if column is None]
    for name in comma:
        numbers[name] = _as_numbers(text[name], ",", reading.thousands)
    read = table.copy()
    for name, column in numbers.items():
        read[name] = text[name] if column is None else column
    guesses = [f"{count} {word!r} read as missing" for word, count in words.most_common(3)]
    with_commas = [str(name) for name in comma if numbers[name] is not None]
    if with_commas:
        guesses.append(f"decimal commas in {', '.join(with_commas[:3])}")
    return read, guesses


def _without_missing(cells: pd.Series, missing: frozenset[str], words: Counter[str]) -> pd.Series:
    stripped = cells.astype(object).map(lambda v: v.strip() if isinstance(v, str) else v)
    is_missing = stripped.map(lambda v: isinstance(v, str) and v in missing).astype(bool)
    words.update(word for word in stripped[is_missing] if word)
    return stripped.mask(is_missing, None)


def _as_numbers(cells: pd.Series, point: str, thousands: str | None) -> pd.Series | None:
    """The cells as numbers if all of them are, else None."""
    present = cells.dropna()
    if not present.map(lambda v: isinstance(v, str)).all() or not len(present):
        return None
    text = cells
    if thousands is not None:
        between = re.escape(thousands)
        grouped = re.compile(rf"[+-]?(\d{{1,3}}({between}\d{{3}})+|\d+)([.,]\d+)?")
        if present.str.fullmatch(grouped).all():
            text = text.str.replace(thousands, "", regex=False)
    if point == ",":
        if text.dropna().str.contains(".", regex=False).any():
            return None
        text = text.str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(text, errors="coerce")
    all_read = bool((numbers.notna() | cells.isna()).all())
    return numbers.astype(np.float64) if all_read else None


def _has_decimal_commas(cells: pd.Series) -> bool:
    """Whether all cells are numbers with decimal commas, and not all could be thousands."""
    present = cells.dropna()
    if not len(present) or not present.map(lambda v: isinstance(v, str)).all():
        return False
    with_comma = present[present.str.contains(",", regex=False)]
    written = present.str.fullmatch(DECIMAL_COMMA).all() and len(with_comma)
    return bool(written) and not with_comma.str.fullmatch(GROUPS_OF_DIGITS).all()


def _guesses(form: CsvForm | None, reading: Reading, names: list[str]) -> list[str]:
    """Guesses about a CSV file's form that are not the usual ones."""
    if form is None:
        return []
    guesses = []
    if reading.separator == "auto" and form.separator != ",":
        guesses.append(f"separator {form.separator!r}")
    if reading.header == "auto" and not form.header:
        guesses.append("no header")
    elif reading.header == "auto" and names and all(name.isdigit() for name in names):
        guesses.append(f"first row taken for names ({first_few(names)})")
    return guesses


def _without_index(
    table: pd.DataFrame, keep: Mapping[str, str] | Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The table without a first column that has no name and only tells rows apart."""
    if table.shape[1] < 2 or len(table) < _COUNTED:
        return table, []
    name, cells = str(table.columns[0]), table.iloc[:, 0]
    if is_nameless(name) and name not in keep:
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


def _constant_columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Columns without two different values, and the one they have, as text."""
    constants = []
    for i, name in enumerate(table.columns):
        cells = table.iloc[:, i].dropna()
        if len(cells) and pd.api.types.is_float_dtype(cells):
            values = torch.from_numpy(cells.to_numpy(dtype=np.float64, copy=True))
            # An infinite cell leaves no variance; it is to be refused as such, not left out.
            varies = bool(column_varies(values[:, None]).item()) or bool(values.isinf().any())
        else:
            text = cells.map(str) if pd.api.types.is_object_dtype(cells) else cells
            varies = text.nunique() > 1
        if not varies:
            constants.append((str(name), str(cells.iloc[0]) if len(cells) else ""))
    return constants


def _require_constant(cells: pd.Series, value: str, path: Path) -> None:
    """Check that a column the model was trained without, since it never varied, does not here."""
    number = pd.to_numeric(value, errors="coerce")
    # As numbers where they are: 1 and 1.0 are one constant.
    if pd.notna(number) and pd.to_numeric(cells, errors="coerce").notna().all():
        differs = cells.notna() & (cells != number)
    else:
        differs = cells.notna() & (cells.map(str) != value)
    if differs.any():
        row = int(differs.to_numpy().argmax())
        raise ValueError(
            f"{path}: column {str(cells.name)!r} holds {shown(cells.iloc[row])} in row {row + 1}, "
            f"and was {value or 'empty'} in all rows that the model was trained with: leave these "
            "rows out."
        )
