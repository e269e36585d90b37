"""Convolutional networks for images in flat rows."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks.convolutions import ImageDecoder, ImageEncoder


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
        activation: A name in :data:`~ppl_vae.networks.ACTIVATIONS`.
        channels: Of the halved images, finest first.

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
    ) -> None:
        super().__init__()
        self.body = ImageEncoder(
            in_features, hidden, out_features, image_shape, activation, channels, blocks=0
        )

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to every row."""
        output: Tensor = self.body(x)
        return output


@final
class ConvDecoder(nn.Module):
    """An MLP to a coarse image; then transposed convolutions that double its sides.

    :class:`ConvEncoder` backwards, with a bias for each output at the end.

    Args:
        in_features: Size of the last dimension of the input.
        hidden: Sizes of the MLP's hidden layers.
        out_features: Length of a row: the features of an image, or several blocks of as many.
        image_shape: ``(height, width)`` or ``(channels, height, width)``; the sides multiples of
            2 to the number of ``channels``.
        activation: A name in :data:`~ppl_vae.networks.ACTIVATIONS`.
        channels: Of the halved images, finest first: the same as the encoder's.

    Raises:
        ValueError: If a size is less than 1, the activation unknown, the image cannot be halved, or
            the outputs are no whole number of images.

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
    ) -> None:
        super().__init__()
        self.body = ImageDecoder(
            in_features, hidden, out_features, image_shape, activation, channels, blocks=0
        )

    def forward(self, z: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out"]:
        """Apply the network to the last dimension of ``z``."""
        output: Tensor = self.body(z)
        return output
