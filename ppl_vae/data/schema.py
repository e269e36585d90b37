"""What a row of a data set is, apart from the rows, and how it was made of a file's cells."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np

from ppl_vae.data.columns import Column
from ppl_vae.data.reading import Reading


@final
@dataclass(frozen=True)
class Conversion:
    """How a file's cells or an array's values became rows.

    Attributes:
        reading: How a table's file is read.
        allow_missing: Whether NaN is a missing cell.
        divided: Whether values were divided by 255.
        offsets: Constants subtracted from the columns, before rounding to single precision, or
            None. A density of the rows is one of the values as they were given.
        constants: Columns that never vary, which are left out, and their one value.
    """

    reading: Reading = field(default_factory=Reading)
    allow_missing: bool = False
    divided: bool = False
    offsets: tuple[float, ...] | None = None
    constants: tuple[tuple[str, str], ...] = ()


@final
@dataclass(frozen=True)
class Schema:
    """What a row is: enough to read new ones from another file.

    Attributes:
        features: Number of values in a row.
        feature_names: Column names of a table, or None.
        columns: What the columns of a table of mixed kinds hold, or None.
        image_shape: Shape of a row as an image, or None.
        conversion: How rows are made of cells.
    """

    features: int
    feature_names: tuple[str, ...] | None = None
    columns: tuple[Column, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    conversion: Conversion = field(default_factory=Conversion)

    def restore(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the units that the data were given in, float64, shape (..., features).

        Args:
            rows: Values as the model has them.
        """
        values = np.asarray(rows, dtype=np.float64)
        offsets = self.conversion.offsets
        return values if offsets is None else values + np.asarray(offsets)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Schema":
        """The schema with these values, also where JSON made lists of tuples."""
        plain = {name: _tuples(value) for name, value in values.items()}
        if plain.get("columns") is not None:
            plain["columns"] = tuple(Column(**_plain(column)) for column in plain["columns"])
        conversion = _plain(plain.get("conversion", {}))
        conversion["reading"] = Reading(**_plain(conversion.get("reading", {})))
        return cls(**{**plain, "conversion": Conversion(**conversion)})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in values.items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
