"""Residual networks for images in flat rows."""

from collections.abc import Sequence
from typing import final

from torch import nn

from ppl_vae.networks._conv import ConvDecoder, ConvEncoder


@final
class ResidualEncoder(nn.Sequential):
    """A :class:`~ppl_vae.networks.ConvEncoder` with residual blocks after each halving.

    A block is ``x -> x + C_2 a(C_1 a(x))`` with convolutions C of 3 x 3 pixels, and no batch
    normalisation, under which a datum's density would depend on the others in its batch. Several
    times the cost of the convolutions alone.

    Args:
        in_features: As for :class:`~ppl_vae.networks.ConvEncoder`, as the others are.
        hidden: Sizes of the last MLP's hidden layers.
        out_features: Size of the last dimension of the output.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        activation: A name in ``ACTIVATIONS``.
        channels: Of the halved images, finest first.
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
        super().__init__(ConvEncoder(*body))


@final
class ResidualDecoder(nn.Sequential):
    """A :class:`~ppl_vae.networks.ConvDecoder` with residual blocks before each doubling.

    Args:
        in_features: As for :class:`~ppl_vae.networks.ConvDecoder`, as the others are.
        hidden: Sizes of the first MLP's hidden layers.
        out_features: Length of a row: the features of an image, or several blocks of as many.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        activation: A name in ``ACTIVATIONS``.
        channels: Of the images before they are doubled, finest first.
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
        super().__init__(ConvDecoder(*body))
