"""Displays of results: a line, a notebook, plain values, a table, a tree and a figure."""

import html
import json
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
from torch import Tensor

from ppl_vae import plots
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Attribute, TreeGroups, Variable, names_of, rows_to_variables, tree_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure
else:  # matplotlib is imported with the first figure
    Axes = Figure = Any

Row = Mapping[Any, Any]
Panel = tuple[Callable[[Axes], None], float]
"""Function that draws on axes, and the height of the axes in inches."""

_LONGEST = 200
"""Longest ``repr`` of a result, in characters."""


class Result(ABC):
    """Base of results: dataclasses declared with ``repr=False``, so that they show no tensors.

    Those that hold tensors are declared with ``eq=False`` too: each is equal to itself alone.

    A subclass defines ``__str__``, which a notebook shows, and those of the following that it has:

    - ``_group``: the name of its group in a tree.
    - ``_derived``: properties that belong to the result as its fields do.
    - ``_rows``: the rows of its table; the first entry of each is its name.
    - ``_arrays``: arrays of its tree beside the table, such as values of each datum.
    - ``_groups``: further groups of its tree, where ArviZ looks for them.
    - ``_panels``: drawings; by default the intervals of the table's values.
    """

    _group: ClassVar[str] = ""
    _derived: ClassVar[tuple[str, ...]] = ()

    def summary(self) -> dict[str, Any]:
        """Return means over the data as plain values, for JSON, which has no NaN."""
        return dict(plain(self._values()))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values, those of each datum among them."""
        return dict(plain(self))

    def to_frame(self) -> "pd.DataFrame":
        """Return the table of the result; a value with errors has ``NAME``, ``NAME_error``."""
        import pandas as pd

        rows = self._rows() or [self._values()]
        return pd.DataFrame([dict(_flat(row)) for row in rows])

    def to_datatree(
        self,
        *,
        group: str = "",
        datum_names: Sequence[str | int] | None = None,
        attrs: Mapping[str, Attribute] | None = None,
    ) -> "xr.DataTree":
        """Return the result as a group of a tree in ArviZ's schema, for netCDF.

        Args:
            group: Name of the group; that of the kind of result if not given.
            datum_names: Coordinates of the data, where there are any; 0, 1, ... if not given.
            attrs: Attributes besides the result's own.

        Raises:
            ValueError: If the names are not as many as the data.
        """
        variables, coords = self._variables()
        sizes = {n: s for dims, v in variables.values() for n, s in zip(dims, v.shape, strict=True)}
        if "datum" in sizes:
            coords["datum"] = names_of("datum_names", datum_names, sizes["datum"])
        own = {**self._attributes(), **(attrs or {})}
        return tree_of({group or self._group: variables} | self._groups(), own, coords)

    @overload
    def plot(self, ax: None = None) -> Figure: ...

    @overload
    def plot(self, ax: Axes) -> Axes: ...

    @overload
    def plot(self, ax: Sequence[Axes]) -> Sequence[Axes]: ...

    def plot(self, ax: Any = None) -> Any:
        """Draw the result.

        Args:
            ax: Axes to draw on, one for each panel. If not given, a new figure that pyplot does not
                keep: a notebook shows it, ``savefig`` writes PNG, SVG or PDF.

        Returns:
            The axes that were given, or the new figure.

        Raises:
            ValueError: If there are not as many axes as panels.
        """
        return plots.draw_on(self._panels(), ax)

    @abstractmethod
    def __str__(self) -> str:
        """Format the result as text of several lines."""

    def __repr__(self) -> str:
        """Format the name and those single numbers of the summary that fit in one line."""
        text = ""
        for name, value in _scalars(self.summary()):
            more = f"{text}, {name}={value}" if text else f"{name}={value}"
            # 7 characters: the parentheses, and ", ..." after the last number.
            if len(more) > _LONGEST - len(type(self).__name__) - 7:
                text += ", ..."
                break
            text = more
        return f"{type(self).__name__}({text})"

    def _repr_html_(self) -> str:
        # Names of arms and sites are other people's text, which may hold HTML.
        return f"<pre>{html.escape(str(self))}</pre>"

    def _values(self) -> dict[str, Any]:
        """Return fields and derived values, as :meth:`summary` holds them."""
        return fields_of(self) | {name: getattr(self, name) for name in self._derived}

    def _rows(self) -> list[Row]:
        return []

    def _arrays(self) -> dict[str, Variable]:
        return {}

    def _groups(self) -> TreeGroups:
        return {}

    def _variables(self) -> tuple[dict[str, Variable], dict[str, Sequence[Any]]]:
        """Return the table's numbers, the arrays beside it, and the coordinates of the rows."""
        variables, coords = rows_to_variables([dict(_flat(row)) for row in self._rows()])
        return variables | self._arrays(), coords

    def _attributes(self) -> dict[str, Attribute]:
        """Collect texts and single numbers, also those of a value with errors."""
        own = fields_of(self) | {name: getattr(self, name) for name in self._derived}
        known = {name: _attribute(value) for name, value in _flat(own, depth=1)}
        return {name: value for name, value in known.items() if value is not None}

    def _panels(self) -> list[Panel]:
        return intervals_of(self._rows())


