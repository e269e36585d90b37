"""Network bodies: tensors in, tensors out, any leading shape."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "leaky-relu": nn.LeakyReLU,
}


class MLP(nn.Module):
    """A multilayer perceptron: ``x -> W_n a(... a(W_1 x + b_1)) + b_n``.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the hidden layers; empty gives a linear map.
        out_features: Size of the last dimension of the output.
        activation: A name in :data:`ACTIVATIONS`.

    Attributes:
        output: The last linear layer, whose bias decoders set from the data mean.

    Raises:
        ValueError: If a size is less than 1 or the activation is unknown.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        sizes = (in_features, *hidden, out_features)
        if min(sizes) < 1:
            raise ValueError(f"layer sizes must be 1 or more, got {sizes}.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: use {', '.join(ACTIVATIONS)}.")
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-2], out_features)

    def forward(self, x: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``x``."""
        output: Tensor = self.output(self.hidden(x))
        return output


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
