"""A decoder as somebody else wrote it, read as p(x|z), and the model that it is a part of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import Normal
from ppl_vae.likelihoods import BernoulliVector
from ppl_vae.names import require_positive
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.vae import VAE, without_encoder

Decoder = Callable[[Tensor], Any]
"""``z -> mean of x``, or ``z -> Distribution``."""
Noise = float | Literal["bernoulli"]
"""Standard deviation of normal noise, or that the mean is the probability of a 1."""

_PROBED = 2
"""Rows of z on which a decoder is tried."""


@final
class DecoderOfMeans(nn.Module):
    """p(x|z) with mean G(z): ``Normal(x; G(z), s^2 I)``, or ``prod_d Bernoulli(x_d; G(z)_d)``.

    G is called on rows (rows, latent), or on (rows, latent, 1, 1) where it takes nothing else, as
    generators of images do that begin with a transposed convolution; its output may have any shape
    with as many values as a datum.

    Args:
        decoder: G.
        event_shape: Shape of a datum.
        noise: s in the units of the data, or ``bernoulli``.
        pixel: Whether G takes (rows, latent, 1, 1).

    Raises:
        ValueError: If s is not positive.

    References:
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """

    scale: Tensor

    def __init__(
        self,
        decoder: Decoder,
        event_shape: Sequence[int],
        noise: Noise = 1.0,
        *,
        pixel: bool = False,
    ) -> None:
        super().__init__()
        self.decoder, self.event_shape, self.pixel = decoder, tuple(event_shape), pixel
        self.is_bernoulli = noise == "bernoulli"
        if not self.is_bernoulli:
            require_positive(noise=float(noise))
        # A buffer: the noise is a part of what an estimate of log p(x) is computed from.
        scale = torch.tensor(1.0 if self.is_bernoulli else float(noise), dtype=torch.float64)
        self.register_buffer("scale", scale)

    def means(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "..."]:
        """G(z)."""
        rows = z.reshape(-1, z.shape[-1])
        output = self.decoder(rows[..., None, None] if self.pixel else rows)
        return torch.as_tensor(output).reshape(*z.shape[:-1], *self.event_shape)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> dist.Distribution:
        """p(x|z)."""
        mean, event = self.means(z), len(self.event_shape)
        if not self.is_bernoulli:
            scale = self.scale.to(mean.dtype)
            return Normal(mean, scale, validate_args=False).to_event(event)
        # A saturated sigmoid is 1 in floating point, under which a 0 would be impossible.
        logits = torch.logit(mean, eps=torch.finfo(mean.dtype).eps)
        if event == 1:
            return BernoulliVector(logits)
        return dist.Bernoulli(logits=logits).to_event(event)


def decoder_model(
    decoder: Decoder,
    x: Float[Tensor, "num_data *event"],
    prior: Callable[[], Any] | None = None,
    noise: Noise | None = None,
    *,
    latent: int | None = None,
) -> VAE:
    """Model p(z) p(x|z) of a decoder; in place of a guide it has its prior.

    Args:
        decoder: Module or function ``z -> mean``, or ``z -> Distribution`` of pyro.
        x: Data, whose shape the decoder's output must fit; their values are not used.
        prior: ``() -> Distribution`` with event shape (latent,); None: standard normal.
        noise: Standard deviation s of normal noise, or ``bernoulli``; None where the decoder
            returns a distribution.
        latent: Size of z; None: the prior's, or what the decoder's first layer takes.

    Raises:
        ValueError: If the size of z is not found, the decoder fails on draws of z, its output does
            not fit the data, or noise is given where a distribution has its own, or missing.
    """
    form = form_of(decoder, x, prior, latent)
    if form.is_distribution:
        if noise is not None:
            raise ValueError(
                f"noise={noise!r}, but the decoder returns a distribution, which has a spread of "
                "its own: leave noise out."
            )
        return without_encoder(form.prior, decoder)
    if noise is None:
        raise ValueError(
            "the decoder returns a tensor, the mean of x, whose noise is not known: give "
            "noise=SD, noise='bernoulli', or validation data to choose it by."
        )
    low, high = form.output.min().item(), form.output.max().item()
    if noise == "bernoulli" and not (low >= 0 and high <= 1):
        raise ValueError(
            f"noise='bernoulli' takes a decoder of probabilities, and this one goes from {low:.3g} "
            f"to {high:.3g}: end it with a sigmoid, or return a distribution."
        )
    likelihood = DecoderOfMeans(decoder, x.shape[1:], noise, pixel=form.pixel)
    return without_encoder(form.prior, likelihood)


@final
@dataclass(frozen=True)
class Form:
    """What a decoder takes and gives.

    Attributes:
        prior: Prior of its z.
        output: Mean for two draws of z; empty where it returns distributions.
        is_distribution: Whether it returns distributions.
        pixel: Whether it takes z as images of one pixel.
    """

    prior: Callable[[], Any]
    output: Tensor
    is_distribution: bool
    pixel: bool


def form_of(
    decoder: Decoder,
    x: Float[Tensor, "num_data *event"],
    prior: Callable[[], Any] | None,
    latent: int | None,
) -> Form:
    """Try the decoder on two draws of z.

    Raises:
        ValueError: As :func:`decoder_model`.
    """
    event = tuple(x.shape[1:])
    if not event:
        raise ValueError(f"x has shape {tuple(x.shape)}: give rows of data, shape (num_data, ...).")
    if prior is None:
        prior = _standard_normal(decoder, find_latent(decoder) if latent is None else latent, x)
    size = _size_of(prior, latent)
    output, pixel = _probe(decoder, prior)
    if not isinstance(output, Tensor):
        if tuple(output.event_shape) != event:
            raise ValueError(
                f"the decoder returns a distribution with event shape {tuple(output.event_shape)}, "
                f"and a datum has shape {event}: end it with .to_event(n), or reshape the data."
            )
        return Form(prior, torch.empty(0), is_distribution=True, pixel=pixel)
    if output[0].numel() != x[0].numel():
        raise ValueError(
            f"the decoder maps z of size {size} to {output[0].numel()} values, shape "
            f"{tuple(output.shape[1:])}, and a datum has {x[0].numel()}, shape {event}: give data "
            "of the decoder's shape."
        )
    return Form(prior, output, is_distribution=False, pixel=pixel)


def find_latent(decoder: Decoder) -> int:
    """Size of z, by what the first layer of the decoder takes.

    Raises:
        ValueError: If that cannot be told.
    """
    modules = decoder.modules() if isinstance(decoder, nn.Module) else ()
    for module in modules:
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return module.in_channels
        if any(True for _ in module.parameters(recurse=False)):
            break
    raise ValueError(
        "the size of z cannot be told by the decoder's first layer: give latent=N, or a prior."
    )


def _standard_normal(decoder: Decoder, latent: int, x: Tensor) -> StandardNormalPrior:
    """In the type and on the device of the decoder's parameters."""
    like = next(decoder.parameters(), x) if isinstance(decoder, nn.Module) else x
    prior = StandardNormalPrior(latent)
    return prior.to(like) if like.is_floating_point() else prior.to(like.device)


