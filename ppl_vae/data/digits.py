"""The 8 x 8 digits that scikit-learn carries: data without a download."""

import importlib

import numpy as np
import torch

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.splits import SPLIT_SEED, split_rows

N_VALID, N_TEST = 180, 360


def load_digits() -> Dataset:
    """Load the 1,797 digits: 1,257 train, 180 valid and 360 test rows of 64 values in [0, 1]."""
    # Imported when asked for: most data are not these, and it takes two seconds.
    images = importlib.import_module("sklearn.datasets").load_digits().data.astype(
        np.float32
    ) / np.float32(16)
    train, valid, test = split_rows(torch.from_numpy(images), N_VALID, N_TEST)
    return Dataset(
        "digits",
        train,
        valid,
        test,
        (8, 8),
        description=(
            f"scikit-learn's 8 x 8 digits divided by 16, {len(train)} train, {len(valid)} valid "
            f"and {len(test)} test rows by a permutation with the constant seed {SPLIT_SEED}."
        ),
    )
