"""The layers of networks that convolve images."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.networks._activations import named_activation
from ppl_vae.networks._images import STRIDE

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


def channels_last(images: Tensor) -> Tensor:
    """The same in the layout in which convolutions are faster, and which they hand on."""
    if images.shape[1] == 1:  # both layouts are one, and torch takes it for the slower
        return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def residual_stage(channels: int, blocks: int, activation: str) -> list[nn.Module]:
    """Residual blocks, and the activation of what they give."""
    residual = [ResidualBlock(channels, activation) for _ in range(blocks)]
    return [*residual, named_activation(activation)()]


def halving(before: int, after: int) -> nn.Conv2d:
    """Of both sides, by a convolution."""
    layer = nn.Conv2d(before, after, _KERNEL, STRIDE, padding=1)
    _start(layer, before * _KERNEL**2, variance=2.0)
    return layer


def doubling(before: int, after: int, *, last: bool = False) -> nn.ConvTranspose2d:
    """Of both sides, by a transposed convolution; of a network's last, the bias is elsewhere."""
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
