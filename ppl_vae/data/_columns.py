"""Columns of a table: their kinds, the labels that codes stand for, and cells that do not fit."""

import datetime
import decimal
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ppl_vae.data._kinds import (
    CODED,
    KINDS,
    Column,
    ColumnKind,
    drop_hint,
)
from ppl_vae.names import ValuesError

_MOST_LABELS = 1000
_MANY_LABELS = 10
"""Largest number of labels of a category where most labels occur once."""
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?|[+-]?\d+")
GROUPS_OF_DIGITS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?|[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([ T].*)?"
)
_PERCENT = re.compile(r"[+-]?\d+([.,]\d+)?\s*%")
_SHOWN = 60
"""Largest number of characters of a cell in a message."""


def encode_table(
    table: pd.DataFrame, kinds: Mapping[str, str] | None = None, where: str = "table"
) -> tuple[np.ndarray, tuple[Column, ...]]:
    """Encode a table as numbers and codes, NaN for missing cells, and describe its columns.

    A column is binary where it holds two different values, categorical where it holds text, and
    otherwise real, unless ``kinds`` says what it is. An order other than that of numbers or letters
    is written out: ``ordinal:low<middle<high``.

    Args:
        table: The cells.
        kinds: Column to kind, for columns that are not what they look like.
        where: The file, for messages.

    Returns:
        Values, float64 of shape (rows, columns), and the columns.

    Raises:
        ValueError: If a kind is unknown, or is of no such column, or a cell is not of its kind.
    """
    kinds = dict(kinds or {})
    names = [str(name) for name in table.columns]
    for name in kinds:
        if name not in names:
            raise ValueError(f"{where}: no column {name!r}: it has {', '.join(names)}.")
    values, columns = np.empty(table.shape), []
    for i, name in enumerate(names):
        values[:, i], column = _encode(table.iloc[:, i], name, kinds.get(name), where)
        columns.append(column)
    return values, tuple(columns)


def code_with(table: pd.DataFrame, columns: Sequence[Column], where: str = "table") -> np.ndarray:
    """The cells of another table with the same columns, coded as these columns say.

    Args:
        table: The cells.
        columns: Columns wanted, in this order; further ones of the table are left out.
        where: The file, for messages.

    Raises:
        ValueError: If a column is missing, a label unknown, or a cell that must be is no number.
    """
    _require_columns(table, [column.name for column in columns], where)
    values = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        cells = table[column.name]
        values[:, i] = _codes(cells, column, where) if column.labels else _numbers(cells, where)
    return values


def read_numbers(table: pd.DataFrame, where: str, names: Sequence[str] | None = None) -> np.ndarray:
    """The cells as numbers, float64 of shape (rows, columns), missing ones as NaN.

    Args:
        table: The cells.
        where: The file, for messages.
        names: Columns wanted, in this order; None: all.

    Raises:
        ValueError: If a column is missing or holds anything but numbers.
    """
    if names is not None:
        _require_columns(table, names, where)
        table = table[list(names)]
    values = np.empty(table.shape, dtype=np.float64)
    for i in range(table.shape[1]):
        values[:, i] = _numbers(table.iloc[:, i], where)
    return values


