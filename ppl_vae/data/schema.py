"""What a row of a data set is, apart from the rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from ppl_vae.data.columns import Column


@final
@dataclass(frozen=True)
class Schema:
    """What a row is: enough to read new ones from another file.

    Attributes:
        features: Number of values in a row.
        feature_names: Column names of a table, or None.
        columns: What the columns of a table of mixed kinds hold, or None.
        image_shape: Shape of a row as an image, or None.
    """

    features: int
    feature_names: tuple[str, ...] | None = None
    columns: tuple[Column, ...] | None = None
    image_shape: tuple[int, ...] | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Schema":
        """The schema with these values, also where JSON made lists of tuples."""
        plain = dict(values)
        for name in ("feature_names", "image_shape"):
            if plain.get(name) is not None:
                plain[name] = tuple(plain[name])
        if plain.get("columns") is not None:
            plain["columns"] = tuple(
                Column(column["name"], column["kind"], tuple(column["labels"]))
                for column in plain["columns"]
            )
        return cls(**plain)
