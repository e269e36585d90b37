"""Means and variances of columns, and the one rule on whether a column varies. NaN is left out."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ROUNDING = 10
"""A column whose spread is below so many rounding errors of its mean is constant."""


def column_means(data: Float[Tensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Means of the columns; 0 where a column holds nothing."""
    return data.nanmean(0).nan_to_num(0.0)


def column_variances(data: Float[Tensor, "num_data features"]) -> Float[Tensor, " features"]:
    """Variances of the columns; 0 where a column holds nothing."""
    return (data - column_means(data)).square().nanmean(0).nan_to_num(0.0)


def column_varies(data: Float[Tensor, "num_data features"]) -> Bool[Tensor, " features"]:
    """Whether a column holds different values; one with none, or with equal ones, does not.

    The mean of equal numbers is not exactly that number: a spread within the rounding error of the
    mean is none.
    """
    error = _ROUNDING * torch.finfo(data.dtype).eps * column_means(data).abs()
    return column_variances(data) > error.square()


def standard_moments(
    data: Float[Tensor, "num_data features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Means and standard deviations to standardise by, computed in double; 1 for a constant."""
    exact = data.double()
    scale = torch.where(column_varies(data), column_variances(exact).sqrt(), 1.0)
    return column_means(exact).to(data.dtype), scale.to(data.dtype)
