"""Columns of a table as values, apart from what reads tables, as that imports pandas."""

from dataclasses import dataclass
from typing import Literal, final, get_args

ColumnKind = Literal["real", "positive", "count", "binary", "categorical", "ordinal"]
"""Kind of a column's values: real, positive, whole from 0, of two, of several, of an order."""

KINDS: tuple[ColumnKind, ...] = get_args(ColumnKind)
CODED: tuple[ColumnKind, ...] = ("binary", "categorical", "ordinal")


@final
@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name.
        kind: What its values are.
        labels: Labels that the codes 0, 1, ... of coded kinds stand for; otherwise empty.
    """

    name: str
    kind: ColumnKind
    labels: tuple[str, ...] = ()


def drop_hint(*names: object) -> str:
    """Setting that leaves columns of a table out."""
    return f"drop={[str(name) for name in names]}"


def is_nameless(name: object) -> bool:
    """Whether the name of a column is one that pandas gives to an index without a name."""
    return str(name) == "" or str(name).startswith(("Unnamed: 0", "__index_level_0__"))
