"""Text in a table's columns: missing words, numbers as people write them, and what is no label."""

import datetime
import decimal
import re
from collections import Counter
from typing import final

import numpy as np
import pandas as pd

from ppl_vae.data._reading import Reading

_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?|[+-]?\d+")
_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?|[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([ T].*)?"
)
_PERCENT = re.compile(r"[+-]?\d+([.,]\d+)?\s*%")
_MANY_LABELS = 10
_SHOWN = 60
"""Characters of a cell in a message."""


def read_text_columns(
    table: pd.DataFrame, reading: Reading, where: str, *, commas: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The table with missing words and written numbers read, and what was guessed in words.

    Args:
        table: The cells, missing words as text.
        reading: How they are to be read.
        where: The file, for messages.
        commas: Whether a decimal comma in one column makes one of every comma: not where commas
            also separate cells.

    Raises:
        ValueError: If numbers are written with decimal commas here and decimal points there.
    """
    words: Counter[str] = Counter()
    text = {
        name: _without_missing(table[name], reading.missing_words, words)
        for name in table.columns
        if _is_text(table[name])
    }
    found = {name: _as_numbers(cells, reading.decimal, reading.thousands)
             for name, cells in text.items()}  # fmt: skip
    comma = [name for name, numbers in found.items() if numbers is None
             and reading.decimal == "auto" and _has_decimal_commas(text[name])]  # fmt: skip
    if comma and commas:
        _require_no_points(table, where, str(comma[0]))
        comma = [name for name in found if found[name] is None]
    for name in comma:
        found[name] = _as_numbers(text[name], ",", reading.thousands)
    read = table.copy()
    for name, numbers in found.items():
        read[name] = text[name] if numbers is None else numbers
    guesses = [f"{count} {word!r} read as missing" for word, count in words.most_common(3)]
    named = [str(name) for name in comma if found[name] is not None]
    if named:
        guesses.append(f"decimal commas in {', '.join(named[:3])}")
    return read, guesses


@final
class UnreadableError(ValueError):
    """Cells that cannot be read.

    Attributes:
        problem: What is wrong, and where.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}.")
        self.problem = problem


def unreadable(cells: pd.Series, where: str) -> UnreadableError:
    """Why a column of text is not read as numbers, and what to do about it."""
    present = cells.dropna()
    text = present.astype(str)
    first, name = str(present.iloc[0])[:_SHOWN], cells.name
    column, out = f"{where}: column {name!r}", f"leave it out ({drop_hint(name)})"
    if (odd := _no_cell(present)) is not None:
        return UnreadableError(f"{column} holds {odd}", f"give numbers or text, or {out}")
    if holds_dates(cells):
        return UnreadableError(
            f"{column} holds dates such as {first!r}",
            f"give numbers, such as days since a date, or {out}",
        )
    if text.str.fullmatch(_PERCENT).all():
        return UnreadableError(
            f"{column} holds percentages such as {first!r}", "write them without the sign"
        )
    if text.str.fullmatch(_GROUPS).mean() > 0.5:
        return UnreadableError(
            f"{column} holds numbers such as {first!r}",
            'say what is between thousands or before decimals (thousands="," or decimal=",")',
        )
    if (text.str.fullmatch(_COMMA) & text.str.contains(",", regex=False)).mean() > 0.5:
        return UnreadableError(
            f"{column} holds decimal commas such as {first!r}", 'say so (decimal=",")'
        )
    numbers = pd.to_numeric(present, errors="coerce")
    bad = int(numbers.isna().to_numpy().argmax())
    row = int(np.flatnonzero(cells.notna())[bad]) + 1
    word = str(present.iloc[bad])[:_SHOWN]
    return UnreadableError(
        f"{column} is not numeric: {word!r} in row {row} (counted from 1), while "
        f"{int(numbers.notna().sum())} of {len(present)} cells are numbers",
        f"name a word for missing cells (missing={[word]}), leave it out ({drop_hint(name)}), or "
        f"take it for labels (columns={{{str(name)!r}: 'categorical'}}), which the likelihood "
        "of tables has",
    )


