"""Grey values as probabilities, of which bits are drawn: once and for all, or for each batch."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._rows import ConvertedRows, LazyRows, RowTensor
from ppl_vae.names import ValuesError

_Rows = TypeVar("_Rows", Tensor, RowTensor)
BINARIZATION_MODES = ("none", "static", "dynamic")
TEST_STREAM = 2
"""Stream of the fixed draws of test rows, and of new ones; those of train and valid are 0 and 1."""


def binarize_batch(x: Tensor) -> Tensor:
    """Draw every value afresh; the `transform` of training under dynamic binarisation.

    Args:
        x: Probabilities in [0, 1], any shape, on any device.

    Returns:
        Zeros and ones, same shape, dtype and device, from that device's global generator.
    """
    return torch.bernoulli(x)


def binarize_static(x: _Rows, seed: int, stream: int = 0) -> _Rows:
    """Draw every value once, the same for the same seed and stream.

    Args:
        x: Probabilities in [0, 1], any shape, on the CPU. Of lazy rows each has draws of its own,
            that follow from its number, so that it is the same whenever it is read.
        seed: The user's seed, not negative.
        stream: Which of the seed's independent streams to use (one per split).

    Returns:
        Zeros and ones, same shape and dtype.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"binarisation seed is {seed}, expected 0 or more: give another seed")
    if isinstance(x, LazyRows):

        def draw(read: Tensor, index: Tensor) -> Tensor:
            check_probabilities(read, "rows")
            return draw_by_row(read, index, seed, stream)

        return ConvertedRows(x, draw, x.dtype)
    # Hashing the seed keeps these draws apart from those of torch.manual_seed(seed) elsewhere.
    hashed = np.random.SeedSequence([seed, stream]).generate_state(1)[0]
    return torch.bernoulli(x, generator=torch.Generator().manual_seed(int(hashed)))


def draw_by_row(x: Tensor, index: Tensor, seed: int, stream: int) -> Tensor:
    """Draw every value once, as :func:`binarize_static` draws those of lazy rows.

    Args:
        x: Probabilities in [0, 1], rows first.
        index: Numbers of the rows.
        seed: The user's seed, not negative.
        stream: Which of the seed's independent streams to use.
    """
    return (uniform_by_row(x, index, seed, stream) < x).to(x.dtype)


def uniform_by_row(x: Tensor, index: Tensor, seed: int, stream: int) -> Tensor:
    """Uniform numbers in [0, 1), one for every value, that follow from its row's number.

    Args:
        x: Values, rows first.
        index: Numbers of the rows.
        seed: The user's seed, not negative.
        stream: Which of the seed's independent streams to use.
    """
    key = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return _uniform(key, index, x.shape[1:].numel()).view_as(x)


def _uniform(key: np.uint64, index: Tensor, features: int) -> Tensor:
    """Uniform numbers in [0, 1) that follow from the key, a row's number and the column alone.

    The state of a usual generator is that after all draws before, which rows in another order do
    not have. So each cell's number is hashed: by the last step of SplitMix64 (Steele, Lea and
    Flood, 2014, Fast splittable pseudorandom number generators).
    """
    cells = index.numpy().astype(np.uint64)[:, None] * np.uint64(features)
    # From 1: the first number of a key is not the key's own hash.
    state: Any = key + (cells + np.arange(1, features + 1, dtype=np.uint64)) * np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    # The 24 high bits: as many as single precision has.
    return torch.from_numpy((state >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


_GOLDEN = 0x9E3779B97F4A7C15
"""Odd number next to 2^64 over the golden ratio, whose multiples are spread evenly."""


def check_probabilities(x: Tensor, what: str) -> None:
    """Check that values, of any shape, can be probabilities.

    Raises:
        ValueError: If a value is outside [0, 1] or not a number.
    """
    low, high = (bound.item() for bound in torch.aminmax(x))
    # Negated, so that NaN is refused too.
    if not (low >= 0 and high <= 1):
        raise ValuesError(
            f"cannot binarise {what}: values range over [{low:g}, {high:g}], expected [0, 1]",
            'rescale them to [0, 1], or take binarize="none"',
        )
