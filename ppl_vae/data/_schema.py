"""Description of a data set's rows, and the one way from values as given to rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data._binarization import (
    TEST_STREAM,
    binarize_static,
    check_probabilities,
    draw_by_row,
)
from ppl_vae.data._csv import Reading
from ppl_vae.data._dequantization import dequantize
from ppl_vae.data._kinds import Column
from ppl_vae.data._precision import to_single
from ppl_vae.data._rows import (
    ArrayRows,
    ConvertedRows,
    LazyRows,
    RowTensor,
    is_binary,
    most_in_memory,
)
from ppl_vae.names import ValuesError

_ROWS = 4096
"""Rows checked at once."""


@final
@dataclass(frozen=True)
class Conversion:
    """Conversion of values as given, a file's cells or an array's, to rows.

    Attributes:
        reading: How a table's file is read.
        allow_missing: Whether NaN is a missing cell.
        divisor: Number that values were divided by: 255 for grey levels of one byte, 1 for none.
        unit_interval: Whether undivided values are intensities in [0, 1].
        offsets: Constants subtracted from the columns, before rounding to single precision, or
            None. A density of the rows is one of the values as they were given.
        constants: Columns that never vary, which are left out, and their one value.
        binarize: How intensities become 0 and 1, as in ``Dataset.binarized``.
        binarize_seed: Of the fixed draws.
        drawn_by_row: Whether these follow from the rows' numbers, as those of lazy rows do.
        dequantize: Highest grey level of intensities that have uniform noise within a level, as in
            ``Dataset.dequantized``; 0: none.
        dequantize_seed: Of that noise.
    """

    reading: Reading = field(default_factory=Reading)
    allow_missing: bool = False
    divisor: int = 1
    unit_interval: bool = False
    offsets: tuple[float, ...] | None = None
    constants: tuple[tuple[str, str], ...] = ()
    binarize: str = "none"
    binarize_seed: int = 0
    drawn_by_row: bool = False
    dequantize: int = 0
    dequantize_seed: int = 0

    def apply(
        self,
        values: np.ndarray,
        what: str,
        names: Sequence[str] | None = None,
        numbers: Tensor | None = None,
    ) -> Tensor:
        """Rows of the values of training, before binarisation: float32, shape (n, features).

        Args:
            values: As they were given, rows first.
            what: What they are, for messages.
            names: Names of the columns, or None to count them from 1.
            numbers: Numbers of the rows among all; None: these are all.

        Raises:
            ValueError: If a value is infinite, or NaN where that is no missing cell.
        """
        single = to_single(values.reshape(len(values), -1), self.offsets)
        # A number too large for single precision is infinite now.
        check_finite(single, what, names, allow_missing=self.allow_missing, numbers=numbers)
        return torch.from_numpy(single if self.divisor == 1 else single / np.float32(self.divisor))

    def lazily(self, values: np.ndarray, what: str, names: Sequence[str] | None = None) -> LazyRows:
        """The rows that :meth:`apply` makes, made and checked as they are read."""

        def convert(read: Tensor, index: Tensor) -> Tensor:
            return self.apply(read.numpy(), what, names, index)

        flat = values.reshape(len(values), -1)
        return ConvertedRows(ArrayRows(flat), convert, torch.float32)

    def rows_of(
        self, values: np.ndarray, what: str, names: Sequence[str] | None = None
    ) -> RowTensor:
        """The rows that :meth:`apply` makes; lazy ones where they are too many for memory."""
        large = len(values) > most_in_memory(values[0].size) and values.dtype.itemsize <= 8
        make = self.lazily if large else self.apply
        return make(values, what, names)

    def apply_to_new(
        self, values: np.ndarray, what: str, names: Sequence[str] | None = None
    ) -> RowTensor:
        """Rows of values from elsewhere: :meth:`apply`, their units checked, binarised.

        Intensities are taken as the training data were given, or in [0, 1]; zeros and ones as they
        are where rows are binarised.

        Raises:
            ValueError: Also if the values are in neither unit, or it cannot be told.
        """
        # Undivided, until it is known which unit they are in.
        given = replace(self, divisor=1).rows_of(values, what, names)
        if self.binarize != "none" and is_binary(given):
            return given
        rows = self.rows_of(values, what, names) if self._is_as_given(values, what) else given
        if self.dequantize:
            return dequantize(rows, self.dequantize, self.dequantize_seed, TEST_STREAM, what)
        if self.binarize == "none":
            return rows
        if isinstance(rows, Tensor):
            check_probabilities(rows, what)
            if self.drawn_by_row:
                # A file of the test rows has the draws of the test split, which is lazy.
                return draw_by_row(rows, torch.arange(len(rows)), self.binarize_seed, TEST_STREAM)
        return binarize_static(rows, self.binarize_seed, TEST_STREAM)

    def _is_as_given(self, values: np.ndarray, what: str) -> bool:
        """Whether values are in the unit of the training data, and not in [0, 1] already.

        Raises:
            ValueError: If they are in neither, or it cannot be told.
        """
        if not (self.divisor != 1 or self.unit_interval):
            return True
        low, high, whole = math.inf, -math.inf, True
        for start in range(0, len(values), _ROWS):
            part = values[start : start + _ROWS]
            present = part[~np.isnan(part)] if part.dtype.kind == "f" else part
            if present.size:
                low, high = min(low, float(present.min())), max(high, float(present.max()))
                whole = whole and bool((present == np.round(present)).all())
        if low > high:
            return True
        if self.divisor == 1:
            if high > 1 and whole:
                raise ValueError(
                    f"{what}: whole numbers up to {high:g}, while the model was trained on "
                    f"intensities in [0, 1]: divide them as those were (grey levels by 255)."
                )
            return True
        # A value above 1 can be a level only.
        if low >= 0 and 1 < high <= self.divisor and whole:
            return True
        if low < 0 or high > 1:
            raise ValueError(
                f"{what}: values range over [{low:g}, {high:g}], while the model was trained on "
                f"levels from 0 to {self.divisor}, divided by {self.divisor}: give such levels, or "
                "fractions in [0, 1]."
            )
        # Zeros and ones may be the two lowest levels, or the ends of the interval.
        if high == 1 and values.dtype.kind in "iu":
            raise ValueError(
                f"{what}: holds nothing but the whole numbers 0 and 1, while the model was trained "
                f"on levels from 0 to {self.divisor}: give fractions (x / {self.divisor}) for such "
                "levels, or x.astype(bool) if 1 is the highest."
            )
        return False


@final
@dataclass(frozen=True)
class Schema:
    """Description of a row, enough to read new ones from another file.

    Attributes:
        features: Number of values in a row.
        feature_names: Column names of a table, or None.
        columns: What the columns of a table of mixed kinds hold, or None.
        image_shape: Shape of a row as an image, or None.
        conversion: How rows are made of what was given.
    """

    features: int
    feature_names: tuple[str, ...] | None = None
    columns: tuple[Column, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    conversion: Conversion = field(default_factory=Conversion)

    def rows(self, values: np.ndarray, what: str) -> Float[RowTensor, "rows features"]:
        """New values as rows like those of the training data.

        Args:
            values: As the training data were given, rows first; codes for labels.
            what: What they are, for messages.

        Raises:
            ValueError: If they are no numbers, none, of another size or shape, not finite, or in
                another unit.
        """
        values = require_numeric(values, what)
        if not values.ndim or not len(values):
            raise ValueError(f"{what}: holds no rows.")
        shape = values.shape[1:]
        # Sides of 1 are channels or lines that a reader may have added or left out.
        image = [side for side in self.image_shape or () if side > 1]
        differs = len(shape) > 1 and image and [side for side in shape if side > 1] != image
        if int(np.prod(shape)) != self.features or differs:
            expected = f"{self.features} values"
            if self.image_shape is not None:
                expected += f", images of shape {self.image_shape}"
            raise ValueError(
                f"{what}: rows have shape {shape}, the model was trained with {expected}: give "
                "rows of that size."
            )
        return self.conversion.apply_to_new(values, what, self.feature_names)

    def restore(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the model in the units that the data were given in, float64, (..., features)."""
        values = np.asarray(rows, dtype=np.float64)
        if levels := self.conversion.dequantize:
            # The level, less half of the noise that was added.
            values = ((levels + 1) * values - 0.5) / levels
        values = values * self.conversion.divisor
        offsets = self.conversion.offsets
        return values if offsets is None else values + np.asarray(offsets)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Schema":
        """The schema with these values, also where JSON made lists of tuples."""
        plain = _tuples(values)
        if plain.get("columns") is not None:
            plain["columns"] = tuple(Column(**column) for column in plain["columns"])
        conversion = plain.get("conversion", {})
        conversion["reading"] = Reading(**conversion.get("reading", {}))
        return cls(**{**plain, "conversion": Conversion(**conversion)})


