"""Convolutional networks for images in flat rows."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks._convolutions import channels_last, doubling, halving, residual_stage
from ppl_vae.networks._images import ImageShape
from ppl_vae.networks._mlp import MLP
from ppl_vae.networks._output import FeatureBias


@final
class ConvEncoder(nn.Module):
    """Convolutions that halve an image, once for each of ``channels``; then an MLP.

    ``a(C_n ... a(C_1 x))`` with convolutions C of 4 x 4 pixels and stride 2. Takes rows of pixels,
    as every network here: channels outermost, then lines.

    Args:
        in_features: Length of a row: the features of an image, or several blocks of as many.
        hidden: Sizes of the MLP's hidden layers; empty gives a linear map.
        out_features: Size of the last dimension of the output.
        image_shape: ``(height, width)`` or ``(channels, height, width)``; the sides multiples of
            2 to the number of ``channels``.
        activation: A name in ``ACTIVATIONS``.
        channels: Of the halved images, finest first.
        blocks: Residual blocks after each halving.

    Raises:
        ValueError: If a size is less than 1, the activation unknown, or the image cannot be halved.

    References:
        Radford, Metz and Chintala, 2016, Unsupervised representation learning with deep
        convolutional generative adversarial networks.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        image_shape: Sequence[int] | None,
        activation: str = "tanh",
        channels: tuple[int, ...] = (32, 64),
        blocks: int = 0,
    ) -> None:
        super().__init__()
        _require_sizes(channels, blocks)
        self.shape = shape = ImageShape.of(image_shape, len(channels))
        layers: list[nn.Module] = []
        for before, after in pairwise((shape.planes(in_features), *channels)):
            layers += [halving(before, after), *residual_stage(after, blocks, activation)]
        self.convolutions = nn.Sequential(*layers)
        self.dense = MLP(math.prod(shape.coarse(channels)), hidden, out_features, activation)

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to every row."""
        images = channels_last(self.shape.images(x))
        output: Tensor = self.dense(self.convolutions(images).flatten(1))
        return output.reshape(*x.shape[:-1], output.shape[-1])


@final
class ConvDecoder(nn.Module):
    """An MLP to a coarse image; then transposed convolutions that double its sides.

    :class:`ConvEncoder` backwards, with a bias for each output at the end.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the MLP's hidden layers.
        out_features: Length of a row: the features of an image, or several blocks of as many.
        image_shape: As for :class:`ConvEncoder`.
        activation: A name in ``ACTIVATIONS``.
        channels: Of the images before they are doubled, finest first: the same as the encoder's.
        blocks: Residual blocks before each doubling.

    Raises:
        ValueError: As for :class:`ConvEncoder`, or if the outputs are no whole number of images.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        image_shape: Sequence[int] | None,
        activation: str = "tanh",
        channels: tuple[int, ...] = (32, 64),
        blocks: int = 0,
    ) -> None:
        super().__init__()
        _require_sizes(channels, blocks)
        shape = ImageShape.of(image_shape, len(channels))
        self.coarse = shape.coarse(channels)
        self.dense = MLP(in_features, hidden, math.prod(self.coarse), activation)
        layers: list[nn.Module] = []
        for before, after in pairwise(reversed(channels)):
            layers += [*residual_stage(before, blocks, activation), doubling(before, after)]
        layers += residual_stage(channels[0], blocks, activation)
        layers.append(doubling(channels[0], shape.planes(out_features), last=True))
        self.convolutions = nn.Sequential(*layers)
        self.output = FeatureBias(out_features)

    def forward(self, z: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``z``."""
        images = channels_last(self.dense(z).reshape(-1, *self.coarse))
        rows = self.convolutions(images).flatten(1)
        output: Tensor = self.output(rows.reshape(*z.shape[:-1], rows.shape[-1]))
        return output


def _require_sizes(channels: Sequence[int], blocks: int) -> None:
    if not channels or min(channels) < 1 or blocks < 0:
        raise ValueError(
            "a convolutional network needs 1 or more channel sizes of 1 or more, and 0 or more "
            f"residual blocks, got channels {tuple(channels)} and {blocks} blocks."
        )
