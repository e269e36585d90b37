"""How a table's file is read: what is said, and what is guessed of a CSV file, with a check."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import final

MISSING_WORDS = frozenset(
    ["", "?", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None", "NaN",
     "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"]
)  # fmt: skip
"""Cells that are missing, where nothing else is said: pandas's words and ``?``."""
SEPARATORS = {",": ",", ";": ";", "tab": "\t", "|": "|", "space": r"\s+"}
"""Separators that are tried, by the names of the setting, in order of preference."""
TABLE_SUFFIXES = (".csv", ".parquet")
FILE_SUFFIXES = (".npy", ".npz", *TABLE_SUFFIXES)
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_SAMPLE = 200


@final
@dataclass(frozen=True)
class Reading:
    """How a table's file is read. What is ``auto`` or None is guessed, and the guess is checked.

    Attributes:
        separator: Of a CSV file: ``auto``, ``tab``, ``space`` (any number of them), or a character.
        header: Whether the first row of a CSV file names the columns: ``auto``, ``yes`` or ``no``.
        decimal: ``auto``, ``.`` or ``,``.
        thousands: Character between groups of three digits, or None.
        missing: Words for missing cells beside the empty cell; None: `MISSING_WORDS`.
        drop: Columns to leave out.

    Raises:
        ValueError: If a value is none of these.
    """

    separator: str = "auto"
    header: str = "auto"
    decimal: str = "auto"
    thousands: str | None = None
    missing: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = self.separator in ("auto", *SEPARATORS)
        if not named and (len(self.separator) != 1 or self.separator in "\n\r\"'"):
            raise ValueError(
                f"separator is auto, tab, space or a character, got {self.separator!r}."
            )
        if self.header not in ("auto", "yes", "no"):
            raise ValueError(f"header is auto, yes or no, got {self.header!r}.")
        if self.decimal not in ("auto", ".", ","):
            raise ValueError(f"decimal is auto, a point or a comma, got {self.decimal!r}.")
        if self.thousands is not None and self.thousands not in (".", ",", " ", "'", "_"):
            raise ValueError(
                f"thousands is one of . , ' _ and a blank, or left out, got {self.thousands!r}."
            )
        if self.thousands is not None and self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}: they must differ.")
        if self.separator == self.decimal == ",":
            raise ValueError("separator and decimal are both a comma: they must differ.")

    @property
    def missing_words(self) -> frozenset[str]:
        """Words for missing cells, the empty one among them."""
        return MISSING_WORDS if self.missing is None else frozenset(("", *self.missing))


@final
@dataclass(frozen=True)
class CsvForm:
    """What a CSV file's rows are like.

    Attributes:
        separator: As pandas takes it.
        header: Whether the first row names the columns.
        width: Cells in most rows.
    """

    separator: str
    header: bool
    width: int


def find_form(path: Path, reading: Reading) -> CsvForm:
    """The form of a CSV file, from its first rows where it is not said.

    Raises:
        ValueError: If the first row may be a header or data, or names two columns alike.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(islice(file, _SAMPLE))
    separator = _find_separator(lines, reading)
    rows = _split(lines, separator)
    width = _width(rows)
    if not rows:
        return CsvForm(separator, False, width)
    header = reading.header == "yes"
    if reading.header == "auto":
        header = _guess_header(rows, reading.missing_words, path)
    if header:
        twice = [name for name, count in Counter(rows[0]).items() if name and count > 1]
        if twice:
            raise ValueError(f"{path}: two columns have the name {twice[0]!r}: rename one.")
    return CsvForm(separator, header, width)


def _find_separator(lines: list[str], reading: Reading) -> str:
    """The separator that makes rows of equal length, of numbers if several do."""
    if reading.separator != "auto":
        return SEPARATORS.get(reading.separator, reading.separator)
    best, most = ",", (False, 0.0)
    for candidate in SEPARATORS.values():
        rows = _split(lines, candidate)
        body = rows[1:] or rows
        width = _width(body)
        cells = [cell for row in body for cell in row]
        if width < 2:
            continue
        numbers = sum(_is_number(c) or c in reading.missing_words for c in cells) / len(cells)
        regular = {len(row) for row in body} == {width} and len(rows[0]) in (width, width - 1)
        if candidate == SEPARATORS["space"] and not (regular and numbers > 0.5):
            continue
        if (regular, numbers) > most or (candidate == "," and regular):
            best, most = candidate, (regular, numbers)
    return best


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    if separator == SEPARATORS["space"]:
        return [line.split() for line in lines if line.strip()]
    split = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in split if row]


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Cells in most rows."""
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None or cell.lower().lstrip("+-") in ("inf", "infinity")


def _value(cell: str) -> float | None:
    return float(cell.replace(",", ".")) if _is_number(cell) else None


def _guess_header(rows: Sequence[Sequence[str]], missing: frozenset[str], path: Path) -> bool:
    """Whether the first row names the columns.

    Raises:
        ValueError: If that cannot be told.
    """
    first, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    columns = list(zip(*body, strict=True)) if body else [()] * len(first)
    names = first[1:] if first[0] == "" and len(first) > 1 else first
    columns_of_names = columns[len(first) - len(names) :]
    words = [i for i, c in enumerate(names) if not (_is_number(c) or c in missing)]
    whole = [int(c) for c in names if c.isascii() and c.isdigit()]
    verdict: bool | None
    if words:
        if all(names[i] in columns_of_names[i] for i in words):
            # Labels that come again are cells.
            return False
        others = [c for c in names if _is_number(c)]
        verdict = True if not others or _consecutive(whole, len(others)) else None
    elif len(whole) < len(names) or len(set(whole)) < len(whole):
        return False
    else:
        pairs = list(zip(whole, columns_of_names, strict=True))
        verdict = _whole_numbers(whole, [_place(v, c) for v, c in pairs], first[0] == "")
    if verdict is None:
        shown = ", ".join(first[:6]) + (", ..." if len(first) > 6 else "")
        raise ValueError(
            f"{path}: the first row ({shown}) may be names or data: say which "
            '(header="yes" or header="no").'
        )
    return verdict


def _whole_numbers(names: list[int], places: list[str], nameless: bool) -> bool | None:
    """Whether a first row of different whole numbers names the columns; None: cannot be told."""
    one, foreign = len(names) == 1, all(place == "outside" for place in places)
    numbered = _consecutive(names, len(names)) or nameless
    if one and not nameless:
        suspicious = foreign or (names == [0] and places == ["odd"])
        return None if suspicious else False
    if foreign or (numbered and all(place != "usual" for place in places)):
        return True
    if numbered and "outside" in places:
        return True
    return None if numbered else False


def _consecutive(values: list[int], expected: int) -> bool:
    return len(values) == expected > 0 and values == list(range(values[0], values[0] + len(values)))


def _place(value: float, column: Sequence[str]) -> str:
    """Where a whole number stands in a column: outside its range, odd among fractions, usual."""
    found = [v for v in map(_value, column) if v is not None]
    if not found:
        return "odd"
    low, high = min(found), max(found)
    if not low - (high - low) <= value <= high + (high - low):
        return "outside"
    fractions = sum(v != round(v) for v in found)
    return "odd" if fractions > len(found) / 2 else "usual"
