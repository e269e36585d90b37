"""Rows with missing cells as the input of a network."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class ObservedInput(nn.Module):
    """``network(x with 0 for NaN)``, or ``network([x with 0 for NaN, 1 where there is a value])``.

    For an encoder whose data have missing cells, NaN in x. Without the mask a missing cell is the
    same as a 0: standardise the data, so that 0 is the mean.

    Args:
        network: Maps (batch, features) to (batch, outputs); with the mask (batch, 2 * features).
        mask: Whether to append which cells are there.

    References:
        Mattei and Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete
        data sets.
    """

    def __init__(self, network: nn.Module, *, mask: bool = False) -> None:
        super().__init__()
        self.network, self.mask = network, mask

    @classmethod
    def num_inputs(cls, features: int, mask: bool = False) -> int:
        """Inputs that the network must take."""
        return (2 if mask else 1) * features

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape outputs"]:
        """The network's output."""
        missing = x.isnan()
        filled = torch.where(missing, 0.0, x)
        if self.mask:
            filled = torch.cat([filled, (~missing).to(x.dtype)], -1)
        output: Tensor = self.network(filled)
        return output
