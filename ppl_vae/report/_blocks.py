"""Blocks of a page: sections of paragraphs, tables, figures and pictures, with their data."""

import base64
import csv
import io
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
    """A column of a table.

    Attributes:
        title: Its heading; the name of the column in the data.
        kind: ``arm`` has the arm's key beside it; ``error`` stands close to the column before it;
            ``prose`` needs room.
        form: A number as text.
        heading: Where the page says it otherwise than the data.
    """

    title: str
    kind: Literal["text", "prose", "number", "error", "arm"] = "text"
    form: Callable[[float | None], str] = numbers.nats
    heading: str = ""

    def written(self, value: Value) -> str:
        """A value as the page shows it."""
        if isinstance(value, str):
            return value
        return self.form(value) if self.kind in ("number", "error") else str(value or "")

    def key(self, value: Value) -> str:
        """What a row is sorted by; empty is last."""
        return "" if numbers.is_missing(value) else str(value)


@final
@dataclass(frozen=True)
class Table:
    """Rows of values, that the page can sort and filter and that are there to download.

    Attributes:
        name: Of its file of data.
        caption: What it shows, in which unit.
        columns: What the rows hold.
        rows: A value for each column.
        beside: Narrow enough to stand beside a figure.
    """

    name: str
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[Value]]
    beside: bool = False
    block: ClassVar[str] = "table"

    @property
    def size(self) -> Literal["short", "long", "tall"]:
        """``short`` ones stay whole on paper, ``tall`` ones scroll on a screen."""
        if len(self.rows) <= _SHORT:
            return "short"
        return "tall" if len(self.rows) > _TALL else "long"

    @cached_property
    def data(self) -> str:
        """The rows as the URI of a CSV file."""
        return csv_uri([column.title for column in self.columns], self.rows)


@final
@dataclass(frozen=True)
class Figure:
    """A drawing with the numbers it shows.

    Attributes:
        name: Of its file of data.
        caption: What is shown, in which unit.
        svg: An ``<svg>`` element, its text escaped.
        data: The numbers as the URI of a CSV file.
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
            name: Of its file of data; ids in the drawing begin with it.
            caption: What is shown, in which unit.
            draw: Draws on the axes it is given.
            description: For people who cannot see it.
            data: Titles and rows of the numbers shown.
            height: In inches.
        """
        return cls(name, caption, svg_panel(draw, name, description, height), csv_uri(*data))


@final
@dataclass(frozen=True)
class Picture:
    """An image, as the URI of a PNG file, or a drawing as SVG."""

    label: str
    alt: str
    uri: str = ""
    svg: str = ""


@final
@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, one an arm."""

    name: str
    caption: str
    pictures: Sequence[Picture]
    block: ClassVar[str] = "gallery"
    beside: ClassVar[bool] = False


@final
@dataclass(frozen=True)
class Verbatim:
    """Text as it stands in a file."""

    title: str
    text: str
    block: ClassVar[str] = "verbatim"
    beside: ClassVar[bool] = False


@final
@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    items: Sequence[tuple[str, str]]
    block: ClassVar[str] = "facts"
    beside: ClassVar[bool] = False


Block = Table | Figure | Gallery | Verbatim | Facts


@final
@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Of its anchor.
        title: Its heading.
        blocks: In their order.
        paragraphs: Before the blocks.
        key: Whether the figures need the key of the arms beside them.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    paragraphs: Sequence[str] = ()
    key: bool = False


def csv_uri(titles: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """A CSV file within a link: no script and no second file is needed to download it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows([None if numbers.is_missing(v) else v for v in row] for row in rows)
    encoded = base64.b64encode(out.getvalue().encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{encoded}"