def _require_columns(table: pd.DataFrame, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ValueError(f"{where}: no column {missing[0]!r}, which the model was trained with.")


def decode_table(values: np.ndarray, columns: Sequence[Column]) -> pd.DataFrame:
    """Turn numbers and codes back into a table with labels; NaN becomes a missing cell."""
    decoded: dict[str, object] = {}
    for i, column in enumerate(columns):
        cells = values[:, i]
        if column.labels:
            # A missing cell takes the last entry, by the index -1.
            labels = np.array([*column.labels, None], dtype=object)
            decoded[column.name] = labels[np.where(np.isnan(cells), -1, cells).astype(int)]
        else:
            decoded[column.name] = cells
    return pd.DataFrame(decoded)


def _encode(
    cells: pd.Series, name: str, chosen: str | None, where: str
) -> tuple[np.ndarray, Column]:
    kind, _, order = (chosen or _looks_like(cells, where)).partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"{where}: column {name!r} cannot be {kind!r}: kinds are {', '.join(KINDS)}."
        )
    if kind not in CODED:
        values = _numbers(cells, where)
        # A missing cell is of every kind.
        _require_kind(values[~np.isnan(values)], name, kind, where)
        return values, Column(name, kind)
    labels = tuple(order.split("<")) if order else _labels(cells)
    if kind == "binary" and len(labels) > 2:
        raise ValueError(
            f"{where}: column {name!r} has {len(labels)} values, and a binary one has two: name it "
            "categorical."
        )
    if not 1 <= len(labels) <= _MOST_LABELS:
        raise ValueError(
            f"{where}: column {name!r} has {len(labels)} different labels, expected 1 to "
            f"{_MOST_LABELS}: drop it, or name its kind (real, count, ...)."
        )
    column = Column(name, kind, labels)
    return _codes(cells, column, where), column


def _looks_like(cells: pd.Series, where: str) -> ColumnKind:
    """Kind of a column, as far as its cells make one plausible.

    Raises:
        ValueError: If it is text that is no plausible category: if most cells are numbers or dates,
            or most labels occur once.
    """
    present, name = cells.dropna(), cells.name
    # Before two different values make a column binary: two dates are no labels.
    if _holds_dates(cells):
        raise _unreadable(cells, where)
    # As text, since cells such as lists have no hash; those are refused below.
    if present.map(str).nunique() == 2:
        return "binary"
    if (
        pd.api.types.is_numeric_dtype(present)
        or pd.to_numeric(present.astype(object), errors="coerce").notna().all()
    ):
        return "real"
    text = present.astype(str)
    numeric = pd.to_numeric(text, errors="coerce").notna()
    for pattern in (_PERCENT, GROUPS_OF_DIGITS, DECIMAL_COMMA):
        numeric |= text.str.fullmatch(pattern)
    # A few words among numbers are missing cells or mistakes, not one label for each number.
    if _other_type(present) is not None or numeric.mean() > 0.5:
        raise _unreadable(cells, where)
    # Names and keys, of which most occur once, tell rows apart and not groups of rows.
    counts = present.value_counts()
    if len(counts) > _MANY_LABELS and (counts == 1).sum() > len(counts) / 2:
        raise ValuesError(
            f"{where}: column {name!r} has {len(counts)} labels in {len(present)} rows, most of "
            "them once",
            f"leave it out ({drop_hint(name)}), or name its kind "
            f"(columns={{{str(name)!r}: 'categorical'}})",
        )
    return "categorical"


def _labels(cells: pd.Series) -> tuple[str, ...]:
    """Labels of all values that occur, numbers sorted by size and text by letters."""
    present = cells.dropna().unique()
    try:
        # As text, 10 would come before 2.
        ordered = sorted(present, key=float)
    except (TypeError, ValueError):
        ordered = sorted(present, key=str)
    # The numbers 1 and 1.0 are one label.
    return tuple(dict.fromkeys(_text(value) for value in ordered))


