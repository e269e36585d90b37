"""Convolutional and residual networks for images in flat rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks._mlp import MLP, FeatureBias, named_activation

STRIDE = 2
"""Stride of the convolutions that halve an image, and of those that double it."""


@final
@dataclass(frozen=True)
class ImageShape:
    """Shape of images whose pixels stand in a row: channels outermost, then lines.

    A row may hold several blocks of that size, such as the locations and the scales of all pixels:
    blocks outermost.
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, image_shape: Sequence[int] | None, halvings: int) -> "ImageShape":
        """The shape of images whose sides are to be halved so many times."""
        known = "(height, width) or (channels, height, width)"
        if image_shape is None:
            raise ValueError(
                f"convolutions need images, and these data have no image shape {known}: take "
                "another network (mlp, gated)."
            )
        if len(image_shape) not in (2, 3) or min(image_shape) < 1:
            raise ValueError(f"image_shape must be {known}, got {tuple(image_shape)}.")
        shape = cls(*((1, *image_shape) if len(image_shape) == 2 else image_shape))
        divisor = STRIDE**halvings
        if shape.height % divisor or shape.width % divisor:
            raise ValueError(
                f"images of {shape.height} x {shape.width} pixels cannot be halved {halvings} "
                f"times: {halvings} channel sizes need sides that are multiples of {divisor}; "
                "give fewer channel sizes, pad the images, or take another network (mlp, gated)."
            )
        return shape

    @property
    def features(self) -> int:
        """Number of values in an image."""
        return self.channels * self.height * self.width

    def coarse(self, channels: Sequence[int]) -> tuple[int, int, int]:
        """Channels and sides after a halving for each of ``channels``."""
        divisor = STRIDE ** len(channels)
        return channels[-1], self.height // divisor, self.width // divisor

    def planes(self, features: int) -> int:
        """Number of grey images in a row of so many features."""
        if features < 1 or features % self.features:
            raise ValueError(
                f"images of {self.channels} x {self.height} x {self.width} have {self.features} "
                f"features, and a row must be one or more of them, got {features} features: give "
                "the image_shape of these rows, or take another network (mlp, gated)."
            )
        return features // self.features * self.channels

    def images(
        self, rows: Float[Tensor, "*shape features"]
    ) -> Float[Tensor, "rows planes height width"]:
        """Reshape all rows to images in one batch."""
        planes = self.planes(rows.shape[-1])
        return rows.reshape(-1, planes, self.height, self.width)


_KERNEL = 4
"""Side of a kernel: twice the stride, so that every pixel is seen equally often."""


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


def channels_last(images: Tensor) -> Tensor:
    """Convert images to the layout in which convolutions are faster, and which they keep."""
    if images.shape[1] == 1:
        # With one channel both layouts are the same, and torch takes it for the slower one.
        return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def residual_stage(channels: int, blocks: int, activation: str) -> list[nn.Module]:
    """Residual blocks, and an activation behind them."""
    residual = [ResidualBlock(channels, activation) for _ in range(blocks)]
    return [*residual, named_activation(activation)()]


def halving(before: int, after: int) -> nn.Conv2d:
    """Convolution that halves both sides."""
    layer = nn.Conv2d(before, after, _KERNEL, STRIDE, padding=1)
    _start(layer, before * _KERNEL**2, variance=2.0)
    return layer


def doubling(before: int, after: int, *, last: bool = False) -> nn.ConvTranspose2d:
    """Transposed convolution that doubles both sides; a network's last has its bias elsewhere."""
    layer = nn.ConvTranspose2d(before, after, _KERNEL, STRIDE, padding=1, bias=not last)
    # A pixel gets (kernel / stride)^2 places of the coarse image, not all of the kernel.
    _start(layer, before * (_KERNEL // STRIDE) ** 2, variance=1 / 3 if last else 2.0)
    return layer


def _start(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: int, variance: float) -> None:
    """Weights uniform, of this variance over the inputs of a pixel.

    2 keeps the size of what passes through layers with activations (He et al., 2015, Delving deep
    into rectifiers); torch's own start, of 1/3, makes each smaller, and learning slow to begin.
    """
    bound = math.sqrt(3 * variance / inputs)
    nn.init.uniform_(layer.weight, -bound, bound)


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
        channels: Channels of the halved images, finest first.
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
        # Convolutions take one batch dimension: particles and data are one while they run.
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
        image_shape: Shape of an image, as for :class:`ConvEncoder`.
        activation: A name in ``ACTIVATIONS``.
        channels: Channels of the images before they are doubled, finest first, as the
            encoder's.
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
        # No bias: one number for all pixels would be a part of FeatureBias, which has one for each.
        layers.append(doubling(channels[0], shape.planes(out_features), last=True))
        self.convolutions = nn.Sequential(*layers)
        # Last, where set_output_bias finds it: decoders start at the mean of the data.
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


@final
class ResidualEncoder(nn.Sequential):
    """A :class:`~ppl_vae.networks.ConvEncoder` with residual blocks after each halving.

    A block is ``x -> x + C_2 a(C_1 a(x))`` with convolutions C of 3 x 3 pixels, and no batch
    normalisation, under which a datum's density would depend on the others in its batch. Several
    times the cost of the convolutions alone.

    Args:
        in_features: Length of a row, as for :class:`~ppl_vae.networks.ConvEncoder`.
        hidden: Sizes of the last MLP's hidden layers.
        out_features: Size of the last dimension of the output.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        activation: A name in ``ACTIVATIONS``.
        channels: Channels of the halved images, finest first.
        blocks: Residual blocks for each of ``channels``.

    Raises:
        ValueError: As for :class:`~ppl_vae.networks.ConvEncoder`.

    References:
        He, Zhang, Ren and Sun, 2016, Identity mappings in deep residual networks.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        image_shape: Sequence[int] | None,
        activation: str = "tanh",
        channels: tuple[int, ...] = (32, 64),
        blocks: int = 1,
    ) -> None:
        body = in_features, hidden, out_features, image_shape, activation, channels, blocks
        # ConvEncoder is final: composed, not inherited.
        super().__init__(ConvEncoder(*body))


@final
class ResidualDecoder(nn.Sequential):
    """A :class:`~ppl_vae.networks.ConvDecoder` with residual blocks before each doubling.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the first MLP's hidden layers.
        out_features: Length of a row: the features of an image, or several blocks of as many.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        activation: A name in ``ACTIVATIONS``.
        channels: Channels of the images before they are doubled, finest first.
        blocks: Residual blocks for each of ``channels``.

    Raises:
        ValueError: As for :class:`~ppl_vae.networks.ConvDecoder`.

    References:
        He, Zhang, Ren and Sun, 2016, Identity mappings in deep residual networks.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        image_shape: Sequence[int] | None,
        activation: str = "tanh",
        channels: tuple[int, ...] = (32, 64),
        blocks: int = 1,
    ) -> None:
        body = in_features, hidden, out_features, image_shape, activation, channels, blocks
        # ConvDecoder is final: composed, not inherited.
        super().__init__(ConvDecoder(*body))
