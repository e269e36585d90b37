"""Images in flat rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

STRIDE = 2
"""Settings of the convolutions that halve an image, and of those that double it."""


@final
@dataclass(frozen=True)
class ImageShape:
    """Of images whose pixels stand in a row: channels outermost, then lines.

    A row may hold several blocks of that size, such as the locations and the scales of all pixels:
    blocks outermost.
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, image_shape: Sequence[int] | None, halvings: int) -> "ImageShape":
        """The shape of images whose sides are to be halved so many times.

        Args:
            image_shape: ``(height, width)`` or ``(channels, height, width)``.
            halvings: 1 or more.

        Raises:
            ValueError: If it is no such shape, or a side cannot be halved so often.
        """
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
        """Numbers in an image."""
        return self.channels * self.height * self.width

    def coarse(self, channels: Sequence[int]) -> tuple[int, int, int]:
        """Channels and sides after a halving for each of ``channels``."""
        divisor = STRIDE ** len(channels)
        return channels[-1], self.height // divisor, self.width // divisor

    def planes(self, features: int) -> int:
        """How many grey images there are in a row of so many features.

        Raises:
            ValueError: If the row is no whole number of images.
        """
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
        """All rows as images in one batch."""
        planes = self.planes(rows.shape[-1])
        return rows.reshape(-1, planes, self.height, self.width)