def intervals_of(rows: Sequence[Row]) -> list[Panel]:
    """Make a panel with the values of a table and two of their standard errors."""
    drawn = [plots.ForestRow(*_interval(dict(_flat(row)))) for row in rows]

    def draw(ax: Axes) -> None:
        plots.draw_forest(ax, drawn, "nats per datum")
        plots.remark(ax, "bars: two standard errors")

    return [(draw, plots.rows_height(len(drawn)))] if drawn else []


def fields_of(result: Any) -> dict[str, Any]:
    """Map names of a dataclass' fields to their values, which are not copied."""
    return {field.name: getattr(result, field.name) for field in fields(result)}


def plain(value: Any) -> Any:
    """Convert a value of a result to JSON's types: NaN and infinity become None."""
    # Before dataclasses in general: an identity is one, with a form of its own in files.
    if isinstance(value, Identity):
        return value.to_dict()
    if isinstance(value, Tensor | np.ndarray):
        return plain(value.tolist())
    if is_dataclass(value):
        return plain(fields_of(value))
    if isinstance(value, Mapping):
        return {_key(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _key(name: Any) -> str:
    return " - ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _flat(row: Row, depth: int = 9) -> Iterator[tuple[str, Any]]:
    """Flatten nested values under joined names; one called ``value`` keeps the outer name."""
    for name, value in row.items():
        inner = fields_of(value) if is_dataclass(value) else value
        if isinstance(inner, Mapping) and depth and not isinstance(value, Identity):
            for part, entry in _flat(inner, depth - 1):
                yield str(name) if part == "value" else f"{name}_{part}", entry
        else:
            yield str(name), value


def _attribute(value: Any) -> Attribute | None:
    """Convert a value to an attribute that netCDF can hold; None if there is none."""
    if isinstance(value, Identity):
        return json.dumps(value.to_dict(), sort_keys=True)
    # netCDF has no booleans, and Python takes them for numbers.
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        return "; ".join(value)
    return value if isinstance(value, str | int | float) else None


def _interval(row: Row) -> tuple[str, float, float, float]:
    """Return name, value and ends two standard errors away: the total error if there is one."""
    name, value = next(iter(row.values())), row["value"]
    errors = (row[error] for error in ("total_error", "standard_error") if error in row)
    # One particle has no error, NaN: the point is drawn without a bar.
    half = 2 * next((error for error in errors if math.isfinite(error)), 0.0)
    return str(name), value, value - half, value + half


def _scalars(summary: Row) -> Iterator[tuple[str, str]]:
    for name, value in summary.items():
        shown = value.get("value") if isinstance(value, Mapping) else value
        if isinstance(shown, str | bool):
            yield name, repr(shown)
        elif isinstance(shown, numbers.Real):
            yield name, f"{shown:.5g}"
