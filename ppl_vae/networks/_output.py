"""The end of a network, and its bias."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class FeatureBias(nn.Module):
    """``x -> x + b`` with one learned number for each feature, from 0.

    At the end of a convolutional network, whose own bias is the same for every pixel.

    Args:
        features: Size of the last dimension of x.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape features"]:
        """Add the bias."""
        return x + self.bias


def set_output_bias(network: nn.Module, bias: Float[Tensor, " out"]) -> None:
    """Set the bias of the network's last linear layer, or of the :class:`FeatureBias` at its end.

    Raises:
        ValueError: If the network has neither with a bias of that size at its end.
    """
    ends = [module for module in network.modules() if isinstance(module, nn.Linear | FeatureBias)]
    if not ends or ends[-1].bias is None or ends[-1].bias.shape != bias.shape:
        raise ValueError(
            f"the network's last linear layer has no bias of shape {tuple(bias.shape)} to set."
        )
    with torch.no_grad():
        ends[-1].bias.copy_(bias)
