"""Pixels that depend on those before them: a PixelCNN whose every pixel sees z."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Size, Tensor, nn
from torch.nn import functional

from ppl_vae.data import RowTensor
from ppl_vae.likelihoods._discrete import BernoulliDecoder
from ppl_vae.likelihoods._discretized_logistic import DiscretizedLogisticMixtureDecoder
from ppl_vae.networks import FeatureBias

Conditionals = Callable[[Tensor, Tensor], Any]
"""``(context, x) -> Distribution`` of every pixel given those before it in x, as one event."""


@final
class AutoregressiveImage(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``log p(x) = sum_d log p(x_d | x_before, context)``, pixels in the order they are read in.

    A density takes one pass of the network, a draw one for each pixel.

    Args:
        conditionals: The distribution of every pixel given those before it.
        context: Numbers that all pixels are given, shape ``(*shape, numbers)``.
        channels: Values at each pixel, independent given the pixels before.
        features: Length of a row.
        support: Support of a row.
        validate_args: Whether values are checked; None: as Pyro has it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        conditionals: Conditionals,
        context: Float[Tensor, "*shape numbers"],
        channels: int,
        features: int,
        support: constraints.Constraint,
        validate_args: bool | None = None,
    ) -> None:
        self._conditionals, self._context, self._channels = conditionals, context, channels
        self._support = support
        super().__init__(context.shape[:-1], Size((features,)), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Support of the pixels."""
        return self._support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "AutoregressiveImage":
        """Broadcast the distribution to a batch shape."""
        context = self._context.expand(*batch_shape, self._context.shape[-1])
        return AutoregressiveImage(
            self._conditionals,
            context,
            self._channels,
            self.event_shape[0],
            self._support,
            validate_args=self._validate_args,
        )

    def log_prob(self, value: Float[Tensor, "*batch features"]) -> Float[Tensor, "*shape"]:
        """Log-density, or log-probability, in nats.

        Raises:
            ValueError: If validation is on (the default) and a value is impossible.
        """
        log_prob: Tensor = self._conditionals(self._context, value).log_prob(value)
        return log_prob

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, pixel by pixel, shape ``(*sample_shape, *batch_shape, features)``."""
        return self._walk(sample_shape)[0]

    @property
    def mean(self) -> Float[Tensor, "*shape features"]:
        """Mean of each pixel given the pixels before it in one draw: for pictures.

        The mean of the distribution itself has no closed form; this has it as its expectation.
        """
        return self._walk(())[1]

    def _walk(self, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A draw, and the means that its pixels were drawn around."""
        context = self._context.expand(*sample_shape, *self._context.shape)
        x = context.new_zeros(*context.shape[:-1], *self.event_shape)
        means = torch.zeros_like(x)
        pixels = self.event_shape[0] // self._channels
        with torch.no_grad():
            for pixel in range(pixels):
                # Channels are outermost in a row: one pixel's values lie a plane apart.
                here = slice(pixel, None, pixels)
                conditional = self._conditionals(context, x)
                x[..., here] = conditional.sample()[..., here].to(x.dtype)
                means[..., here] = conditional.mean[..., here].to(x.dtype)
        return x, means


