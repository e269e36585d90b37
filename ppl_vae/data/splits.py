"""Splits that are the same for everyone, whatever seed a run has."""

import numpy as np
import torch

SPLIT_SEED = 20110411


def split_rows(
    x: torch.Tensor, n_valid: int, n_test: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Deal rows out by a permutation with the constant seed `SPLIT_SEED`.

    Args:
        x: Rows, shape (n, features), n > n_valid + n_test.
        n_valid: Validation rows.
        n_test: Test rows.

    Returns:
        Train, valid and test, shape (rows, features): disjoint, and together all rows.
    """
    # RandomState, because NumPy promises never to change its streams.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(x))
    rows = torch.from_numpy(order)
    n_train = len(x) - n_valid - n_test
    train, valid, test = rows.split([n_train, n_valid, n_test])
    return x[train], x[valid], x[test]
