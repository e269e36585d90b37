"""Grey levels with uniform noise within a level, which then have a density."""

from typing import TypeVar

import torch
from torch import Tensor

from ppl_vae.data._binarization import uniform_by_row
from ppl_vae.data._rows import ConvertedRows, LazyRows, RowTensor

_Rows = TypeVar("_Rows", Tensor, RowTensor)
_TOLERANCE = 1e-3
"""Distance from a grey level, in levels, that is rounding."""


def dequantize(x: _Rows, levels: int, seed: int, stream: int, what: str) -> _Rows:
    """``(levels x + u) / (levels + 1)`` with u uniform in [0, 1), one draw for every value.

    Args:
        x: Grey values k / levels, k = 0, ..., levels, any shape, on the CPU.
        levels: Highest grey level: 255 of images of one byte.
        seed: The user's seed. Each row has draws that follow from its number, so that it is the
            same whenever it is read.
        stream: Which of the seed's independent streams to use (one per split).
        what: What the rows are, for messages.

    Raises:
        ValueError: If a value is no such level; of lazy rows when they are read.

    References:
        Uria, Murray and Larochelle, 2013, RNADE: the real-valued neural autoregressive
        density-estimator.
        Theis, van den Oord and Bethge, 2016, A note on the evaluation of generative models.
    """

    def add(read: Tensor, index: Tensor) -> Tensor:
        whole = (read * levels).round()
        off = (read * levels - whole).abs() > _TOLERANCE
        # Negated, so that NaN is refused too.
        if bool(off.any()) or not bool(((whole >= 0) & (whole <= levels)).all()):
            raise ValueError(
                f"{what} has values that are no multiples of 1/{levels} between 0 and 1: give "
                "dequantize the highest grey level (16 of digits, 255 of images of one byte), or "
                "leave it out."
            )
        return ((whole + uniform_by_row(read, index, seed, stream)) / (levels + 1)).to(read.dtype)

    if isinstance(x, LazyRows):
        return ConvertedRows(x, add, x.dtype)
    return add(torch.as_tensor(x), torch.arange(len(x)))
