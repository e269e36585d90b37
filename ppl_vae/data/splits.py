"""Splits that are the same for everyone, whatever seed a run has."""

from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
import torch

SPLIT_SEED = 20110411


@final
@dataclass(frozen=True)
class Splitting:
    """How rows are dealt out to training, validation and test.

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
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"the split's seed is from 0 to 2^32 - 1, got {self.seed}.")

    def sizes(self, rows: int) -> tuple[int, int]:
        """Validation and test rows of so many, at least one each."""
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
    x: torch.Tensor, n_valid: int, n_test: int, seed: int = SPLIT_SEED
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Deal rows out by a permutation with a constant seed.

    Args:
        x: Rows, shape (n, features), n > n_valid + n_test.
        n_valid: Validation rows.
        n_test: Test rows.
        seed: Of the permutation.

    Returns:
        Train, valid and test, shape (rows, features): disjoint, and together all rows.
    """
    # RandomState, because NumPy promises never to change its streams.
    order = np.random.RandomState(seed).permutation(len(x))
    rows = torch.from_numpy(order)
    n_train = len(x) - n_valid - n_test
    train, valid, test = rows.split([n_train, n_valid, n_test])
    return x[train], x[valid], x[test]
