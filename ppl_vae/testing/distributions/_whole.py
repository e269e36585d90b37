"""A subject with plain parts beside it: a whole model to draw from and to train."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._subject import Subject
from ppl_vae.vae import VAE

_FEATURES, _BATCH = 3, 8


@final
class _Decoder(nn.Module):
    """A normal likelihood of any latents, whole numbers too."""

    def __init__(self, latent: int, features: int) -> None:
        super().__init__()
        self.decoder = NormalDecoder(nn.Linear(latent, features))

    def forward(self, z: Tensor) -> Any:
        weight = next(self.decoder.parameters())
        return self.decoder(z.to(weight.dtype))


@final
class _PriorAsGuide(nn.Module):
    """q(z|x) = p(z): a guide on the support of any prior."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor) -> Any:
        return self.prior().expand((len(x),))


@final
class _GuideAsPrior(nn.Module):
    """p(z) = q(z|x) for one x: a prior on the support of any guide."""

    x: Tensor

    def __init__(self, encoder: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("x", x)

    def forward(self) -> Any:
        return self.encoder(self.x)


@final
@dataclass(frozen=True)
class Whole:
    """A subject in a whole model.

    Attributes:
        vae: The model, with plain parts beside the subject.
        x: Data for it, shape (batch, features).
    """

    vae: VAE
    x: Tensor

    @classmethod
    def of(cls, subject: Subject, seed: int) -> "Whole":
        """Around a copy of the subject, in its precision."""
        subject = subject.copied()
        with same_draws(seed), torch.no_grad():
            found = subject()
            draws = found.sample()
            whole = _AROUND[subject.part](subject, found, draws)
        vae, x = whole
        dtype = found.log_prob(draws).dtype
        return cls(vae.to(dtype).eval(), x.to(dtype))

    @property
    def programs(self) -> tuple[Any, Any]:
        """Model and guide."""
        return self.vae.model, self.vae.guide


def _around_prior(subject: Subject, found: Any, draw: Tensor) -> tuple[VAE, Tensor]:
    latent = draw.shape[-1]
    encoder: nn.Module
    if is_whole_space(found.support):
        encoder = DiagonalNormalEncoder(nn.Linear(_FEATURES, 2 * latent))
    else:
        encoder = _PriorAsGuide(subject.copied().module)
    x = torch.randn(_BATCH, _FEATURES)
    return VAE(subject.module, _Decoder(latent, _FEATURES), encoder), x


def _around_likelihood(subject: Subject, found: Any, draw: Tensor) -> tuple[VAE, Tensor]:
    latent = subject.rows.shape[-1]
    encoder = DiagonalNormalEncoder(nn.Linear(draw.shape[-1], 2 * latent))
    return VAE(StandardNormalPrior(latent), subject.module, encoder), draw


def _around_guide(subject: Subject, found: Any, draw: Tensor) -> tuple[VAE, Tensor]:
    x, latent = subject.rows, draw.shape[-1]
    prior: nn.Module
    if is_whole_space(found.support):
        prior = StandardNormalPrior(latent)
    else:
        prior = _GuideAsPrior(subject.copied().module, x[:1])
    decoder = _Decoder(latent, x.shape[-1])
    return VAE(prior, decoder, subject.module), x


_AROUND = {"prior": _around_prior, "likelihood": _around_likelihood, "guide": _around_guide}


def is_whole_space(support: Any) -> bool:
    """Whether a support is all real vectors."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
