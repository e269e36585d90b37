"""What the columns of a table hold: kinds, and the labels that codes stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
import pandas as pd

from ppl_vae.data._text_columns import holds_dates, require_labels, shown, unreadable

ColumnKind = Literal["real", "positive", "count", "binary", "categorical", "ordinal"]
"""Real numbers, positive ones, whole ones from 0, one of two, one of several, one of an order."""

KINDS: tuple[ColumnKind, ...] = get_args(ColumnKind)
CODED: tuple[ColumnKind, ...] = ("binary", "categorical", "ordinal")
_MOST_LABELS = 1000


@final
@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name.
        kind: What its values are.
        labels: Of coded kinds, what the codes 0, 1, ... stand for; otherwise empty.
    """

    name: str
    kind: ColumnKind
    labels: tuple[str, ...] = ()


def encode_table(
    table: pd.DataFrame, kinds: Mapping[str, str] | None = None, where: str = "table"
) -> tuple[np.ndarray, tuple[Column, ...]]:
    """Numbers and codes for all cells, NaN for missing ones, and what they are.

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

    Raises:
        ValueError: If a column is missing, or a label is unknown.
    """
    missing = [column.name for column in columns if column.name not in table.columns]
    if missing:
        raise ValueError(f"{where}: no column {missing[0]!r}, which the model was trained with.")
    coded = [
        _codes(table[column.name], column, where)
        if column.labels
        else numeric_cells(table[column.name], column.name, where)
        for column in columns
    ]
    return np.stack(coded, 1)


def decode_table(values: np.ndarray, columns: Sequence[Column]) -> pd.DataFrame:
    """The reverse: numbers and labels as a table; NaN becomes a missing cell."""
    decoded: dict[str, object] = {}
    for i, column in enumerate(columns):
        cells = values[:, i]
        if column.labels:
            labels = np.array([*column.labels, None], dtype=object)
            decoded[column.name] = labels[np.where(np.isnan(cells), -1, cells).astype(int)]
        else:
            decoded[column.name] = cells
    return pd.DataFrame(decoded)


def numeric_cells(cells: pd.Series, name: str, where: str) -> np.ndarray:
    """The cells of one column as numbers, float64, missing ones as NaN.

    Raises:
        ValueError: If one is no number.
    """
    if pd.api.types.is_numeric_dtype(cells):
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)
    text = cells.astype(object)
    # Dates would convert to nanoseconds.
    dates = holds_dates(cells)
    numbers = text.where(text.isna(), np.nan) if dates else pd.to_numeric(text, errors="coerce")
    if (cells.notna() & numbers.isna()).any():
        raise unreadable(cells, where)
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _encode(
    cells: pd.Series, name: str, asked: str | None, where: str
) -> tuple[np.ndarray, Column]:
    kind, _, order = (asked or _looks_like(cells, where)).partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"{where}: column {name!r} cannot be {kind!r}: kinds are {', '.join(KINDS)}."
        )
    if kind not in CODED:
        values = numeric_cells(cells, name, where)
        _require(values, name, kind, where)
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
    """What a column holds, as far as its cells say so plausibly.

    Raises:
        ValueError: If it is text that is no plausible category.
    """
    present = cells.dropna()
    if holds_dates(cells):
        raise unreadable(cells, where)
    if present.map(str).nunique() == 2:
        return "binary"
    numeric = (
        pd.api.types.is_numeric_dtype(present)
        or pd.to_numeric(present.astype(object), errors="coerce").notna().all()
    )
    if not numeric:
        require_labels(cells, where)
    return "real" if numeric else "categorical"


def _labels(cells: pd.Series) -> tuple[str, ...]:
    """All values that occur, numbers by size and text by letters, as text."""
    present = cells.dropna().unique()
    try:
        ordered = sorted(present, key=float)
    except (TypeError, ValueError):
        ordered = sorted(present, key=str)
    return tuple(dict.fromkeys(_text(value) for value in ordered))


def _text(value: object) -> str:
    """A whole number without a decimal point, which a column with missing cells would have."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _codes(cells: pd.Series, column: Column, where: str) -> np.ndarray:
    codes = {label: float(code) for code, label in enumerate(column.labels)}
    found = np.full(len(cells), np.nan)
    for row, (value, missing) in enumerate(zip(cells, cells.isna(), strict=True)):
        if missing:
            continue
        if _text(value) not in codes:
            raise ValueError(
                f"{where}: column {column.name!r} holds {shown(_text(value))} in row "
                f"{row + 1}, expected one of {', '.join(map(shown, column.labels[:10]))}."
            )
        found[row] = codes[_text(value)]
    return found


def _require(values: np.ndarray, name: str, kind: str, where: str) -> None:
    present = values[~np.isnan(values)]
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