def holds_dates(cells: pd.Series) -> bool:
    """Whether the cells are dates or times, or text that is written so."""
    if isinstance(cells.dtype, pd.PeriodDtype) or cells.dtype.kind in "mM":
        return True
    present = cells.dropna()
    times = (datetime.date, datetime.time, datetime.timedelta)
    if present.map(lambda value: isinstance(value, times)).any():
        return True
    return bool(present.astype(str).str.fullmatch(_DATE).mean() > 0.5)


def require_labels(cells: pd.Series, where: str) -> None:
    """Check that a column of text can be a category that nobody said it is.

    Raises:
        ValueError: If most cells are numbers or dates, or most labels occur once.
    """
    present = cells.dropna()
    text, name = present.astype(str), cells.name
    numeric = pd.to_numeric(text, errors="coerce").notna()
    written = (
        text.str.fullmatch(_PERCENT) | text.str.fullmatch(_GROUPS) | text.str.fullmatch(_COMMA)
    )
    if _no_cell(present) is not None or holds_dates(cells) or (numeric | written).mean() > 0.5:
        raise unreadable(cells, where)
    counts = present.value_counts()
    if len(counts) > _MANY_LABELS and (counts == 1).sum() > len(counts) / 2:
        raise UnreadableError(
            f"{where}: column {name!r} has {len(counts)} labels in {len(present)} rows, most of "
            "them once",
            f"leave it out ({drop_hint(name)}), or name its kind "
            f"(columns={{{str(name)!r}: 'categorical'}})",
        )


def shown(cell: object) -> str:
    """A cell in quotes, as much of it as a message has room for."""
    text = str(cell)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def drop_hint(*names: object) -> str:
    """How columns of a table are left out."""
    return f"drop={[str(name) for name in names]}"


def _is_text(cells: pd.Series) -> bool:
    return pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells)


def _without_missing(cells: pd.Series, missing: frozenset[str], words: Counter[str]) -> pd.Series:
    stripped = cells.astype(object).map(lambda v: v.strip() if isinstance(v, str) else v)
    gone = stripped.map(lambda v: isinstance(v, str) and v in missing).astype(bool)
    words.update(word for word in stripped[gone] if word)
    return stripped.mask(gone, None)


def _as_numbers(cells: pd.Series, point: str, thousands: str | None) -> pd.Series | None:
    """The cells as numbers if all of them are, else None."""
    present = cells.dropna()
    if not present.map(lambda v: isinstance(v, str)).all() or not len(present):
        return None
    text = cells
    if thousands is not None:
        mark = re.escape(thousands)
        grouped = re.compile(rf"[+-]?(\d{{1,3}}({mark}\d{{3}})+|\d+)([.,]\d+)?")
        if present.str.fullmatch(grouped).all():
            text = text.str.replace(thousands, "", regex=False)
    if point == ",":
        if text.dropna().str.contains(".", regex=False).any():
            return None
        text = text.str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(text, errors="coerce")
    read_all = bool((numbers.notna() | cells.isna()).all())
    return numbers.astype(np.float64) if read_all else None


def _has_decimal_commas(cells: pd.Series) -> bool:
    """Whether all cells are numbers with decimal commas, and not all could be thousands."""
    present = cells.dropna()
    if not len(present) or not present.map(lambda v: isinstance(v, str)).all():
        return False
    with_comma = present[present.str.contains(",", regex=False)]
    written = present.str.fullmatch(_COMMA).all() and len(with_comma)
    return bool(written) and not with_comma.str.fullmatch(_GROUPS).all()


def _require_no_points(table: pd.DataFrame, where: str, comma: str) -> None:
    for name in table.columns:
        cells = table[name]
        if cells.dtype.kind == "f" and (cells.dropna() % 1 != 0).any():
            raise ValueError(
                f"{where}: column {comma!r} has decimal commas and column {name!r} points: say "
                'what they are (decimal=",", thousands=".").'
            )


def _no_cell(present: pd.Series) -> str | None:
    """A type that is neither number nor text nor time, such as a list."""
    known = (str, int, float, bool, np.generic, decimal.Decimal, datetime.date, datetime.time,
             datetime.timedelta)  # fmt: skip
    wrong = [type(v).__name__ for v in present.head(1000) if not isinstance(v, known)]
    return f"values of type {wrong[0]}" if wrong else None
