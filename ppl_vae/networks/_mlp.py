"""Multilayer perceptrons, their activations, and layers before and behind them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks._tanh import Tanh

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "leaky-relu": nn.LeakyReLU,
}


def named_activation(name: str) -> Callable[[], nn.Module]:
    """The activation's class.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


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
        sizes = _layer_sizes(in_features, hidden, out_features)
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


def _layer_sizes(in_features: int, hidden: Sequence[int], out_features: int) -> tuple[int, ...]:
    if isinstance(hidden, int):
        raise ValueError(f"hidden is a list of layer sizes, such as [{hidden}], got {hidden}.")
    sizes = (in_features, *hidden, out_features)
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(f"layer sizes must be 1 or more, whole numbers, got {sizes}.")
    return sizes


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
        sizes = _layer_sizes(in_features, hidden, out_features)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes[:-1]):
            # One layer for W and V: GLU multiplies one half by the sigmoid of the other.
            layers += [nn.Linear(before, 2 * after), nn.GLU()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-2], out_features)

    def forward(self, x: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``x``."""
        output: Tensor = self.output(self.hidden(x))
        return output


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
        # A NaN among the inputs would make every output NaN.
        filled = torch.where(missing, 0.0, x)
        if self.mask:
            filled = torch.cat([filled, (~missing).to(x.dtype)], -1)
        output: Tensor = self.network(filled)
        return output


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
    # Modules come in the order of registration, in which the end of a network is last.
    ends = [module for module in network.modules() if isinstance(module, nn.Linear | FeatureBias)]
    if not ends or ends[-1].bias is None or ends[-1].bias.shape != bias.shape:
        raise ValueError(
            f"the network's last linear layer has no bias of shape {tuple(bias.shape)} to set."
        )
    with torch.no_grad():
        ends[-1].bias.copy_(bias)
