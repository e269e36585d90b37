"""Form of a CSV file: separator and header, guessed from its first rows, with a check."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ppl_vae.data._csv import SEPARATORS, CsvForm, Reading, parsing
from ppl_vae.names import ValuesError

_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_SAMPLE = 200
"""Number of lines that the form of a file is guessed from."""


def find_form(path: Path, reading: Reading) -> CsvForm:
    """The form of a CSV file, from its first rows where it is not said.

    Raises:
        ValueError: If the first row may be a header or data, or names two columns alike.
    """
    with parsing(path):
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
        # The names in a header would speak against numbers.
        body = rows[1:] or rows
        width = _width(body)
        cells = [cell for row in body for cell in row]
        if width < 2:
            continue
        numbers = sum(_is_number(c) or c in reading.missing_words for c in cells) / len(cells)
        regular = {len(row) for row in body} == {width} and len(rows[0]) in (width, width - 1)
        # Text has blanks everywhere: they separate cells only if most of these are numbers.
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
    """Number of cells in most rows."""
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None or cell.lower().lstrip("+-") in ("inf", "infinity")


def _guess_header(rows: Sequence[Sequence[str]], missing: frozenset[str], path: Path) -> bool:
    """Whether the first row names the columns.

    Raises:
        ValueError: If that cannot be told.
    """
    first, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    columns = list(zip(*body, strict=True)) if body else [()] * len(first)
    # A table written with its index has no name for the first column.
    names = first[1:] if first[0] == "" and len(first) > 1 else first
    columns_of_names = columns[len(first) - len(names) :]
    words = [i for i, c in enumerate(names) if not (_is_number(c) or c in missing)]
    integers = [int(c) for c in names if c.isascii() and c.isdigit()]
    is_header: bool | None
    if words:
        if all(names[i] in columns_of_names[i] for i in words):
            # Labels that come again are cells.
            return False
        others = [c for c in names if _is_number(c)]
        # Words beside numbers are names if the numbers count the columns; else they may be data.
        is_header = True if not others or _consecutive(integers, len(others)) else None
    # Fractions, missing words and repeated numbers name no columns.
    elif len(integers) < len(names) or len(set(integers)) < len(integers):
        return False
    else:
        pairs = zip(integers, columns_of_names, strict=True)
        places = [_place(value, cells) for value, cells in pairs]
        is_header = _integers_are_names(integers, places, nameless=first[0] == "")
    if is_header is None:
        shown = ", ".join(first[:6]) + (", ..." if len(first) > 6 else "")
        raise ValuesError(
            f"{path}: the first row ({shown}) may be names or data",
            'say which (header="yes" or header="no")',
        )
    return is_header


def _integers_are_names(names: list[int], places: list[str], *, nameless: bool) -> bool | None:
    """Whether a first row of different whole numbers names the columns; None: cannot be told."""
    all_outside = all(place == "outside" for place in places)
    numbered = _consecutive(names, len(names)) or nameless
    if len(names) == 1 and not nameless:
        # One number is no sequence: it is refused where it is unusual, else it is data.
        suspicious = all_outside or (names == [0] and places == ["odd"])
        return None if suspicious else False
    if all_outside or (numbered and all(place != "usual" for place in places)):
        return True
    if numbered and "outside" in places:
        return True
    return None if numbered else False


def _consecutive(values: list[int], expected: int) -> bool:
    return len(values) == expected > 0 and values == list(range(values[0], values[0] + len(values)))


def _place(value: float, column: Sequence[str]) -> str:
    """Place of a whole number in a column: outside its range, odd among fractions, or usual."""
    numbers = [float(cell.replace(",", ".")) for cell in column if _is_number(cell)]
    if not numbers:
        return "odd"
    low, high = min(numbers), max(numbers)
    # A whole range further out, since the sample's range is less than the file's.
    if not low - (high - low) <= value <= high + (high - low):
        return "outside"
    fractions = sum(v != round(v) for v in numbers)
    return "odd" if fractions > len(numbers) / 2 else "usual"