def _size_of(prior: Callable[[], Any], latent: int | None) -> int:
    event = tuple(prior().event_shape)
    if len(event) != 1:
        raise ValueError(
            f"the prior has events of shape {event}, expected vectors of shape (latent,): end it "
            "with .to_event(1)."
        )
    if latent is not None and latent != event[0]:
        raise ValueError(f"latent={latent}, but the prior has {event[0]} dimensions.")
    return int(event[0])


@torch.no_grad()
def _probe(decoder: Decoder, prior: Callable[[], Any]) -> tuple[Any, bool]:
    """The output for two draws of z, and whether G takes z as images of one pixel."""
    reasons = []
    with torch.random.fork_rng(devices=[]), _evaluating(decoder):
        z = prior().sample((_PROBED,))
        for pixel in (False, True):
            try:
                output = decoder(z[..., None, None] if pixel else z)
            # A decoder of the user's may fail in any way.
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
                continue
            if isinstance(output, torch.distributions.Distribution) and not pixel:
                return output, False
            if isinstance(output, Tensor) and len(output) == _PROBED:
                return output, pixel
            got = type(output).__name__
            got = f"a tensor of shape {tuple(output.shape)}" if got == "Tensor" else f"a {got}"
            reasons.append(f"it returned {got}")
    raise ValueError(
        f"the decoder must map z of shape (rows, {z.shape[-1]}) to a tensor with as many rows or "
        f"to a distribution: {reasons[0]}. If that is the size of z, give latent=N or a prior."
    )


@contextmanager
def _evaluating(decoder: Decoder) -> Iterator[None]:
    """Evaluation mode inside, in which batch norm keeps its statistics."""
    modules = list(decoder.modules()) if isinstance(decoder, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
