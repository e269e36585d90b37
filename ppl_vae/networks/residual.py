"""Residual networks for images in flat rows."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks.convolutions import ImageDecoder, ImageEncoder


@final
class ResidualEncoder(nn.Module):
    """A :class:`~ppl_vae.networks.ConvEncoder` with residual blocks after each halving.

    A block is ``x -> x + C_2 a(C_1 a(x))`` with convolutions C of 3 x 3 pixels, and no batch
    normalisation, under which a datum's density would depend on the others in its batch. Several
    times the cost of the convolutions alone.

    Args:
        in_features: Length of a row: the features of an image, or several blocks of as many.
        hidden: Sizes of the last MLP's hidden layers; empty gives a linear map.
        out_features: Size of the last dimension of the output.
        image_shape: ``(height, width)`` or ``(channels, height, width)``; the sides multiples of
            2 to the number of ``channels``.
        activation: A name in :data:`~ppl_vae.networks.ACTIVATIONS`.
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
        super().__init__()
        self.body = ImageEncoder(
            in_features, hidden, out_features, image_shape, activation, channels, blocks
        )

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to every row."""
        output: Tensor = self.body(x)
        return output


@final
class ResidualDecoder(nn.Module):
    """A :class:`~ppl_vae.networks.ConvDecoder` with residual blocks before each doubling.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the first MLP's hidden layers.
        out_features: Length of a row: the features of an image, or several blocks of as many.
        image_shape: ``(height, width)`` or ``(channels, height, width)``; the sides multiples of
            2 to the number of ``channels``.
        activation: A name in :data:`~ppl_vae.networks.ACTIVATIONS`.
        channels: Of the halved images, finest first: the same as the encoder's.
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
        super().__init__()
        self.body = ImageDecoder(
            in_features, hidden, out_features, image_shape, activation, channels, blocks
        )

    def forward(self, z: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``z``."""
        output: Tensor = self.body(z)
        return output
