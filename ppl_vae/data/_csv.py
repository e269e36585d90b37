"""CSV files: settings of their reading, and rows that end early."""

import csv
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast, final

from ppl_vae.names import ValuesError

if TYPE_CHECKING:
    import pandas as pd

MISSING_WORDS = frozenset(
    ["", "?", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None", "NaN",
     "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"]
)  # fmt: skip
"""Cells that are missing, where nothing else is said: pandas's words and ``?``."""
SEPARATORS = {",": ",", ";": ";", "tab": "\t", "|": "|", "space": r"\s+"}
"""Separators that are tried, by the names of the setting, in order of preference."""
_CHUNK = 1 << 20
"""Number of characters that are handed to pandas at once."""
_SHOWN = 300
"""Largest number of characters of a parser's message in ours."""


@final
@dataclass(frozen=True)
class Reading:
    """Settings of a table's reading. Those of ``auto`` or None are guessed, with a check.

    Attributes:
        separator: Separator of a CSV file: ``auto``, ``tab``, ``space`` (any number of them), or a
            character.
        header: Whether the first row of a CSV file names the columns: ``auto``, ``yes`` or ``no``.
        decimal: Character before the decimals of a table's numbers: ``auto``, ``.`` or ``,``.
        thousands: Character between groups of three digits of a table's numbers; None: none.
        missing: Words for missing cells of a table beside the empty cell; None: ?, NA, NaN, null
            and others that pandas knows.
        drop: Columns of a table to leave out.

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
    """Form of a CSV file's rows.

    Attributes:
        separator: As pandas takes it.
        header: Whether the first row names the columns.
        width: Cells in most rows.
    """

    separator: str
    header: bool
    width: int


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Report whatever a parser raises inside as one line on the file.

    Raises:
        ValueError: If the parser fails: those of CSV and Parquet have exceptions of every kind.
    """
    # Imported with the first table: this module is read with the settings of every data set.
    import pandas as pd

    is_csv = path.suffix.lower() == ".csv"
    try:
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would drop their last cells with a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except UnicodeDecodeError as error:
        if b"\0" in error.object:
            raise ValueError(
                f"{path}: not a readable table of text: it is a file of another kind."
            ) from error
        raise ValueError(
            f"{path}: not a readable table: byte 0x{error.object[error.start]:02x} is not UTF-8 "
            "text: save it as UTF-8, such as with iconv -f latin1 -t utf-8"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        if isinstance(error, pd.errors.EmptyDataError):
            raise ValueError(f"{path} is empty: give a table with a header and rows.") from error
        if is_csv:
            raise ValuesError(
                f"{path}: not a readable table ({reason}): expected a .csv file with as many cells "
                "in every row",
                'where the separator was guessed wrongly, say it (such as separator=";")',
            ) from error
        raise ValueError(
            f"{path}: not a readable table: no Parquet file, or damaged ({reason}): save or "
            "copy it again"
        ) from error


def read_csv(path: Path, form: CsvForm, reading: Reading) -> "pd.DataFrame":
    """The cells of a CSV file; those of text and missing words as they are written.

    Raises:
        ValueError: If a row ends early. pandas would fill it up, but the last row of a file that
            was cut off ends early, and its last number is cut too.
    """
    import pandas as pd

    # utf-8-sig, else a byte order mark is part of the first name; newline="", so that line breaks
    # within quotes stay as they are.
    with parsing(path), path.open(newline="", encoding="utf-8-sig") as file:
        source = _CheckedRows(file, form.separator)
        table: pd.DataFrame = pd.read_csv(
            cast("TextIO", source),
            sep=form.separator,
            header=0 if form.header else None,
            # Else pandas takes the first of one cell too many for an index.
            index_col=False,
            skipinitialspace=True,
            # In a table of one column a blank line is a missing value.
            skip_blank_lines=form.width > 1,
            # Missing words are read after this, column by column, where they are counted and
            # logged.
            keep_default_na=False,
            na_values=["", *(reading.missing or ())],
            engine="c",
            # Read in pieces, one column could get two types.
            low_memory=False,
            # pandas would read 1.234 as a fraction where the point groups thousands.
            dtype=str if reading.thousands is not None or reading.decimal == "," else None,
        )
    if not form.header:
        table.columns = pd.Index([f"x{i + 1}" for i in range(table.shape[1])])
    if source.short_row is not None:
        row, cells = source.short_row
        raise ValueError(
            f"{path}: row {row + (not form.header)}, column {str(table.columns[cells])!r} is not "
            f"there: the row has {cells} cells of {table.shape[1]}; a missing cell is empty, "
            "between its separators, and a file that was cut off is to be copied again."
        )
    return table


@final
class _CheckedRows:
    """A CSV file for pandas, which counts the cells of the rows that pass through it.

    Attributes:
        short_row: Number, from 0, and cells of the first row with fewer than row 0; None: none. An
            exception while pandas reads would hide what pandas itself finds wrong later.
    """

    def __init__(self, file: TextIO, separator: str) -> None:
        self.short_row: tuple[int, int] | None = None
        self._file, self._separator = file, separator
        self._width, self._rows = 0, 0

    def __iter__(self) -> Iterator[str]:
        return self._file

    def read(self, size: int) -> str:
        """Read whole rows, as many as are fast to check, whatever size is asked for."""
        lines = self._file.readlines(_CHUNK)
        if self._separator == SEPARATORS["space"]:
            self._check([len(line.split()) for line in lines if not line.isspace()])
        elif not any('"' in line for line in lines):
            # Counting is ten times as fast as splitting, and right where no cell is quoted.
            counted = (line.count(self._separator) + 1 for line in lines if not line.isspace())
            self._check(list(counted))
        else:
            self._check_quoted(lines)
        return "".join(lines)

    def _check_quoted(self, lines: list[str]) -> None:
        """Check rows with quoted cells; a cell with line breaks may need further lines."""
        taken = lines.copy()

        def further() -> Iterator[str]:
            for line in self._file:
                lines.append(line)
                yield line

        rows = csv.reader(chain(taken, further()), delimiter=self._separator, skipinitialspace=True)
        cells = []
        while rows.line_num < len(taken):
            row = next(rows)
            if "".join(row).strip():
                cells.append(len(row))
        self._check(cells)

    def _check(self, cells: Sequence[int]) -> None:
        self._width = self._width or (cells[0] if cells else 0)
        if self.short_row is None and cells and min(cells) < self._width:
            row = next(i for i, count in enumerate(cells) if count < self._width)
            self.short_row = self._rows + row, cells[row]
        self._rows += len(cells)
