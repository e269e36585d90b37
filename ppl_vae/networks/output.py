"""The end of a network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def set_output_bias(network: nn.Module, bias: Float[Tensor, " out"]) -> None:
    """Set the bias of the network's last linear layer.

    Raises:
        ValueError: If the network has no linear layer with a bias of that size at its end.
    """
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears or linears[-1].bias is None or linears[-1].bias.shape != bias.shape:
        raise ValueError(
            f"the network's last linear layer has no bias of shape {tuple(bias.shape)} to set."
        )
    with torch.no_grad():
        linears[-1].bias.copy_(bias)