@final
class MaskedConv2d(nn.Conv2d):
    """A convolution that sees pixels before the one it stands at, in the order they are read in.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Odd side of the window.
        sees_itself: Whether the pixel itself is seen too.

    References:
        van den Oord, Kalchbrenner and Kavukcuoglu, 2016, Pixel recurrent neural networks.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, *, sees_itself: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        mask = torch.zeros(kernel, kernel)
        mask[: kernel // 2] = 1
        # Of the line itself, the pixels to the left; the first layer must not see its own pixel.
        mask[kernel // 2, : kernel // 2 + sees_itself] = 1
        # Not saved: the arguments make it again.
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:  # noqa: A002
        """Apply the convolution."""
        return functional.conv2d(input, self.weight * self.mask, self.bias, padding=self.padding)


@final
class PixelCNNDecoder(nn.Module):
    """p(x|z) = prod_d p(x_d | x_before, z), by masked convolutions over the image.

    The network's output is an image of ``context`` channels that every layer adds to what it knows
    of the pixels before. Pixels are read line by line; the channels of one pixel are independent
    given z and the pixels before. Stacked masked convolutions do not see some pixels above to the
    right (the blind spot), which costs fit and no correctness. A decoder this strong can model the
    data without z: monitor the KL. Missing cells cannot be left out, since later pixels depend on
    them. A density costs one pass, a draw one for each pixel.

    Args:
        network: Maps (..., latent) to (..., context * features).
        image_shape: (height, width) or (channels, height, width).
        pixels: ``bernoulli``, or ``logistic``: a mixture of ``components`` discretised logistics
            over 256 levels.
        width: Channels of the layers.
        layers: Residual layers.
        kernel: Odd side of the windows.
        context: Channels of the network's output, which say what z means for each pixel.
        components: Number of components of the mixture, for ``logistic``.
        data: Training data; when given, the first outputs have their distribution.
        data_mean: Their mean, for ``bernoulli``.

    Raises:
        ValueError: If the data are no images, or a size is out of range.

    References:
        van den Oord et al., 2016, Conditional image generation with PixelCNN decoders.
        Gulrajani et al., 2017, PixelVAE: a latent variable model for natural images.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, ...] | None,
        pixels: Literal["bernoulli", "logistic"] = "bernoulli",
        width: int = 32,
        layers: int = 4,
        kernel: int = 5,
        context: int = 2,
        components: int = 5,
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
        data_mean: Float[Tensor, " features"] | None = None,
    ) -> None:
        super().__init__()
        self._size = _image_size(image_shape)
        if min(width, layers, context, components) < 1 or kernel < 3 or kernel % 2 == 0:
            raise ValueError(
                "a PixelCNN needs width, layers, context and components >= 1 and an odd kernel >= "
                f"3, got {width}, {layers}, {context}, {components} and {kernel}."
            )
        self.network, self._context = network, context
        channels, height, columns = self._size
        self._features = channels * height * columns
        # The pixels' own decoder has a bias as its network, which the masked layers add to.
        self.pixels: BernoulliDecoder | DiscretizedLogisticMixtureDecoder
        if pixels == "bernoulli":
            blocks = 1
            self.pixels = BernoulliDecoder(FeatureBias(self._features), data_mean)
        else:
            blocks = DiscretizedLogisticMixtureDecoder.num_outputs(1, components)
            bias = FeatureBias(blocks * self._features)
            self.pixels = DiscretizedLogisticMixtureDecoder(bias, components, data=data)
        self.first = MaskedConv2d(channels, width, kernel, sees_itself=False)
        self.seen = nn.Conv2d(context * channels, width, 1)
        self.layers = nn.ModuleList(
            MaskedConv2d(width, width, kernel, sees_itself=True) for _ in range(layers)
        )
        self.last = nn.Conv2d(width, blocks * channels, 1)
        # The first outputs are then those of the pixels' own start.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @classmethod
    def num_outputs(cls, features: int, context: int = 2) -> int:
        """Outputs that the network must have."""
        return context * features

    def forward(self, z: Float[Tensor, "*shape latent"]) -> AutoregressiveImage:
        """The distribution of x, event shape (features,)."""
        output = self.network(z)
        # All rows have one support: it is asked of one, without a graph.
        with torch.no_grad():
            zeros = output.new_zeros(1, self._features)
            support = self._of_pixels(output.detach().reshape(-1, output.shape[-1])[:1], zeros)
        return AutoregressiveImage(
            self._of_pixels, output, self._size[0], self._features, support.support
        )

    def _of_pixels(self, context: Tensor, x: Tensor) -> Any:
        """The distribution of all pixels, each given those before it."""
        rows = x.reshape(-1, *self._size)
        channels, height, columns = self._size
        shape = torch.broadcast_shapes(context.shape[:-1], x.shape[:-1])
        maps = context.reshape(-1, self._context * channels, height, columns)
        # x has no particles: its own convolution is computed once, and spread over them.
        before = self.first(rows.to(maps.dtype)).reshape(*x.shape[:-1], -1)
        known = self.seen(maps).reshape(*context.shape[:-1], -1)
        h = (before + known).expand(*shape, -1).reshape(-1, self.seen.out_channels, height, columns)
        for layer in self.layers:
            h = h + layer(functional.silu(h))
        outputs = self.last(functional.silu(h)).flatten(1)
        return self.pixels(outputs.reshape(*shape, -1))


def _image_size(image_shape: tuple[int, ...] | None) -> tuple[int, int, int]:
    if image_shape is None or len(image_shape) not in (2, 3):
        raise ValueError(
            f"a PixelCNN needs images of shape (height, width) or (channels, height, width), got "
            f"{image_shape}: take another likelihood for a table."
        )
    return (1, *image_shape) if len(image_shape) == 2 else image_shape  # type: ignore[return-value]
