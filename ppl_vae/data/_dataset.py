"""Data sets with splits."""

import hashlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._binarization import (
    BINARIZATION_MODES,
    TEST_STREAM,
    binarize_static,
    check_probabilities,
)
from ppl_vae.data._dequantization import dequantize
from ppl_vae.data._kinds import Column
from ppl_vae.data._rows import LazyRows, RowTensor, is_binary, missing_cells, row_chunks, select
from ppl_vae.data._schema import Conversion, Schema
from ppl_vae.identity import bytes_of
from ppl_vae.names import require_least

SPLIT_SEED = 20110411
"""Seed of the splits, which are the same for everyone, whatever seed a run has."""


# A comparison of tensors has no single truth value; fingerprints compare data.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test rows with their description.

    Rows of more than 1 GiB are not held in memory: they are :class:`~ppl_vae.data.LazyRows`, read
    batch by batch.

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
    train: RowTensor = field(repr=False)
    valid: RowTensor = field(repr=False)
    test: RowTensor = field(repr=False)
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

    @cached_property
    def is_binary(self) -> bool:
        """Whether every value of every split is 0 or 1, missing cells apart."""
        return all(is_binary(x) for x in self._splits().values())

    @cached_property
    def missing_share(self) -> float:
        """Share of all cells that are missing."""
        splits = self._splits().values()
        return sum(missing_cells(x) for x in splits) / sum(x.numel() for x in splits)

    def fingerprint(self) -> str:
        """Hash the three splits: SHA-256, in hex, of their shapes and values in order.

        Equal fingerprints mean equal data, whatever the name or description.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split, x in self._splits().items():
            if split == "train" and isinstance(x, LazyRows):
                # Their one pass has hashed them so: they come first.
                digest = x.summary.digest.copy()
                continue
            # With their shapes: rows of another size may have the same bytes.
            digest.update(repr(tuple(x.shape)).encode())
            for part in row_chunks(x):
                digest.update(bytes_of(part))
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
            # Lazy rows that are drawn are checked as they are read.
            if isinstance(x, Tensor):
                check_probabilities(x, f"{split} of {self.name!r}")
            elif split == "train" and mode == "dynamic":
                ends = torch.stack([x.summary.low.amin(), x.summary.high.amax()])
                check_probabilities(ends, f"{split} of {self.name!r}")
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
            conversion=replace(
                self.conversion,
                binarize=mode,
                binarize_seed=seed,
                drawn_by_row=isinstance(self.test, LazyRows),
            ),
        )

    def dequantized(self, levels: int, seed: int = 0) -> "Dataset":
        """Grey values with uniform noise within a level: then they have a density.

        A value k / levels becomes ``(k + u) / (levels + 1)``, u uniform in [0, 1) and fixed. The
        mean of log p(x) under a density is then at most ``log P(k)`` under the probabilities that
        it gives to the levels' cells, plus ``log(levels + 1)`` a value for their width.

        Args:
            levels: Highest grey level of values in [0, 1]: 255 of images of one byte.
            seed: Seed of the noise; the splits have independent streams.

        Raises:
            ValueError: If levels is less than 1, or a value is no such level.

        References:
            Theis, van den Oord and Bethge, 2016, A note on the evaluation of generative models.
        """
        require_least(1, levels=levels)
        noisy = {
            split: dequantize(x, levels, seed, stream, f"{split} of {self.name!r}")
            for stream, (split, x) in enumerate(self._splits().items())
        }
        return replace(
            self,
            train=noisy["train"],
            valid=noisy["valid"],
            test=noisy["test"],
            description=(
                f"{self.description} Dequantised: uniform noise within each of {levels + 1} grey "
                f"levels (seed {seed})."
            ),
            conversion=replace(self.conversion, dequantize=levels, dequantize_seed=seed),
        )

    def _splits(self) -> dict[str, RowTensor]:
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
    x: RowTensor, n_valid: int, n_test: int, seed: int = SPLIT_SEED
) -> tuple[RowTensor, RowTensor, RowTensor]:
    """Deal rows out by a permutation: train, valid and test, disjoint, and together all rows."""
    # RandomState, because NumPy promises never to change its streams.
    order = np.random.RandomState(seed).permutation(len(x))
    rows = torch.from_numpy(order)
    n_train = len(x) - n_valid - n_test
    train, valid, test = rows.split([n_train, n_valid, n_test])
    return select(x, train), select(x, valid), select(x, test)