def require_numeric(x: np.ndarray | Tensor, what: str) -> np.ndarray:
    """Take an array, or a tensor as one, if it holds real numbers.

    Raises:
        ValueError: If it does not.
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        # NumPy has no bfloat16.
        x = x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    if x.dtype.kind not in "biuf":
        raise ValueError(
            f"{what}: values are of type {x.dtype}, expected real numbers: convert them first"
        )
    return x


def check_finite(
    x: np.ndarray,
    what: str,
    feature_names: Sequence[str] | None = None,
    *,
    allow_missing: bool = False,
    numbers: Tensor | None = None,
) -> None:
    """Check that no value of shape (n, features) is infinite, or NaN where that is no missing cell.

    Raises:
        ValuesError: If one is; names the first, by its row's number where ``numbers`` has them.
    """
    if numbers is None:
        # Some at a time: where there is nothing to tell, there is nothing to keep in memory.
        parts = (x[start : start + _ROWS] for start in range(0, len(x), _ROWS))
        if all(np.isfinite(part).all() for part in parts):
            return
    bad = np.isinf(x) if allow_missing else ~np.isfinite(x)
    if not bad.any():
        return
    row, column = divmod(int(bad.argmax()), bad.shape[1])
    number = row if numbers is None else int(numbers[row])
    among = "" if numbers is None else f" among the {len(x)} rows read last"
    where = f"column {column + 1}" if feature_names is None else f"column {feature_names[column]!r}"
    keep = (
        ", or keep missing cells (allow_missing=True) for a model whose likelihood leaves them out"
        if np.isnan(x[row, column])
        else ""
    )
    raise ValuesError(
        f"{what}: {bad.sum()} missing or non-finite value(s){among}, the first in row "
        f"{number + 1}, {where} (counted from 1), expected finite numbers",
        f"drop or impute these rows{keep}",
    )


def _tuples(value: Any) -> Any:
    """A copy with tuples for all lists in it."""
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
