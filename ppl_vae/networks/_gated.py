"""Multilayer perceptrons with gates."""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks._mlp import layer_sizes


@final
class GatedMLP(nn.Module):
    """Hidden layers ``x -> (W x + b) * sigmoid(V x + c)``, and a linear layer at the end.

    The gate is the only non-linearity, so there is no activation to choose. A layer costs twice a
    layer of :class:`~ppl_vae.networks.MLP` of its size.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the hidden layers; empty gives a linear map.
        out_features: Size of the last dimension of the output.

    Attributes:
        output: The last linear layer.

    Raises:
        ValueError: If a size is less than 1.

    References:
        Dauphin, Fan, Auli and Grangier, 2017, Language modeling with gated convolutional networks.
        Tomczak and Welling, 2018, VAE with a VampPrior.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int) -> None:
        super().__init__()
        sizes = layer_sizes(in_features, hidden, out_features)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, 2 * after), nn.GLU()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-2], out_features)

    def forward(self, x: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``x``."""
        output: Tensor = self.output(self.hidden(x))
        return output
