"""Guides: modules whose ``forward(x)`` returns q(z|x), event shape (latent,)."""

from ppl_vae.guides.normal import DiagonalNormalEncoder

__all__ = ["DiagonalNormalEncoder"]
