"""Rows of pixels as images, and what cannot be halved."""

import pytest
import torch

from ppl_vae.networks._conv import ImageShape


@pytest.mark.parametrize(
    ("image_shape", "halvings", "coarse"),
    [
        ((28, 28), 2, (7, 7)),
        ((3, 32, 32), 5, (1, 1)),
        ((8, 8), 3, (1, 1)),
        ((1, 12, 20), 2, (3, 5)),
    ],
)
def test_sides_are_halved(image_shape, halvings, coarse):
    shape = ImageShape.of(image_shape, halvings)
    assert shape.coarse([9] * halvings) == (9, *coarse)
    assert shape.features == torch.Size(image_shape).numel()


def test_a_row_is_channels_then_lines():
    shape = ImageShape.of((2, 4, 6), 1)
    row = torch.arange(48.0)
    image = shape.images(row).squeeze(0)
    for c, i, j in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 3, 5)]:
        assert image[c, i, j] == row[c * 24 + i * 6 + j]


def test_blocks_are_more_planes():
    shape = ImageShape.of((3, 2, 2), 1)
    assert shape.planes(24) == 6
    images = shape.images(torch.arange(48.0).reshape(2, 24))
    assert images.shape == (2, 6, 2, 2)
    assert images[1, 3, 0, 0] == 36


class TestErrors:
    """One clear line each."""

    @pytest.mark.parametrize(
        ("image_shape", "halvings", "divisor"),
        [((28, 28), 3, 8), ((8, 8), 4, 16), ((7, 8), 1, 2), ((3, 32, 30), 2, 4)],
    )
    def test_a_side_that_cannot_be_halved(self, image_shape, halvings, divisor):
        height, width = image_shape[-2:]
        expected = rf"^images of {height} x {width} pixels cannot .* multiples of {divisor};[^\n]*$"
        with pytest.raises(ValueError, match=expected):
            ImageShape.of(image_shape, halvings)

    @pytest.mark.parametrize("image_shape", [(784,), (1, 1, 8, 8), (0, 8)])
    def test_no_image(self, image_shape):
        with pytest.raises(ValueError, match=r"^image_shape must be \(height, width\) or [^\n]*$"):
            ImageShape.of(image_shape, 1)

    def test_no_shape(self):
        with pytest.raises(ValueError, match=r"^convolutions need images[^\n]*mlp, gated\)\.$"):
            ImageShape.of(None, 1)

    @pytest.mark.parametrize("features", [0, 63, 100])
    def test_rows_of_another_length(self, features):
        with pytest.raises(ValueError, match=f"images of 1 x 8 x 8 have 64 .* got {features} feat"):
            ImageShape.of((8, 8), 1).planes(features)
