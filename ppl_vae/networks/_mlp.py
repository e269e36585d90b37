"""Multilayer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks._activations import named_activation


class MLP(nn.Module):
    """A multilayer perceptron: ``x -> W_n a(... a(W_1 x + b_1)) + b_n``.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the hidden layers; empty gives a linear map.
        out_features: Size of the last dimension of the output.
        activation: A name in ``ACTIVATIONS``.

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
        sizes = layer_sizes(in_features, hidden, out_features)
        activate = named_activation(activation)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, after), activate()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-2], out_features)

    def forward(self, x: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``x``."""
        output: Tensor = self.output(self.hidden(x))
        return output


def layer_sizes(in_features: int, hidden: Sequence[int], out_features: int) -> tuple[int, ...]:
    """Of the input, the hidden layers and the output.

    Raises:
        ValueError: If one is less than 1, or hidden is no list.
    """
    if isinstance(hidden, int):
        raise ValueError(f"hidden is a list of layer sizes, such as [{hidden}], got {hidden}.")
    sizes = (in_features, *hidden, out_features)
    if min(sizes) < 1:
        raise ValueError(f"layer sizes must be 1 or more, got {sizes}.")
    return sizes
