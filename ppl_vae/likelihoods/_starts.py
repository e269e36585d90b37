"""What training data say of where a likelihood should start. NaN cells are left out."""

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import column_means, column_variances, column_varies

__all__ = ["column_means", "column_spreads", "column_variances"]


def column_spreads(
    data: Float[Tensor, "num_data features"] | None,
) -> Float[Tensor, " features"] | Float[Tensor, ""]:
    """Standard deviations of the columns; of a constant one, that of the others.

    Without data, or where nothing varies, it is 1.
    """
    if data is None:
        return torch.tensor(1.0)
    variance, varies = column_variances(data), column_varies(data)
    pooled = variance[varies].mean() if varies.any() else variance.new_tensor(1.0)
    return torch.where(varies, variance, pooled).sqrt()
