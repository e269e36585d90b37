"""What training data say of where a likelihood should start. NaN cells are left out."""

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDING = 10
"""A column whose spread is below so many rounding errors of its mean is constant."""


def column_means(data: Float[Tensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Means of the columns; 0 where a column holds nothing."""
    return data.nanmean(0).nan_to_num(0.0)


def column_variances(data: Float[Tensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Variances of the columns; 0 where a column holds nothing."""
    return (data - column_means(data)).square().nanmean(0).nan_to_num(0.0)


def column_spreads(
    data: Float[Tensor, "num_data features"] | None,
) -> Float[Tensor, " features"] | Float[Tensor, ""]:
    """Standard deviations of the columns; of a constant one, that of the others.

    Without data, or where nothing varies, it is 1.
    """
    if data is None:
        return torch.tensor(1.0)
    variance = column_variances(data)
    error = _ROUNDING * torch.finfo(data.dtype).eps * column_means(data).abs()
    varies = variance > error.square()
    pooled = variance[varies].mean() if varies.any() else variance.new_tensor(1.0)
    return torch.where(varies, variance, pooled).sqrt()
