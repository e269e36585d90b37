"""Encoders that see corrupted data in training, and how data are corrupted."""

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.components import Kind
from ppl_vae.names import require_positive


@final
class MaskNoise(nn.Module):
    """``x * m``, each m_d 0 with probability ``fraction`` and else 1, drawn afresh for every x.

    Args:
        fraction: Share of cells that are set to 0.

    Raises:
        ValueError: If fraction is not in (0, 1).

    References:
        Vincent, Larochelle, Bengio and Manzagol, 2008, Extracting and composing robust features
        with denoising autoencoders.
    """

    def __init__(self, fraction: float = 0.3) -> None:
        super().__init__()
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, got {fraction}.")
        self.fraction = fraction

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Draw the mask and apply it; a missing cell (NaN) stays missing unless it is masked."""
        # Not a product: NaN times 0 is NaN.
        return torch.where(torch.rand_like(x) < self.fraction, 0.0, x)


@final
class GaussianNoise(nn.Module):
    """``x + sd e``, e ~ Normal(0, I), drawn afresh for every x.

    Args:
        sd: Standard deviation in the units of the data.

    Raises:
        ValueError: If sd is not positive.

    References:
        Vincent et al., 2010, Stacked denoising autoencoders.
    """

    def __init__(self, sd: float = 0.3) -> None:
        super().__init__()
        require_positive(sd=sd)
        self.sd = sd

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Draw the noise and add it."""
        return x + self.sd * torch.randn_like(x)


CORRUPTIONS = Kind("corruption", {"mask": MaskNoise, "gauss": GaussianNoise})
"""Corruptions of an encoder's input by name."""


@final
class CorruptedInput(nn.Module):
    """``q(z|c(x))`` in training mode, c a fresh random corruption; ``q(z|x)`` in evaluation mode.

    The decoder's target is the clean x. Around the point of an autoencoder this is a denoising
    autoencoder. Around a guide with a density it is the denoising VAE: given c(x) the guide is a
    density that does not depend on z otherwise, so that

        ``E_c E_q(z|c(x)) [log p(x, z) - log q(z|c(x))] <= log p(x)``

    and the same holds for any bound that holds for every guide, with all particles of a datum drawn
    under one corruption. Estimates of log p(x) take the clean input, in evaluation mode.

    Args:
        encoder: ``x -> Distribution``, or the inference of a hierarchy, called with (x, sample).
        corruption: ``x -> x``, random.

    References:
        Im, Ahn, Memisevic and Bengio, 2017, Denoising criterion for variational auto-encoding
        framework.
    """

    def __init__(self, encoder: Callable[..., Any], corruption: nn.Module) -> None:
        super().__init__()
        self.encoder, self.corruption = encoder, corruption

    def forward(self, x: Float[Tensor, "batch *event"], *more: Any) -> Any:
        """The encoder at the corrupted input, or at the clean one."""
        return self.encoder(self.corruption(x) if self.training else x, *more)