def _text(value: object) -> str:
    """A whole number without a decimal point, which a column with missing cells would have."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _codes(cells: pd.Series, column: Column, where: str) -> np.ndarray:
    codes = {label: float(code) for code, label in enumerate(column.labels)}
    values = np.full(len(cells), np.nan)
    for row, (value, missing) in enumerate(zip(cells, cells.isna(), strict=True)):
        if missing:
            continue
        if _text(value) not in codes:
            raise ValueError(
                f"{where}: column {column.name!r} holds {shown(_text(value))} in row "
                f"{row + 1}, expected one of {', '.join(map(shown, column.labels[:10]))}."
            )
        values[row] = codes[_text(value)]
    return values


def _numbers(cells: pd.Series, where: str) -> np.ndarray:
    """The cells of one column as numbers, float64, missing ones as NaN."""
    if not pd.api.types.is_numeric_dtype(cells):
        text = cells.astype(object)
        # pandas would make nanoseconds of dates.
        dates = _holds_dates(cells)
        numbers = text.where(text.isna(), np.nan) if dates else pd.to_numeric(text, errors="coerce")
        if (cells.notna() & numbers.isna()).any():
            raise _unreadable(cells, where)
        cells = numbers
    # pandas's nullable types have an NA that is no float.
    return cells.to_numpy(dtype=np.float64, na_value=np.nan)


def _require_kind(present: np.ndarray, name: str, kind: str, where: str) -> None:
    wrong = ~np.isfinite(present)
    if kind == "positive":
        wrong |= present <= 0
    if kind == "count":
        wrong |= (present < 0) | (present != np.round(present))
    if wrong.any():
        expected = {"positive": "numbers above 0", "count": "whole numbers from 0"}
        raise ValueError(
            f"{where}: column {name!r} holds {present[wrong][0]:g}, expected "
            f"{expected.get(kind, 'finite numbers')}: name its kind real."
        )


def _unreadable(cells: pd.Series, where: str) -> ValuesError:
    """Error that says why a column of text is not read as numbers, and what to do about it."""
    present = cells.dropna()
    text = present.astype(str)
    first, name = str(present.iloc[0])[:_SHOWN], cells.name
    column, out = f"{where}: column {name!r}", f"leave it out ({drop_hint(name)})"
    if (other := _other_type(present)) is not None:
        return ValuesError(f"{column} holds {other}", f"give numbers or text, or {out}")
    if _holds_dates(cells):
        return ValuesError(
            f"{column} holds dates such as {first!r}",
            f"give numbers, such as days since a date, or {out}",
        )
    if text.str.fullmatch(_PERCENT).all():
        return ValuesError(
            f"{column} holds percentages such as {first!r}", "write them without the sign"
        )
    # Before decimal commas, which 1,234 would pass for too.
    if text.str.fullmatch(GROUPS_OF_DIGITS).mean() > 0.5:
        return ValuesError(
            f"{column} holds numbers such as {first!r}",
            'say what is between thousands or before decimals (thousands="," or decimal=",")',
        )
    if (text.str.fullmatch(DECIMAL_COMMA) & text.str.contains(",", regex=False)).mean() > 0.5:
        return ValuesError(
            f"{column} holds decimal commas such as {first!r}", 'say so (decimal=",")'
        )
    numbers = pd.to_numeric(present, errors="coerce")
    bad = int(numbers.isna().to_numpy().argmax())
    # A row of the file: missing cells, dropped here, count there.
    row = int(np.flatnonzero(cells.notna())[bad]) + 1
    word = str(present.iloc[bad])[:_SHOWN]
    return ValuesError(
        f"{column} is not numeric: {word!r} in row {row} (counted from 1), while "
        f"{int(numbers.notna().sum())} of {len(present)} cells are numbers",
        f"name a word for missing cells (missing={[word]}), {out}, or take it for labels "
        f"(columns={{{str(name)!r}: 'categorical'}}), which the likelihood of tables has",
    )


def _holds_dates(cells: pd.Series) -> bool:
    """Whether the cells are dates or times, or text that is written so."""
    if isinstance(cells.dtype, pd.PeriodDtype) or cells.dtype.kind in "mM":
        return True
    present = cells.dropna()
    times = (datetime.date, datetime.time, datetime.timedelta)
    if present.map(lambda value: isinstance(value, times)).any():
        return True
    return bool(present.astype(str).str.fullmatch(_DATE).mean() > 0.5)


def _other_type(present: pd.Series) -> str | None:
    """A type that is neither number nor text nor time, such as a list."""
    known = (str, int, float, bool, np.generic, decimal.Decimal, datetime.date, datetime.time,
             datetime.timedelta)  # fmt: skip
    wrong = [type(v).__name__ for v in present.head(1000) if not isinstance(v, known)]
    return f"values of type {wrong[0]}" if wrong else None


def shown(cell: object) -> str:
    """A cell in quotes, as much of it as a message has room for."""
    text = str(cell)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
