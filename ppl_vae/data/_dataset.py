"""Rows in memory: data sets with splits, and whatever holds rows as one tensor."""

import hashlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data._columns import Column
from ppl_vae.data._schema import (
    BINARIZATION_MODES,
    TEST_STREAM,
    Conversion,
    Schema,
    binarize_static,
    check_probabilities,
)
from ppl_vae.identity import Source
from ppl_vae.names import first_few

SPLIT_SEED = 20110411
"""Seed of the splits, which are the same for everyone, whatever seed a run has."""

RowData: TypeAlias = Any
"""Data in any form that :func:`as_rows` takes, or refuses by name."""


# A comparison of tensors has no single truth value; fingerprints compare data.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test rows with their description.

    Attributes:
        name: Short name, such as "mnist".
        train: Training rows, float32, shape (n, features).
        valid: Validation rows, float32, shape (n, features).
        test: Test rows, float32, shape (n, features).
        image_shape: Shape of one row as an image, such as (28, 28), or None for a table.
        feature_names: Column names of a table, or None.
        description: What the data are and how they were split, scaled and binarised.
        columns: What the columns of a table of mixed kinds hold, or None. Missing cells are NaN.
        conversion: How the rows were made of a file's cells or an array's values.
    """

    name: str
    train: Tensor = field(repr=False)
    valid: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    image_shape: tuple[int, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    description: str = ""
    columns: tuple[Column, ...] | None = None
    conversion: Conversion = field(default_factory=Conversion, repr=False)

    def __post_init__(self) -> None:
        for split, x in self._splits().items():
            rows = x.ndim == 2 and x.dtype == torch.float32 and x.numel() > 0
            if not rows or x.shape[1] != self.train.shape[1]:
                raise ValueError(
                    f"data set {self.name!r}: {split} is {x.dtype} of shape {tuple(x.shape)}, "
                    "expected torch.float32 of shape (n, features), none empty and features equal: "
                    "use dataset_from_array or dataset_from_splits"
                )

    @property
    def features(self) -> int:
        """Number of values in a row."""
        return self.train.shape[1]

    @property
    def schema(self) -> Schema:
        """Description of a row, by which new ones are read from a file."""
        return Schema(
            features=self.features,
            feature_names=self.feature_names,
            columns=self.columns,
            image_shape=self.image_shape,
            conversion=self.conversion,
        )

    @property
    def is_binary(self) -> bool:
        """Whether every value of every split is 0 or 1, missing cells apart."""
        return all(bool(((x == 0) | (x == 1) | x.isnan()).all()) for x in self._splits().values())

    @property
    def missing_share(self) -> float:
        """Share of all cells that are missing."""
        splits = self._splits().values()
        return sum(int(x.isnan().sum()) for x in splits) / sum(x.numel() for x in splits)

    def fingerprint(self) -> str:
        """Hash the three splits: SHA-256, in hex, of their shapes and values in order.

        Equal fingerprints mean equal data, whatever the name or description.
        """
        digest = hashlib.sha256()
        for x in self._splits().values():
            # With their shapes: rows of another size may have the same bytes.
            digest.update(repr(tuple(x.shape)).encode())
            digest.update(x.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def binarized(self, mode: str, seed: int = 0) -> "Dataset":
        """Replace grey values by Bernoulli draws.

        Validation and test are fixed draws in both modes, and the same ones for the same seed,
        so that log p(x) on them is well defined and comparable between modes.

        Args:
            mode: "none" (as it is), "static" (every split drawn once) or "dynamic" (train stays
                grey: training passes each batch through `binarize_batch`).
            seed: Seed of the fixed draws; the splits have independent streams.

        Returns:
            A new data set of the same shapes, or this one for "none".

        Raises:
            ValueError: If the mode is unknown, the seed negative, or a value outside [0, 1].
        """
        if mode not in BINARIZATION_MODES:
            raise ValueError(
                f"unknown binarisation {mode!r}: choose one of {', '.join(BINARIZATION_MODES)}"
            )
        if mode == "none":
            return self
        for split, x in self._splits().items():
            check_probabilities(x, f"{split} of {self.name!r}")
        sentence = f"Binarised by one fixed Bernoulli draw per value (seed {seed})."
        if mode == "dynamic":
            sentence = (
                "Binarised dynamically: train is drawn afresh at every visit, "
                f"valid and test are one fixed Bernoulli draw per value (seed {seed})."
            )
        # Streams by split, so that valid and test are drawn alike in both modes.
        return replace(
            self,
            train=binarize_static(self.train, seed, 0) if mode == "static" else self.train,
            valid=binarize_static(self.valid, seed, 1),
            test=binarize_static(self.test, seed, TEST_STREAM),
            description=f"{self.description} {sentence}",
            conversion=replace(self.conversion, binarize=mode, binarize_seed=seed),
        )

    def _splits(self) -> dict[str, Tensor]:
        return {"train": self.train, "valid": self.valid, "test": self.test}


@final
@dataclass(frozen=True)
class Splitting:
    """Shares of validation and test among the rows; the others train.

    Attributes:
        valid_fraction: Share of the rows for validation.
        test_fraction: Share of the rows for test.
        seed: Of the permutation.

    Raises:
        ValueError: If a share is not in (0, 1), they leave nothing to train on, or the seed is
            negative.
    """

    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = SPLIT_SEED

    def __post_init__(self) -> None:
        for name in ("valid_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} is a share of the rows between 0 and 1, got {value}.")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction {self.valid_fraction} and test_fraction {self.test_fraction} "
                "leave nothing to train on: give less than 1 together."
            )
        # The range that RandomState takes.
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"the split's seed is from 0 to 2^32 - 1, got {self.seed}.")

    def sizes(self, rows: int) -> tuple[int, int]:
        """Numbers of validation and test rows among all rows, at least one each."""
        shares = self.valid_fraction, self.test_fraction
        # Fractions of the decimal text, since 0.1 as a binary number is a little more.
        valid, test = (max(1, round(rows * Fraction(str(share)))) for share in shares)
        return valid, test

    def __str__(self) -> str:
        valid, test = 100 * self.valid_fraction, 100 * self.test_fraction
        constant = "constant " if self.seed == SPLIT_SEED else ""
        return (
            f"{100 - valid - test:.4g}/{valid:.4g}/{test:.4g} by a permutation with the "
            f"{constant}seed {self.seed}"
        )


def split_rows(
    x: Tensor, n_valid: int, n_test: int, seed: int = SPLIT_SEED
) -> tuple[Tensor, Tensor, Tensor]:
    """Deal rows out by a permutation: train, valid and test, disjoint, and together all rows."""
    # RandomState, because NumPy promises never to change its streams.
    order = np.random.RandomState(seed).permutation(len(x))
    rows = torch.from_numpy(order)
    n_train = len(x) - n_valid - n_test
    train, valid, test = rows.split([n_train, n_valid, n_test])
    return x[train], x[valid], x[test]


@final
@dataclass(frozen=True)
class Rows:
    """Data and their source, accepted wherever data are.

    Attributes:
        x: Shape ``(num_data, *event)``.
        source: In words.
    """

    x: Tensor
    source: Source = field(default_factory=Source)

    @classmethod
    def of(cls, x: RowData, what: str = "x") -> "Rows":
        """Take the rows of ``x`` as :func:`as_rows`, with their source if it has one."""
        source = x.source if isinstance(x, Rows) else Source()
        return cls(as_rows(x, what), source)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice) -> "Rows":
        """Select rows; their source is that of all."""
        return Rows(self.x[which], self.source)


def as_rows(x: RowData, what: str = "x") -> Tensor:
    """The rows that ``x`` holds, without loss.

    Tensors are taken as they are; NumPy arrays, data frames of numbers and a ``TensorDataset`` of
    one tensor become one. Whatever else holds data is named, with what to give in its place.

    Args:
        x: The data.
        what: What they are called where they are handed over, for messages.

    Returns:
        Shape ``(num_data, *event)``, in the type of the data.

    Raises:
        TypeError: If it is nothing of the above; one line.
        ValueError: If it has no dimension or no rows, or columns that are no numbers.
    """
    rows = _tensor_of(x.x if isinstance(x, Rows) else x, what)
    if rows.dim() == 0:
        raise ValueError(f"{what} is one number: give a tensor, rows first.")
    if len(rows) == 0:
        raise ValueError(f"{what} holds no data: give at least one row.")
    return rows


def require_lossless(x: Tensor, dtype: torch.dtype, what: str = "x") -> Tensor:
    """The rows in another type, if that loses nothing.

    Raises:
        ValueError: If values would be rounded; says in which type to give them.
    """
    cast = x.to(dtype)
    back = cast.to(x.dtype)
    # NaN, a missing cell, differs from itself and is not rounded.
    same = (back == x) | (back.isnan() & x.isnan()) if x.is_floating_point() else back == x
    if bool(same.all()):
        return cast
    method = {torch.float32: "float()", torch.float64: "double()"}.get(dtype, f"to({dtype})")
    ours, theirs = (str(each).removeprefix("torch.") for each in (x.dtype, dtype))
    raise ValueError(
        f"{what} is {ours} and the model {theirs}, which would round it: give {what}.{method}, or "
        f"a model of that precision (module.to({x.dtype}))."
    )


def _tensor_of(x: Any, what: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, Dataset):
        raise TypeError(f"{what} is a whole data set with its splits: give data.train, or another.")
    if isinstance(x, TensorDataset) and len(x.tensors) == 1:
        return x.tensors[0].detach()
    if isinstance(x, np.ndarray) or hasattr(x, "to_numpy"):
        array = x if isinstance(x, np.ndarray) else _numbers_of(x, what)
        try:
            # A copy: torch warns of arrays that cannot be written to, and rows of a data frame lie
            # apart in memory, which makes other rounding.
            return torch.from_numpy(np.array(array, order="C"))
        except TypeError as error:
            raise TypeError(
                f"{what} is an array of {array.dtype}: give one of numbers, such as float32, rows "
                "first."
            ) from error
    if isinstance(x, DataLoader):
        remedy = f"torch.cat([x for x, *_ in {what}])"
    elif isinstance(x, TensorDataset):
        remedy = "the tensor of the data, such as dataset.tensors[0]"
    elif isinstance(x, TorchDataset):
        remedy = f"torch.stack([x for x, *_ in {what}])"
    else:
        remedy = "torch.as_tensor of the numbers"
    raise TypeError(f"{what} is a {type(x).__name__}: give a tensor, rows first; {remedy}.")


def _numbers_of(x: Any, what: str) -> Any:
    """The values of a data frame or a series, all numbers."""
    dtypes = getattr(x, "dtypes", None)
    if hasattr(x, "columns") and dtypes is not None:
        # The kinds of pandas's types: text ("O") and dates have no numbers.
        words = [
            str(n) for n, t in zip(x.columns, dtypes, strict=True)
            if getattr(t, "kind", "O") not in "biuf"
        ]  # fmt: skip
        if words:
            raise ValueError(
                f"{what} has {len(words)} columns that are no numbers ({first_few(words, 5)}): "
                "encode them with encode_table, or leave them out."
            )
    return np.asarray(x.to_numpy())
