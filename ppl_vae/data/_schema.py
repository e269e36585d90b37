"""Description of a data set's rows, and the one way from values as given to rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data._columns import Column, UnreadableError
from ppl_vae.data._csv import Reading
from ppl_vae.data._precision import to_single

BINARIZATION_MODES = ("none", "static", "dynamic")
TEST_STREAM = 2
"""Stream of the fixed draws of test rows, and of new ones; those of train and valid are 0 and 1."""


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
    """

    reading: Reading = field(default_factory=Reading)
    allow_missing: bool = False
    divisor: int = 1
    unit_interval: bool = False
    offsets: tuple[float, ...] | None = None
    constants: tuple[tuple[str, str], ...] = ()
    binarize: str = "none"
    binarize_seed: int = 0

    def apply(self, values: np.ndarray, what: str, names: Sequence[str] | None = None) -> Tensor:
        """Rows of the values of training, before binarisation: float32, shape (n, features).

        Raises:
            ValueError: If a value is infinite, or NaN where that is no missing cell.
        """
        single = to_single(values.reshape(len(values), -1), self.offsets)
        # A number too large for single precision is infinite now.
        check_finite(single, what, names, allow_missing=self.allow_missing)
        return torch.from_numpy(single if self.divisor == 1 else single / np.float32(self.divisor))

    def apply_to_new(
        self, values: np.ndarray, what: str, names: Sequence[str] | None = None
    ) -> Tensor:
        """Rows of values from elsewhere: :meth:`apply`, their units checked, binarised.

        Intensities are taken as the training data were given, or in [0, 1]; zeros and ones as they
        are where rows are binarised.

        Raises:
            ValueError: Also if the values are in neither unit, or it cannot be told.
        """
        # Undivided, until it is known which unit they are in.
        given = replace(self, divisor=1).apply(values, what, names)
        bits = bool(((given == 0) | (given == 1) | given.isnan()).all())
        if self.binarize != "none" and bits:
            return given
        rows = self.apply(values, what, names) if self._is_as_given(values, what) else given
        if self.binarize == "none":
            return rows
        check_probabilities(rows, what)
        return binarize_static(rows, self.binarize_seed, TEST_STREAM)

    def _is_as_given(self, values: np.ndarray, what: str) -> bool:
        """Whether values are in the unit of the training data, and not in [0, 1] already.

        Raises:
            ValueError: If they are in neither, or it cannot be told.
        """
        present = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        if not (self.divisor != 1 or self.unit_interval) or not present.size:
            return True
        low, high = float(present.min()), float(present.max())
        whole = bool((present == np.round(present)).all())
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

    def rows(self, values: np.ndarray, what: str) -> Float[Tensor, "rows features"]:
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
        values = np.asarray(rows, dtype=np.float64) * self.conversion.divisor
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
) -> None:
    """Check that no value of shape (n, features) is infinite, or NaN where that is no missing cell.

    Raises:
        UnreadableError: If one is; names the first.
    """
    bad = np.isinf(x) if allow_missing else ~np.isfinite(x)
    if not bad.any():
        return
    row, column = divmod(int(bad.argmax()), bad.shape[1])
    where = f"column {column + 1}" if feature_names is None else f"column {feature_names[column]!r}"
    keep = ", or keep missing cells (allow_missing=True)" if np.isnan(x[row, column]) else ""
    raise UnreadableError(
        f"{what}: {bad.sum()} missing or non-finite value(s), the first in row {row + 1}, {where} "
        "(counted from 1), expected finite numbers",
        f"drop or impute these rows{keep}",
    )


def binarize_batch(x: Tensor) -> Tensor:
    """Draw every value afresh; the `transform` of training under dynamic binarisation.

    Args:
        x: Probabilities in [0, 1], any shape, on any device.

    Returns:
        Zeros and ones, same shape, dtype and device, from that device's global generator.
    """
    return torch.bernoulli(x)


def binarize_static(x: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Draw every value once, the same for the same seed and stream.

    Args:
        x: Probabilities in [0, 1], any shape, on the CPU.
        seed: The user's seed, not negative.
        stream: Which of the seed's independent streams to use (one per split).

    Returns:
        Zeros and ones, same shape and dtype.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"binarisation seed is {seed}, expected 0 or more: give another seed")
    # Hashing the seed keeps these draws apart from those of torch.manual_seed(seed) elsewhere.
    hashed = np.random.SeedSequence([seed, stream]).generate_state(1)[0]
    return torch.bernoulli(x, generator=torch.Generator().manual_seed(int(hashed)))


def check_probabilities(x: Tensor, what: str) -> None:
    """Check that values, of any shape, can be probabilities.

    Raises:
        ValueError: If a value is outside [0, 1] or not a number.
    """
    low, high = (bound.item() for bound in torch.aminmax(x))
    # Negated, so that NaN is refused too.
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"cannot binarise {what}: values range over [{low:g}, {high:g}], expected [0, 1]: "
            'rescale them to [0, 1], or take binarize="none"'
        )


def _tuples(value: Any) -> Any:
    """A copy with tuples for all lists in it."""
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
