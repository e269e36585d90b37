"""Blocks of a page: sections of paragraphs, tables, figures and pictures, with data."""

import base64
import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, final

from ppl_vae.plots import HEIGHT, Drawing, svg_panel
from ppl_vae.report import _numbers as numbers

Value = float | int | str | None

_SHORT, _TALL = 15, 30


@final
@dataclass(frozen=True)
class TableColumn:
    """Column of a table.

    Attributes:
        title: Name of the column in the data, and its heading.
        kind: ``arm`` has the arm's key beside it; ``error`` stands close to the column before it;
            ``prose`` needs room.
        form: Function that writes a number as text.
        heading: Heading on the page, where it is not the title.
    """

    title: str
    kind: Literal["text", "prose", "number", "error", "arm"] = "text"
    form: Callable[[float | None], str] = numbers.nats
    heading: str = ""

    def written(self, value: Value) -> str:
        """Write a value as the page shows it."""
        if isinstance(value, str):
            return value
        return self.form(value) if self.kind in ("number", "error") else str(value or "")

    def key(self, value: Value) -> str:
        """Return the sort key of a row; empty is last."""
        # The value and not its rounded text: rows that look equal are still in order.
        if isinstance(value, float) and math.isinf(value):
            # As the page's script reads a number: "inf" it would sort as a word.
            return "Infinity" if value > 0 else "-Infinity"
        return "" if numbers.is_missing(value) else str(value)


@final
@dataclass(frozen=True)
class Table:
    """Table of values that the page can sort and filter, with its data to download.

    Attributes:
        name: Name of its file of data.
        caption: Caption, with the unit.
        columns: Columns of the table.
        rows: Rows, a value for each column.
        beside: Whether it is narrow enough to stand beside a figure.
    """

    name: str
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[Value]]
    beside: bool = False
    block: ClassVar[str] = "table"

    @property
    def size(self) -> Literal["short", "long", "tall"]:
        """Size class; ``short`` tables stay whole on paper, ``tall`` ones scroll on a screen."""
        if len(self.rows) <= _SHORT:
            return "short"
        return "tall" if len(self.rows) > _TALL else "long"

    @cached_property
    def data(self) -> str:
        """Rows as the URI of a CSV file."""
        return csv_uri([column.title for column in self.columns], self.rows)


@final
@dataclass(frozen=True)
class Figure:
    """Drawing with the numbers it shows.

    Attributes:
        name: Name of its file of data.
        caption: Caption, with the unit.
        svg: ``<svg>`` element, its text escaped.
        data: Numbers shown, as the URI of a CSV file.
    """

    name: str
    caption: str
    svg: str
    data: str
    block: ClassVar[str] = "figure"
    beside: ClassVar[bool] = True

    @classmethod
    def drawn(
        cls,
        name: str,
        caption: str,
        draw: Drawing,
        description: str,
        data: tuple[Sequence[str], Iterable[Sequence[Value]]],
        height: float = HEIGHT,
    ) -> "Figure":
        """Draw a panel.

        Args:
            name: Name of its file of data; ids in the drawing begin with it.
            caption: Caption, with the unit.
            draw: Function that draws on axes.
            description: Text for people who cannot see the figure.
            data: Titles and rows of the numbers shown.
            height: Height in inches.
        """
        return cls(name, caption, svg_panel(draw, name, description, height), csv_uri(*data))


@final
@dataclass(frozen=True)
class Picture:
    """Image, as the URI of a PNG file, or a drawing as SVG."""

    label: str
    alt: str
    uri: str = ""
    svg: str = ""


@final
@dataclass(frozen=True)
class Gallery:
    """Gallery of pictures side by side, one for each arm."""

    name: str
    caption: str
    pictures: Sequence[Picture]
    block: ClassVar[str] = "gallery"
    beside: ClassVar[bool] = False


@final
@dataclass(frozen=True)
class Verbatim:
    """Verbatim text of a file."""

    title: str
    text: str
    block: ClassVar[str] = "verbatim"
    beside: ClassVar[bool] = False


@final
@dataclass(frozen=True)
class Facts:
    """List of names and their values."""

    items: Sequence[tuple[str, str]]
    block: ClassVar[str] = "facts"
    beside: ClassVar[bool] = False


Block = Table | Figure | Gallery | Verbatim | Facts


@final
@dataclass(frozen=True)
class Section:
    """Section of the page.

    Attributes:
        name: Name of its anchor.
        title: Heading.
        blocks: Blocks in their order.
        paragraphs: Paragraphs before the blocks.
        key: Whether the figures need the key of the arms beside them.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    paragraphs: Sequence[str] = ()
    key: bool = False


def csv_uri(titles: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """Write a CSV file within a link, which needs no script and no second file to download."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    # None is an empty cell of a CSV file, where NaN would be a text.
    writer.writerows([None if numbers.is_missing(v) else v for v in row] for row in rows)
    encoded = base64.b64encode(out.getvalue().encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{encoded}"
