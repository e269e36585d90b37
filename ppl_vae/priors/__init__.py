"""Priors: modules whose ``forward()`` returns p(z), event shape (latent,)."""

from ppl_vae.priors.normal import LearnedNormal, StandardNormal

__all__ = ["LearnedNormal", "StandardNormal"]
