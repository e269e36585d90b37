"""Networks that convolve images in flat rows."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks.activations import named_activation
from ppl_vae.networks.images import STRIDE, ImageShape
from ppl_vae.networks.mlp import MLP
from ppl_vae.networks.output import FeatureBias

_KERNEL = 4
"""Twice the stride: every pixel is seen equally often."""


@final
class ResidualBlock(nn.Module):
    """``x -> x + C_2 a(C_1 a(x))`` with convolutions C of 3 x 3 pixels.

    Without batch normalisation, under which the density of a datum would depend on the others in
    its batch.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        activate = named_activation(activation)
        self.branch = nn.Sequential(
            activate(),
            nn.Conv2d(channels, channels, 3, padding=1),
            activate(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply the block."""
        change: Tensor = self.branch(x)
        return x + change


@final
class ImageEncoder(nn.Module):
    """Per channel size: sides halved, residual blocks, activation. Then an MLP of all that is left.

    Args:
        in_features: Length of a row: blocks of the features of an image.
        hidden: Sizes of the MLP's hidden layers.
        out_features: Size of the last dimension of the output.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        activation: A name in :data:`~ppl_vae.networks.ACTIVATIONS`.
        channels: Of the halved images, finest first.
        blocks: Residual blocks after each halving.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        image_shape: Sequence[int] | None,
        activation: str,
        channels: Sequence[int],
        blocks: int,
    ) -> None:
        super().__init__()
        _require_sizes(channels, blocks)
        self.shape = shape = ImageShape.of(image_shape, len(channels))
        layers: list[nn.Module] = []
        for before, after in pairwise((shape.planes(in_features), *channels)):
            layers.append(_halving(before, after))
            layers += _refinement(after, blocks, activation)
        self.convolutions = nn.Sequential(*layers)
        self.dense = MLP(math.prod(shape.coarse(channels)), hidden, out_features, activation)

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to every row."""
        images = _channels_last(self.shape.images(x))
        output: Tensor = self.dense(self.convolutions(images).flatten(1))
        return output.reshape(*x.shape[:-1], output.shape[-1])


@final
class ImageDecoder(nn.Module):
    """An MLP to the coarsest images; then, per channel size, residual blocks and sides doubled.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the MLP's hidden layers.
        out_features: Length of a row: blocks of the features of an image.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        activation: A name in :data:`~ppl_vae.networks.ACTIVATIONS`.
        channels: Of the images before they are doubled, finest first, as for the encoder.
        blocks: Residual blocks before each doubling.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        image_shape: Sequence[int] | None,
        activation: str,
        channels: Sequence[int],
        blocks: int,
    ) -> None:
        super().__init__()
        _require_sizes(channels, blocks)
        shape = ImageShape.of(image_shape, len(channels))
        self.coarse = shape.coarse(channels)
        self.dense = MLP(in_features, hidden, math.prod(self.coarse), activation)
        layers: list[nn.Module] = []
        for before, after in pairwise(reversed(channels)):
            layers += [*_refinement(before, blocks, activation), _doubling(before, after)]
        layers += _refinement(channels[0], blocks, activation)
        layers.append(_doubling(channels[0], shape.planes(out_features), last=True))
        self.convolutions = nn.Sequential(*layers)
        self.output = FeatureBias(out_features)

    def forward(self, z: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``z``."""
        images = _channels_last(self.dense(z).reshape(-1, *self.coarse))
        rows = self.convolutions(images).flatten(1)
        output: Tensor = self.output(rows.reshape(*z.shape[:-1], rows.shape[-1]))
        return output


def _channels_last(images: Tensor) -> Tensor:
    """The same in the layout in which convolutions are faster, and which they hand on."""
    if images.shape[1] == 1:  # both layouts are one, and torch takes it for the slower
        return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def _refinement(channels: int, blocks: int, activation: str) -> list[nn.Module]:
    """Residual blocks, and the activation of what they give."""
    residual = [ResidualBlock(channels, activation) for _ in range(blocks)]
    return [*residual, named_activation(activation)()]


def _halving(before: int, after: int) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, _KERNEL, STRIDE, padding=1)
    _start(layer, before * _KERNEL**2, variance=2.0)
    return layer


def _doubling(before: int, after: int, *, last: bool = False) -> nn.ConvTranspose2d:
    # The output has biases of its own.
    layer = nn.ConvTranspose2d(before, after, _KERNEL, STRIDE, padding=1, bias=not last)
    _start(layer, before * (_KERNEL // STRIDE) ** 2, variance=1 / 3 if last else 2.0)
    return layer


def _start(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: int, variance: float) -> None:
    """Weights uniform, of this variance over the inputs of a pixel.

    2 keeps the size of what passes through layers with activations (He et al., 2015, Delving deep
    into rectifiers); torch's own start, of 1/3, makes each smaller, and learning slow to begin.
    """
    bound = math.sqrt(3 * variance / inputs)
    nn.init.uniform_(layer.weight, -bound, bound)


def _require_sizes(channels: Sequence[int], blocks: int) -> None:
    if not channels or min(channels) < 1 or blocks < 0:
        raise ValueError(
            "a convolutional network needs 1 or more channel sizes of 1 or more, and 0 or more "
            f"residual blocks, got channels {tuple(channels)} and {blocks} blocks."
        )
