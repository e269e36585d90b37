"""Variational autoencoders as Pyro programs: one latent layer, or a hierarchy of them."""

from ppl_vae.vae._hierarchy import BottomUp, HierarchicalVAE, Ladder
from ppl_vae.vae._vae import VAE, PriorGuide, without_encoder

__all__ = ["VAE", "BottomUp", "HierarchicalVAE", "Ladder", "PriorGuide", "without_encoder"]
